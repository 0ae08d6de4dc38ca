"""LLaVA-HR and Mini-Gemini-HD from tiny files in their released names: the same logits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.families.catalog import REGISTRY
from tests import released_tools as tools
from tests.released_tools import made, write, write_tower
from tests.test_convert_hr_keys import llava_hr, mini_gemini
from tests.two_towers_tools import build, pixels

# Released beginnings and those in memory, the longest first; ConvNeXt's inner names below.
BEGIN = {
    "model.vision_tower.fast_vision_tower.vision_tower.vision_model.": "model.vision_tower.fast.",
    "model.vision_tower.slow_vision_tower.vision_tower.": "SLOW.",
    "model.vision_tower.align_stages_latent.": "model.vision_tower.adapters.",
    "model.vision_tower.align_stages.0.": "model.vision_tower.fusion.",
    "model.vision_tower.vision_tower.vision_model.": "model.vision_tower.fast.",
    "model.vision_tower_aux.vision_": "SLOW.",
    "model.vlm_uni_query_projector.": "model.vision_tower.mining.query.",
    "model.vlm_uni_aux_projector.": "model.vision_tower.mining.key.",
    "model.vlm_uni_val_projector.": "model.vision_tower.mining.value.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "lm_head.": "lm_head.",
    "model.": "model.language_model.",
}
SLOW = (
    (r"SLOW\.stem\.0", "model.vision_tower.slow.embeddings.patch_embeddings"),
    (r"SLOW\.stem\.1", "model.vision_tower.slow.embeddings.layernorm"),
    (r"SLOW\.stages", "model.vision_tower.slow.encoder.stages"),
    (r"(stages.*)\.downsample\.", r"\1.downsampling_layer."),
    (r"(stages.*)\.blocks\.(\d+)\.(gamma|weight)$", r"\1.layers.\2.layer_scale_parameter"),
    (r"(stages.*)\.blocks\.", r"\1.layers."),
    (r"(slow.*)\.conv_dw\.", r"\1.dwconv."),
    (r"(slow.*layers.*)\.norm\.", r"\1.layernorm."),
    (r"(slow.*)\.mlp\.fc(\d)\.", r"\1.pwconv\2."),
)
TOWERS = {
    "llava_hr": {
        "model_type": "llava",
        "vision_tower_slow": "convnext_large_mlp.clip_laion2b_ft_320",
        "input_image_size": 128,
        "freeze_vision": False,
        "is_multipath_encoder": True,
    },
    "mini_gemini_hd": {
        "model_type": "mgm",
        "mm_vision_tower_aux": "model_zoo/openclip-convnext-large-d-320",
        "mm_hidden_size_aux": 28,
        "image_size_aux": 128,
        "image_grid": 2,
        "image_global": True,
    },
}


def memory(name: str) -> str:
    begin = next(one for one in BEGIN if name.startswith(one))
    name = BEGIN[begin] + name.removeprefix(begin)
    for before, after in SLOW:
        name = re.sub(before, after, name)
    return name


def released(kind: str, model: Any) -> dict[str, Tensor]:
    state = model.state_dict()
    names = llava_hr() if kind == "llava_hr" else mini_gemini()
    rows = ("model.embed_tokens.weight", "lm_head.weight")
    return {n: state[memory(n)][: tools.WORDS if n in rows else None] for n in names}


def model_of(kind: str) -> Any:
    text = {**REGISTRY[kind].tiny()["text_config"], "vocab_size": tools.ROWS}
    text |= {"max_position_embeddings": 512, "rms_norm_eps": 1e-5}
    more = {"position_size": 16} if kind == "llava_hr" else {}
    changes = {"text_config": text, "image_token_index": tools.IMAGE, **more}
    return build(kind, dtype=torch.float32, **changes)


def config(kind: str, **more: Any) -> dict[str, Any]:
    clip = {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    return tools.config(6, **{**clip, **TOWERS[kind], **more})


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("kind", list(TOWERS))
def test_logits_are_those_of_the_same_weights(tmp_path: Path, kind: str, form: str) -> None:
    from harness.model.catalog import load_model

    model = model_of(kind)
    source = write(tmp_path / "src", config(kind), released(kind, model), form)
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip", blocks=4))
    session = load_model(str(out), dtype="float32", device="cpu")
    count = 16 if kind == "llava_hr" else 80
    ids = torch.tensor([[1, 5, *[tools.IMAGE] * count, 7, 8]])
    given = {"input_ids": ids, "pixel_values": pixels(model, 1)}
    with torch.no_grad():
        found, wanted = session.model(**given).logits, model(**given).logits
    torch.testing.assert_close(found[..., : tools.WORDS], wanted[..., : tools.WORDS])
    image = session.processor(text="<image>", images=_picture(), return_tensors="pt")
    assert image["pixel_values"].shape == (1, 3, 128, 128)
    assert int((image["input_ids"] == tools.IMAGE).sum()) == count


def _picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (90, 60), (200, 30, 30))


@pytest.mark.parametrize("kind", list(TOWERS))
def test_gamma_on_them_becomes_a_checkpoint_beside_the_model(tmp_path: Path, kind: str) -> None:
    from harness.model.catalog import load_model
    from methods import parse

    model = model_of(kind)
    tensors = released(kind, model)
    router = torch.randn(2, tools.WIDTH)
    tensors |= {f"model.layers.{i}.router.weight": router for i in (3, 4)}
    parent = "mod_llava_llama" if kind == "llava_hr" else "mod_mgm"
    mod = {"mod_enable": True, "mod_layers_idx": [3, 4], "capacity_factor": 0.5}
    source = write(tmp_path / "src", config(kind, model_type=parent, mod=mod), tensors, "bin")
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip", blocks=4))
    session = load_model(str(out), dtype="float32", device="cpu")
    loaded = session.weights(out / "gamma", parse("gamma"))
    assert torch.equal(loaded.modules.state_dict()["router.weight"], router)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    from harness.common.errors import UsageError

    tensors = released("llava_hr", model_of("llava_hr"))
    del tensors["model.vision_tower.align_stages.0.slow_proj.bias"]
    source = write(tmp_path / "src", config("llava_hr"), tensors, "bin")
    with pytest.raises(UsageError, match=r"fusion\.slow_proj\.bias"):
        made(source, tmp_path / "out", write_tower(tmp_path / "clip", blocks=4))
