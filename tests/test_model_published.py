"""Published MQT-LLaVA weights: a small file in the original layout, converted and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import methods
from harness.common.errors import UsageError
from harness.engine import routed
from harness.model.checkpoints import load_checkpoint
from harness.model.published import convert, main
from methods import resampler
from tests.tiny import VOCAB, batch, tiny_llava

SAMPLER = "model.query_abstractor."
QUERIES, WIDTH = 9, 16


def published(model: Any, words: int = VOCAB) -> dict[str, Tensor]:
    """Random weights under the names of the released code, for a model like ``model``."""
    draw = torch.Generator().manual_seed(9)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.3

    own = {
        "query": noise(QUERIES, WIDTH),
        "pos_embed": resampler.sincos(3, WIDTH).half(),
        "proj": noise(WIDTH, WIDTH),
        "attn.in_proj_weight": noise(3 * WIDTH, WIDTH),
        "attn.in_proj_bias": noise(3 * WIDTH),
        "attn.out_proj.weight": noise(WIDTH, WIDTH),
        "attn.out_proj.bias": noise(WIDTH),
    }
    for name in ("ln_q", "ln_k", "ln_v"):
        own |= {f"{name}.weight": noise(WIDTH), f"{name}.bias": noise(WIDTH)}
    tensors = {SAMPLER + name: value for name, value in own.items()}
    for name, value in model.named_parameters():
        old = name.replace("model.language_model.", "model.")
        if name.startswith(("model.language_model.", "lm_head.")):
            short = words if name.endswith(("embed_tokens.weight", "lm_head.weight")) else None
            tensors[old] = noise(*value.shape)[:short]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = noise(2)
    tensors["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"] = noise(WIDTH)
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "m.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama", **config}))
    return folder


def test_the_converted_weights_run_as_the_published_layout_says(tmp_path: Path) -> None:
    model = tiny_llava()
    tensors = published(model)
    convert(write(tmp_path / "src", tensors), tmp_path / "out", model)
    method = methods.parse("mqt:m=5")
    loaded = load_checkpoint(tmp_path / "out", model, method)
    assert loaded.method == methods.parse(f"mqt:m=5:queries={QUERIES}")
    own = {k.removeprefix(SAMPLER): v for k, v in tensors.items() if k.startswith(SAMPLER)}
    attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
    attention.load_state_dict(
        {k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")}
    )
    inputs = batch(model, [(3, [16], 4)])

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = own[f"{name}.weight"], own[f"{name}.bias"]
        return nn.functional.layer_norm(x, (WIDTH,), weight, bias, 1e-6)

    with torch.no_grad(), loaded.applied(model):
        tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        states = tower.hidden_states[-2][:, 1:]
        table = resampler.places(QUERIES, 4, WIDTH)
        query = norm(own["query"] + table[0], "ln_q")[None]
        mixed = attention(query, norm(table[1], "ln_k")[None], norm(states, "ln_v"))[0]
        tokens = (mixed @ own["proj"])[0, :5]
        ids = inputs["input_ids"][0]
        words = torch.nn.functional.embedding(ids, tensors["model.embed_tokens.weight"])
        embeds = torch.cat([words[:3], tokens, words[-4:]])[None]
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        wanted = hidden[:, -1] @ tensors["lm_head.weight"].T
        with routed(model, loaded.method, loaded.modules):
            found = model(**inputs).logits[:, -1]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_spare_rows_of_the_vocabulary_stay_the_base_models(tmp_path: Path) -> None:
    model = tiny_llava()
    tensors = published(model, words=VOCAB - 4)
    convert(write(tmp_path / "src", tensors), tmp_path / "out", model)
    full = load_checkpoint(tmp_path / "out", model, methods.parse("mqt")).full
    head = full["lm_head.weight"]
    assert torch.equal(head[:-4], tensors["lm_head.weight"])
    assert torch.equal(head[-4:], model.lm_head.weight[-4:])
    assert not any("vision_tower" in name for name in full)


def spoil(what: str, tensors: dict[str, Tensor]) -> None:
    if what == "missing":
        del tensors[SAMPLER + "ln_k.bias"]
    elif what == "unknown":
        tensors[SAMPLER + "ln_post.weight"] = torch.ones(WIDTH)
    elif what == "stray":
        tensors["model.mm_projector.0.weight"] = torch.ones(2, 2)
    elif what == "layer":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif what == "shape":
        tensors[SAMPLER + "proj"] = torch.ones(WIDTH, WIDTH + 1)
    else:
        tensors[SAMPLER + "pos_embed"] = torch.zeros(QUERIES, WIDTH)


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("missing", "lacks model.query_abstractor.ln_k.bias"),
        ("unknown", "has model.query_abstractor.ln_post.weight"),
        ("stray", "model.mm_projector.0.weight"),
        ("layer", "lacks model.language_model.layers.1.mlp.up_proj.weight"),
        ("shape", "proj.weight"),
        ("table", "pos_embed"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, what: str, word: str) -> None:
    model = tiny_llava()
    tensors = published(model)
    spoil(what, tensors)
    with pytest.raises(UsageError, match=word) as caught:
        convert(write(tmp_path / "src", tensors), tmp_path / "out", model)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tuned_tower_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    model = tiny_llava()
    tuned = write(tmp_path / "tuned", published(model), unfreeze_mm_vision_tower=True)
    with pytest.raises(UsageError, match="vision tower"):
        convert(tuned, tmp_path / "out", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"config\.json"):
        convert(tmp_path / "empty", tmp_path / "out", model)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="no weights"):
        convert(tmp_path / "empty", tmp_path / "out", model)
    assert main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
