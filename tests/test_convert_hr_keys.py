"""Released names of LLaVA-HR and Mini-Gemini-HD: written out by hand, each one in its place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.common.errors import UsageError
from harness.families.catalog import KNOWN, completed
from harness.model.convert_hr_keys import (
    LEFT_OUT,
    llava_hr_fields,
    llava_hr_place,
    mini_gemini_fields,
    mini_gemini_place,
)
from tests.two_towers_tools import build

DEPTHS = (1, 1, 2, 1)  # of the tiny models' ConvNeXt
WB = ("weight", "bias")
CONVNEXT = "model.vision_tower.slow_vision_tower.vision_tower."


def decoder(layers: int) -> list[str]:
    names = ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"]
    for i in range(layers):
        here = f"model.layers.{i}."
        names += [f"{here}self_attn.{part}_proj.weight" for part in "qkvo"]
        names += [f"{here}mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
        names += [
            f"{here}{norm}.weight" for norm in ("input_layernorm", "post_attention_layernorm")
        ]
    return [*names, *(f"model.mm_projector.{i}.{kind}" for i in (0, 2) for kind in WB)]


def clip(prefix: str, layers: int) -> list[str]:
    names = ["embeddings.class_embedding", "embeddings.patch_embedding.weight"]
    names += ["embeddings.position_embedding.weight"]
    names += [f"{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in WB]
    for i in range(layers):
        parts = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
        parts += ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
        names += [f"encoder.layers.{i}.{part}.{kind}" for part in parts for kind in WB]
    return [prefix + name for name in names]


def convnext(prefix: str, scale: str) -> list[str]:
    names = [f"stem.{i}.{kind}" for i in (0, 1) for kind in WB]
    for stage, depth in enumerate(DEPTHS):
        if stage:
            names += [f"stages.{stage}.downsample.{i}.{kind}" for i in (0, 1) for kind in WB]
        for block in range(depth):
            here = f"stages.{stage}.blocks.{block}."
            names.append(here + scale)
            parts = ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")
            names += [f"{here}{part}.{kind}" for part in parts for kind in WB]
    return [prefix + name for name in names]


def llava_hr() -> list[str]:
    tower = "model.vision_tower."
    names = decoder(6) + clip(f"{tower}fast_vision_tower.vision_tower.vision_model.", 4)
    names += convnext(f"{tower}slow_vision_tower.vision_tower.", "weight")
    parts = ("slow_conv", "slow_proj", "fast_conv", "fast_proj", "gate.0", "gate.2")
    for i in range(3):
        names += [f"{tower}align_stages_latent.{i}.{part}.{kind}" for part in parts for kind in WB]
    return names + [
        f"{tower}align_stages.0.{part}.{kind}" for part in ("fast_proj", "slow_proj") for kind in WB
    ]


def mini_gemini() -> list[str]:
    names = decoder(6) + clip("model.vision_tower.vision_tower.vision_model.", 4)
    names += convnext("model.vision_tower_aux.vision_", "gamma")
    return names + [
        f"model.vlm_uni_{part}_projector.{i}.{kind}"
        for part in ("query", "aux", "val")
        for i in (0, 1)
        for kind in WB
    ]


@pytest.mark.parametrize(
    ("kind", "names", "place"),
    [
        ("llava_hr", llava_hr(), llava_hr_place),
        ("mini_gemini_hd", mini_gemini(), mini_gemini_place),
    ],
)
def test_every_released_name_has_one_place_and_every_place_a_name(
    kind: str, names: list[str], place: Any
) -> None:
    found = [place(name) for name in names]
    state = build(kind).state_dict()
    assert len(set(found)) == len(names)
    assert set(found) == set(state)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (llava_hr_place, "model.vision_tower.slow_vision_tower.vision_tower.head.norm.weight"),
        (llava_hr_place, "model.layers.3.self_attn.rotary_emb.inv_freq"),
        (
            llava_hr_place,
            "model.vision_tower.fast_vision_tower.vision_tower.vision_model.embeddings.position_ids",
        ),
        (mini_gemini_place, "model.layers.3.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_what_is_stored_and_not_read(place: Any, name: str) -> None:
    assert place(name) == LEFT_OUT


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (llava_hr_place, "model.layers.3.router.weight"),  # γ-MoD's, the method's own
        (mini_gemini_place, "model.layers.3.router.weight"),
        (llava_hr_place, CONVNEXT + "stages.0.downsample.0.weight"),
        (llava_hr_place, CONVNEXT + "stages.1.blocks.0.grn.weight"),
        (mini_gemini_place, "model.vlm_uni_other_projector.0.weight"),
        (mini_gemini_place, "model.image_newline"),
        (llava_hr_place, "model.vision_tower.vision_tower.vision_model.post_layernorm.weight"),
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_layout(place: Any, name: str) -> None:
    assert place(name) is None


HR = {
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "vision_tower_slow": "convnext_large_mlp.clip_laion2b_ft_320",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "input_image_size": 1024,
    "freeze_vision": False,
}
HD = {
    "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
    "mm_vision_tower_aux": "model_zoo/OpenAI/openclip-convnext-large-d-320-laion2B-ft-soup",
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_hidden_size_aux": 2880,
    "image_size_aux": 1536,
    "image_grid": 2,
    "image_global": True,
}


def test_released_configs_give_the_published_sizes() -> None:
    stored = llava_hr()
    for changes, name in (
        ({}, "llava-hr-7b"),
        ({"vision_tower_slow": "convnext_xxlarge.clip_laion2b_soup"}, "llava-hr-x-13b"),
    ):
        known = KNOWN[name]
        made = {
            **llava_hr_fields({**HR, **changes}, stored, "x"),
            "text_config": known["text_config"],
        }
        assert completed(made, "x") == completed(known, "x")
    known = KNOWN["mini-gemini-hd-7b"]
    made = {**mini_gemini_fields(HD, "x"), "text_config": known["text_config"]}
    assert completed(made, "x") == completed(known, "x")


def test_stage_1_has_no_adapters() -> None:
    frozen = {**HR, "freeze_vision": True, "input_image_size": 384}
    made = llava_hr_fields(frozen, [], "x")
    assert made["vision_config"]["image_size"] == 336 and made["adapters"] is False


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vision_tower_slow": "eva02"}, "vision_tower_slow is 'eva02', expected a convnext_large"),
        ({"vision_tower_slow": None}, "vision_tower_slow is missing"),
        ({"input_image_size": 1000}, "input_image_size is 1000, expected a multiple of 32"),
        ({"mm_vision_tower": "siglip"}, "expected clip-vit-large-patch14-336"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'"),
        ({"adapters": 0}, "freeze_vision is false, but no adapters"),
    ],
)
def test_other_fields_are_refused_in_a_line(changes: dict[str, Any], words: str) -> None:
    names = [] if "adapters" in changes else llava_hr()
    with pytest.raises(UsageError) as error:
        llava_hr_fields({**HR, **changes}, names, "folder")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("field", ["image_global", "mm_hidden_size_aux", "image_grid"])
def test_mini_gemini_fields_likewise(field: str) -> None:
    with pytest.raises(UsageError, match=field):
        mini_gemini_fields({**HD, field: None}, "folder")


def test_timms_convnext_under_these_names_is_the_same_function() -> None:
    """The published towers are timm's: all maps agree in float64, with weights carried over."""
    timm = pytest.importorskip("timm.models.convnext")
    model = build("mini_gemini_hd")
    torch.manual_seed(0)
    theirs = timm.ConvNeXt(depths=DEPTHS, dims=(4, 6, 8, 10), num_classes=0).double().eval()
    ours = model.model.vision_tower.slow
    state = {}
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            place = mini_gemini_place("model.vision_tower_aux.vision_" + name)
            assert place is not None
            if place != LEFT_OUT:
                wide = torch.randn_like(value) * 0.3
                value.copy_(wide)
                state[place.removeprefix("model.vision_tower.slow.")] = wide
        ours.load_state_dict(state)
        pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
        _, maps = theirs.forward_intermediates(pixels, norm=False)
        from harness.families.two_towers_model import stages

        for mine, yours in zip(stages(ours, pixels), maps[-4:], strict=True):
            torch.testing.assert_close(mine, yours, rtol=0, atol=1e-10)
