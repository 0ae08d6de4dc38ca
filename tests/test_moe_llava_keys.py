"""MoE-LLaVA's released names, written down by hand: every tensor has its place, or is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.common.errors import UsageError
from harness.families.catalog import shape_from_config
from harness.families.moe_llava_keys import joined, place, released_config, sources_of
from tests.moe_tools import tiny_moe

OPENCHAT: dict[str, Any] = {
    "model_type": "moe_llava_mistral",
    "architectures": ["MoELLaVAMistralForCausalLM"],
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_act": "silu",
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "sliding_window": None, "vocab_size": 32002, "bos_token_id": 1, "eos_token_id": 32000,
    "tie_word_embeddings": False,
    "mm_image_tower": "openai/clip-vit-large-patch14-336", "mm_video_tower": None,
    "image_projector_type": "mlp2x_gelu", "mm_hidden_size": 1024, "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
    "moe": {
        "moe_enable": True, "moe_mode": "sparse", "moe_layers_idx": list(range(0, 32, 2)),
        "ep_size": 1, "num_experts": [4] * 16, "top_k_experts": 2, "capacity_factor": 1.0,
        "eval_capacity_factor": 2.0, "min_capacity": 0, "use_residual": False,
        "router_aux_loss_coef": 0.01,
    },
}  # fmt: skip
EPOCH: dict[str, Any] = {
    **{k: v for k, v in OPENCHAT.items() if k not in ("rms_norm_eps", "sliding_window")},
    "model_type": "moe_llava_stablelm", "hidden_size": 2048, "intermediate_size": 5632,
    "num_hidden_layers": 24, "num_key_value_heads": 32, "norm_eps": 1e-05, "rope_pct": 0.25,
    "use_qkv_bias": True, "vocab_size": 100352,
}  # fmt: skip
EPOCH["moe"] = {**OPENCHAT["moe"], "moe_layers_idx": [0, 2], "num_experts": [4, 4]}

DEEP = "model.layers.0.mlp.deepspeed_moe."
BY_HAND = [
    (DEEP + "gate.wg.weight", ("model.language_model.layers.0.mlp.gate.weight", None, None)),
    (
        DEEP + "experts.deepspeed_experts.3.gate_proj.weight",
        ("model.language_model.layers.0.mlp.experts.gate_up_proj", 3, 0),
    ),
    (
        DEEP + "experts.deepspeed_experts.0.up_proj.weight",
        ("model.language_model.layers.0.mlp.experts.gate_up_proj", 0, 1),
    ),
    (
        DEEP + "experts.deepspeed_experts.1.down_proj.weight",
        ("model.language_model.layers.0.mlp.experts.down_proj", 1, None),
    ),
    (
        "model.layers.31.mlp.down_proj.weight",
        ("model.language_model.layers.31.mlp.down_proj.weight", None, None),
    ),
    (
        "model.layers.12.self_attn.k_proj.bias",
        ("model.language_model.layers.12.self_attn.k_proj.bias", None, None),
    ),
    (
        "model.layers.1.post_attention_layernorm.weight",
        ("model.language_model.layers.1.post_attention_layernorm.weight", None, None),
    ),
    ("model.embed_tokens.weight", ("model.language_model.embed_tokens.weight", None, None)),
    ("model.norm.bias", ("model.language_model.norm.bias", None, None)),
    ("lm_head.weight", ("lm_head.weight", None, None)),
    (
        "model.image_tower.image_tower.vision_model.encoder.layers.5.mlp.fc1.bias",
        ("model.vision_tower.encoder.layers.5.mlp.fc1.bias", None, None),
    ),
    (
        "model.image_tower.image_tower.vision_model.pre_layrnorm.weight",
        ("model.vision_tower.pre_layrnorm.weight", None, None),
    ),
    (
        "model.mm_projector.image_spatial_proj.0.weight",
        ("model.multi_modal_projector.linear_1.weight", None, None),
    ),
    (
        "model.mm_projector.image_spatial_proj.2.bias",
        ("model.multi_modal_projector.linear_2.bias", None, None),
    ),
    ("model.image_tower.image_tower.vision_model.embeddings.position_ids", None),
    ("model.layers.3.self_attn.rotary_emb.inv_freq", None),
]


@pytest.mark.parametrize(("key", "where"), BY_HAND)
def test_a_released_name_has_its_place(key: str, where: Any) -> None:
    assert place(key) == where


@pytest.mark.parametrize(
    "key",
    [
        "model.layers.0.mlp.c_proj.weight",
        "model.layers.0.mlp.deepspeed_moe.experts.deepspeed_experts.0.fc1.weight",
        "model.layers.0.mlp.deepspeed_moe.gate.wg.bias",
        "model.layers.0.router.weight",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
    ],
)
def test_another_layout_s_name_is_refused(key: str) -> None:
    with pytest.raises(UsageError, match=f"'{key}' is no tensor of MoE-LLaVA's layout"):
        place(key)


def released(model: Any, layers: int) -> dict[str, Tensor]:
    """A tiny model's tensors as a release would have them: names put together here, by hand."""
    own = dict(model.state_dict())
    found: dict[str, Tensor] = {}
    for i in range(layers):
        here, there = f"model.layers.{i}.", f"model.language_model.layers.{i}."
        if i % 2 == 0:
            both = own.pop(there + "mlp.experts.gate_up_proj")
            down = own.pop(there + "mlp.experts.down_proj")
            for e in range(4):
                name = f"{here}mlp.deepspeed_moe.experts.deepspeed_experts.{e}."
                found[name + "gate_proj.weight"] = both[e][: both.shape[1] // 2].clone()
                found[name + "up_proj.weight"] = both[e][both.shape[1] // 2 :].clone()
                found[name + "down_proj.weight"] = down[e].clone()
            found[here + "mlp.deepspeed_moe.gate.wg.weight"] = own.pop(there + "mlp.gate.weight")
        for name in [name for name in own if name.startswith(there)]:
            found[here + name.removeprefix(there)] = own.pop(name)
    for name in list(own):
        value = own.pop(name)
        if name.startswith("model.vision_tower."):
            tail = name.removeprefix("model.vision_tower.")
            found["model.image_tower.image_tower.vision_model." + tail] = value
        elif name.startswith("model.multi_modal_projector.linear_"):
            number, part = name.removeprefix("model.multi_modal_projector.linear_").split(".")
            place_in_file = {"1": "0", "2": "2"}[number]
            found[f"model.mm_projector.image_spatial_proj.{place_in_file}.{part}"] = value
        elif name != "lm_head.weight":
            found["model." + name.removeprefix("model.language_model.")] = value
        else:
            found[name] = value
    return found


@pytest.mark.parametrize("text", ["mistral", "stablelm"])
def test_a_whole_model_comes_back_from_its_released_names(text: str) -> None:
    model = tiny_moe(text)
    tensors = released(model, layers=4)
    made = {
        target: joined(target, [tensors[key] for key in keys], experts=4)
        for target, keys in sources_of(tensors, experts=4).items()
    }
    own = model.state_dict()
    assert made.keys() == own.keys()
    assert all(torch.equal(made[name], own[name]) for name in own)


def test_missing_and_further_experts_are_named() -> None:
    keys = list(released(tiny_moe(), layers=4))
    lost = "model.layers.2.mlp.deepspeed_moe.experts.deepspeed_experts.1.up_proj.weight"
    with pytest.raises(UsageError, match=r"layers\.2\.mlp.*: expert 1 of 4 has no up_proj"):
        sources_of([key for key in keys if key != lost], experts=4)
    with pytest.raises(UsageError, match=r"deepspeed_experts\.2\..*the config says 2 experts"):
        sources_of(keys, experts=2)
    with pytest.raises(UsageError, match="different shapes"):
        joined("x", [torch.zeros(2, 3), torch.zeros(2, 4)], experts=2)


# --- configs
def test_a_released_config_has_the_published_sizes() -> None:
    made = released_config(OPENCHAT, "release", vocab=32064, token=32002)
    shape = shape_from_config(made, "release")
    assert (shape.hidden, shape.ffn, shape.kv_heads, shape.vocab) == (4096, 14336, 8, 32064)
    assert shape.mixed == (True, False) * 16 and made["image_token_index"] == 32002
    epoch = released_config(EPOCH, "release", vocab=100416, token=100352)["text_config"]
    assert epoch["partial_rotary_factor"] == 0.25 and epoch["use_qkv_bias"] is True
    assert epoch["layer_norm_eps"] == 1e-05 and epoch["num_hidden_layers"] == 24


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "moe_llava_phi"}, "those that are read are moe_llava_llama"),
        ({"moe": None}, "no 'moe' in its config"),
        ({"moe": {**OPENCHAT["moe"], "top_k_experts": 1}}, "moe.top_k_experts is 1"),
        ({"moe": {**OPENCHAT["moe"], "use_residual": True}}, "use_residual True"),
        ({"moe": {**OPENCHAT["moe"], "eval_capacity_factor": 1.5}}, "drops tokens below 2"),
        ({"moe": {**OPENCHAT["moe"], "num_experts": [4] * 15 + [8]}}, "one and the same number"),
        ({"mm_image_tower": "google/siglip-so400m-patch14-384"}, "clip-vit-large-patch14-336"),
        ({"image_projector_type": "simple_in0_out0"}, "image_projector_type is"),
        ({"sliding_window": 4096}, "sliding-window attention"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_what_is_not_read_is_refused_in_a_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        released_config({**OPENCHAT, **change}, "release", vocab=32064, token=32002)
    assert "\n" not in str(error.value)
