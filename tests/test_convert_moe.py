"""MoE-LLaVA from tiny files in its released names, written down by hand: the same logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.common.errors import UsageError
from harness.families.catalog import shape_from_config
from harness.families.towers import CLIP_L_336
from harness.model.convert.moe_llava_keys import released_config
from tests import released_tools as tools
from tests.released_tools import made, prompt, write, write_tower

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
MOE = {**OPENCHAT["moe"], "moe_layers_idx": [0, 2], "num_experts": [4, 4]}
EPOCH["moe"] = MOE

STORED = "model.image_tower.image_tower.vision_model."
EXPERT = "model.layers.2.mlp.deepspeed_moe.experts.deepspeed_experts.1."
# Of a decoder's config beside its sizes: in the release, and in the library.
THETA = {"rope_theta": 5000.0, "rope_type": "default"}
DECODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama": (
        {"rope_theta": 5000.0, "rms_norm_eps": 1e-4},
        {"rope_parameters": THETA, "rms_norm_eps": 1e-4},
    ),
    "mistral": (
        {"rope_theta": 5000.0, "rms_norm_eps": 1e-4, "sliding_window": None},
        {"rope_parameters": THETA, "rms_norm_eps": 1e-4, "sliding_window": None},
    ),
    "stablelm": (
        {"rope_theta": 5000.0, "norm_eps": 1e-4, "rope_pct": 0.5, "use_qkv_bias": True},
        {
            "rope_parameters": {**THETA, "partial_rotary_factor": 0.5},
            "layer_norm_eps": 1e-4,
            "use_qkv_bias": True,
        },
    ),
}


def model_of(kind: str) -> Any:
    """A random model in memory: experts in layers 0 and 2, no parameter at its default."""
    from harness.common.torchvision_ops import declare_missing_ops
    from harness.families.catalog import FAMILIES

    declare_missing_ops()
    family = FAMILIES["moe_llava"]
    text = {
        "model_type": kind, "hidden_size": tools.WIDTH, "intermediate_size": tools.FFN,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": tools.ROWS, "max_position_embeddings": 512, **DECODERS[kind][1],
    }  # fmt: skip
    clip = {
        **tools.TOWER, "model_type": "clip_vision_model", "num_hidden_layers": tools.BLOCKS,
        "image_size": tools.SIDE,
    }  # fmt: skip
    config = family.config_class()(
        text_config=text, vision_config=clip, image_token_index=tools.IMAGE, image_seq_length=16
    )
    model = family.model_class()._from_config(config, dtype=torch.float32)
    draw = tools.Draw(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(draw(*value.shape) + ("norm" in name and name.endswith("weight")))
    return model.eval()


def config(kind: str = "mistral", **more: Any) -> dict[str, Any]:
    """A release's config at these sizes; None takes a field away."""
    sizes = {
        "model_type": f"moe_llava_{kind}", "hidden_size": tools.WIDTH, "num_hidden_layers": 4,
        "intermediate_size": tools.FFN, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": tools.WORDS, "max_position_embeddings": 512, "eos_token_id": 2,
        "image_aspect_ratio": "pad",
        "moe": MOE,
    }  # fmt: skip
    plain = {k: v for k, v in OPENCHAT.items() if k != "rms_norm_eps"}
    said = {**plain, **sizes, **DECODERS[kind][0], **more}
    return {k: v for k, v in said.items() if v is not None or k == "sliding_window"}


def released(model: Any, layers: int = 4) -> dict[str, Tensor]:
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
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        found[name] = found[name][: tools.WORDS]
    return found


@pytest.fixture(scope="module")
def mistral() -> dict[str, Tensor]:
    return released(model_of("mistral"))


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("kind", list(DECODERS))
def test_logits_are_those_of_the_same_weights(tmp_path: Path, kind: str, form: str) -> None:
    from harness.model.catalog import load_model

    model = model_of(kind)
    tensors = released(model)
    tensors[STORED + "embeddings.position_ids"] = torch.arange(17)[None]
    tensors["model.layers.3.self_attn.rotary_emb.inv_freq"] = torch.ones(2)
    source = write(tmp_path / "src", config(kind), tensors, form)
    # The tower's folder gives its sizes; its weights are other ones and must not be taken.
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    session = load_model(str(out), dtype="float32", device="cpu")
    given = prompt()
    with torch.no_grad():
        found, wanted = session.model(**given).logits, model(**given).logits
    torch.testing.assert_close(found[..., : tools.WORDS], wanted[..., : tools.WORDS])
    assert (found.argmax(-1) < tools.WORDS).all()  # a spare row never wins
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the cat"}]}]
    text = session.processor.apply_chat_template(turn, add_generation_prompt=True)
    assert text.startswith("A chat between") and text.endswith("USER: <image>\nthe cat ASSISTANT:")


def test_a_tower_that_is_not_stored_is_taken_from_its_folder(
    tmp_path: Path, mistral: dict[str, Tensor]
) -> None:
    tensors = {k: v for k, v in mistral.items() if not k.startswith(STORED)}
    source = write(tmp_path / "src", config(), tensors, "bin")
    with pytest.raises(UsageError, match=r"weights of its vision tower.*--tower"):
        made(source, tmp_path / "out")
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip", seed=5))
    name = "encoder.layers.1.mlp.fc1.weight"
    found = tools.loaded(out).model.vision_tower.get_parameter(name)
    assert torch.equal(found, tools.tower(tools.Draw(5), "", "clip")[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({EXPERT + "up_proj.weight": None}, rf"1 tensors are missing: {EXPERT}up_proj"),
        ({EXPERT + "down_proj.weight": None}, rf"1 tensors are missing: {EXPERT}down_proj"),
        (
            {EXPERT.replace("experts.1.", "experts.4.") + "up_proj.weight": torch.zeros(32, 16)},
            r"says 4 experts, and there are .*experts\.4\.up_proj",
        ),
        (
            {EXPERT + "gate_proj.weight": torch.zeros(16, 32)},
            rf"{EXPERT}gate_proj.weight is \[16, 32\] and should be \[32, 16\]",
        ),
        (
            {"model.layers.0.mlp.deepspeed_moe.gate.wg.weight": torch.zeros(3, 16)},
            r"gate\.wg\.weight is \[3, 16\] and should be \[4, 16\]",
        ),
        (
            {"model.layers.0.mlp.deepspeed_moe.gate.wg.weight": None},
            r"1 parameters are in no tensor.*layers\.0\.mlp\.gate\.weight",
        ),
        ({"model.norm.weight": None}, r"1 parameters are in no tensor.*norm\.weight"),
        (
            {EXPERT.replace("layers.2", "layers.1") + "up_proj.weight": torch.zeros(32, 16)},
            r"1 tensors that its layout has not: .*layers\.1\.mlp\.deepspeed",
        ),
        (
            {"model.layers.2.mlp.up_proj.weight": torch.zeros(32, 16)},
            r"1 tensors that its layout has not: model\.layers\.2\.mlp\.up_proj",
        ),
        (
            {EXPERT + "fc1.weight": torch.zeros(32, 16)},
            r"1 tensors that its layout has not: .*experts\.1\.fc1",
        ),
        (
            {"model.layers.0.mlp.deepspeed_moe.gate.wg.bias": torch.zeros(4)},
            r"1 tensors that its layout has not: .*wg\.bias",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, mistral: dict[str, Tensor], change: dict[str, Any], said: str
) -> None:
    tensors = {k: v for k, v in {**mistral, **change}.items() if v is not None}
    source = write(tmp_path / "src", config(), tensors, "one.safetensors")
    with pytest.raises(UsageError, match=said) as error:
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


# --- configs
def test_a_release_is_known_before_it_is_converted(
    tmp_path: Path, mistral: dict[str, Tensor]
) -> None:
    from harness.model.convert.use import config_behind

    source = write(tmp_path / "src", config(), mistral, "bin")
    found = config_behind(str(source))
    assert found["model_type"] == "moe_llava" and found["moe_layers_idx"] == [0, 2]
    assert found["text_config"]["model_type"] == "mistral"
    assert found["vision_config"]["image_size"] == 336  # the tower that its name says


def test_a_released_config_has_the_published_sizes() -> None:
    made = released_config(OPENCHAT, "release", 32064, 32002, CLIP_L_336)
    shape = shape_from_config(made, "release")
    assert (shape.hidden, shape.ffn, shape.kv_heads, shape.vocab) == (4096, 14336, 8, 32064)
    assert shape.mixed == (True, False) * 16 and made["image_token_index"] == 32002
    epoch = released_config(EPOCH, "release", 100416, 100352, CLIP_L_336)["text_config"]
    assert epoch["partial_rotary_factor"] == 0.25 and epoch["use_qkv_bias"] is True
    assert epoch["layer_norm_eps"] == 1e-05 and epoch["num_hidden_layers"] == 24


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "moe_llava_phi"}, "Phi-2's attention .*moe-llava-2.7b-4e.*read are moe_"),
        ({"model_type": "moe_llava_qwen"}, "Qwen-1's own names.*those that are read are moe_llava"),
        ({"model_type": "moe_llava_minicpm"}, "'moe_llava_minicpm'; of MoE-LLaVA's those that are"),
        ({"moe": None}, "no 'moe' in its config"),
        ({"moe": {**MOE, "top_k_experts": 1}}, "moe.top_k_experts is 1"),
        ({"moe": {**MOE, "use_residual": True}}, "use_residual True"),
        ({"moe": {**MOE, "eval_capacity_factor": 1.5}}, "drops tokens below 2"),
        ({"moe": {**MOE, "num_experts": [4, 8]}}, "one and the same number"),
        ({"mm_image_tower": "google/siglip-so400m-patch14-384"}, "clip-vit-large-patch14-336"),
        ({"image_projector_type": "simple_in0_out0"}, "image_projector_type is"),
        ({"image_projector_type": None}, "image_projector_type is missing"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"sliding_window": 4096}, "set sliding_window to null"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ],
)
def test_what_is_not_read_is_refused_in_a_line(
    tmp_path: Path, mistral: dict[str, Tensor], change: dict[str, Any], said: str
) -> None:
    source = write(tmp_path / "src", config(**change), mistral, "one.bin")
    with pytest.raises(UsageError, match=said) as error:
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
