"""MoE-LLaVA's released layout: its config and tensor names, and what they are here. Torch-free.

Names and fields were read off the released code (its model classes and DeepSpeed's MoE layer), not
off a weight file. Layers without experts have their decoder's usual names; in the others stands
`mlp.deepspeed_moe` with one MLP an expert and the gate. Phi and Qwen-1 have other decoder layers
and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.moe_llava import CHOSEN, MoeLlava
from harness.model.convert.layout import LEFT_OUT, MODEL, Place
from harness.model.convert.released import listed

if TYPE_CHECKING:
    from torch import Tensor

# Released `model_type` -> decoder, and its fields under the names that the library has for them.
_COMMON = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "hidden_act", "max_position_embeddings", "rope_theta"),
    *("bos_token_id", "eos_token_id"),
)
_NAMES = {name: name for name in _COMMON}
SOURCES: dict[str, tuple[str, dict[str, str]]] = {
    "moe_llava_llama": ("llama", {**_NAMES, "rms_norm_eps": "rms_norm_eps"}),
    "moe_llava_mistral": (
        "mistral",
        {**_NAMES, "rms_norm_eps": "rms_norm_eps", "sliding_window": "sliding_window"},
    ),
    "moe_llava_stablelm": (
        "stablelm",
        {
            **_NAMES,
            "norm_eps": "layer_norm_eps",
            "rope_pct": "partial_rotary_factor",
            "use_qkv_bias": "use_qkv_bias",
        },
    ),
}
MAY_BE_NULL = ("sliding_window", "bos_token_id", "eos_token_id")
# Fields of the multi-modal part that have one value in what is read.
FIXED = {
    "image_projector_type": "mlp2x_gelu",
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_video_tower": None,
    "mm_use_im_start_end": False,
    "mm_use_im_patch_token": False,
    "rope_scaling": None,
    "rotary_scaling_factor": 1.0,
    "attention_bias": False,
    "mlp_bias": False,
}
REQUIRED = ("image_projector_type", "mm_vision_select_layer")
# Decoders of published models that are not read, and why.
NOT_READ = {
    "moe_llava_phi": "Phi-2's attention and MLP stand side by side, which no method of this "
    "harness has a place in: its sizes alone are known, as moe-llava-2.7b-4e",
    "moe_llava_qwen": "Qwen-1's own names of tensors and its tokenizer are not read",
}
TOWER = "clip-vit-large-patch14-336"

EXPERT = re.compile(
    r"model\.layers\.(\d+)\.mlp\.deepspeed_moe\.experts\.deepspeed_experts\.(\d+)\."
    r"(gate|up|down)_proj\.weight"
)
GATE = re.compile(r"model\.layers\.(\d+)\.mlp\.deepspeed_moe\.gate\.wg\.weight")
LAYER = re.compile(
    r"model\.layers\.\d+\.(self_attn\.[qkvo]_proj\.(weight|bias)|mlp\.(gate|up|down)_proj\.weight|"
    r"(input|post_attention)_layernorm\.(weight|bias))"
)
# Buffers that the library makes itself.
BUFFER = re.compile(r".*\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)")
PREFIXES = (
    ("model.image_tower.image_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.image_spatial_proj.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.image_spatial_proj.2.", "model.multi_modal_projector.linear_2."),
    ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.weight", "lm_head.weight"),
)


def place(key: str) -> Place | None:
    """The place of a released tensor; None for a name that this layout has not."""
    expert, gate = EXPERT.fullmatch(key), GATE.fullmatch(key)
    if expert:
        layer, _, matrix = expert.groups()
        both = "down_proj" if matrix == "down" else "gate_up_proj"
        return Place(MODEL, f"model.language_model.layers.{layer}.mlp.experts.{both}")
    if gate:
        return Place(MODEL, f"model.language_model.layers.{gate[1]}.mlp.gate.weight")
    if BUFFER.fullmatch(key):
        return LEFT_OUT
    if LAYER.fullmatch(key):
        return Place(MODEL, "model.language_model." + key.removeprefix("model."))
    for before, after in PREFIXES:
        if key.startswith(before):
            return Place(MODEL, after + key.removeprefix(before))
    return None


def joined(parts: Mapping[str, Tensor], experts: int, width: int, inner: int) -> Tensor:
    """One parameter from its released tensors: a layer's matrices of all experts as [experts, ...].

    A matrix is [``inner``, ``width``] (gate and up, stacked in this order) or [``width``,
    ``inner``] (down). Raises UsageError naming what is missing, further or of another shape.
    """
    import torch

    names: dict[tuple[int, str], str] = {}
    for one in parts:
        found = EXPERT.fullmatch(one)
        if found is None:
            if len(parts) > 1:
                raise UsageError(f"{listed(list(parts))} are the same parameter twice")
            return parts[one]
        names[int(found[2]), found[3]] = one
    kinds = ("down",) if any(kind == "down" for _, kind in names) else ("gate", "up")
    wanted = [(expert, kind) for expert in range(experts) for kind in kinds]
    stem = next(iter(parts)).partition("deepspeed_experts.")[0] + "deepspeed_experts."
    missing = [f"{stem}{e}.{kind}_proj.weight" for e, kind in wanted if (e, kind) not in names]
    if missing:
        raise UsageError(f"{len(missing)} tensors are missing: {listed(missing)}")
    more = [one for place, one in names.items() if place not in wanted]
    if more:
        raise UsageError(f"its config says {experts} experts, and there are {listed(more)}")
    shape = (width, inner) if kinds == ("down",) else (inner, width)
    for one, value in parts.items():
        if tuple(value.shape) != shape:
            raise UsageError(f"{one} is {list(value.shape)} and should be {list(shape)}")
    whole = torch.cat([parts[names[place]] for place in wanted])
    return whole.view(experts, len(kinds) * shape[0], shape[1])


def check_kind(config: Mapping[str, Any], name: str) -> None:
    """Raise UsageError unless a release's decoder is one that is read."""
    kind = config.get("model_type")
    if kind not in SOURCES:
        why = f" ({NOT_READ[kind]})" if isinstance(kind, str) and kind in NOT_READ else ""
        raise UsageError(
            f"{name}: model_type is {shown(kind)}{why}; of MoE-LLaVA's those that are read are "
            + ", ".join(SOURCES)
        )


def released_config(
    config: Mapping[str, Any], name: str, vocab: int, token: int, vision: Mapping[str, Any]
) -> dict[str, Any]:
    """The complete config of a released one; ``vocab`` rows of words, ``token`` the image's.

    A release has no row for `<image>`: who converts appends some and says which. ``vision``: the
    tower's config. Raises UsageError for another decoder, tower or projector, and for experts that
    would drop tokens.
    """
    check_kind(config, name)
    kind = config["model_type"]
    decoder, fields = SOURCES[str(kind)]
    text: dict[str, Any] = {"model_type": decoder, "vocab_size": vocab}
    for theirs, ours in fields.items():
        if theirs not in config or (config[theirs] is None and theirs not in MAY_BE_NULL):
            raise UsageError(f"{name}: {theirs} is missing, a {decoder} decoder has one")
        text[ours] = config[theirs]
    if config.get("head_dim") is not None:
        text["head_dim"] = config["head_dim"]
    if text.get("sliding_window") is not None:
        raise UsageError(
            f"{name}: sliding-window attention (sliding_window {shown(text['sliding_window'])}) is "
            "not converted: set sliding_window to null in its config.json, which changes nothing "
            "in prompts and answers that are shorter than the window"
        )
    if config.get("tie_word_embeddings"):
        raise UsageError(f"{name}: tie_word_embeddings is true: no MoE-LLaVA was released so")
    tower = str(config.get("mm_image_tower"))
    if not tower.rstrip("/").endswith(TOWER):
        raise UsageError(
            f"{name}: mm_image_tower is {shown(tower)}; the one that is read is {TOWER}"
        )
    for field in REQUIRED:
        if config.get(field) is None:
            raise UsageError(f"{name}: {field} is missing, expected {FIXED[field]!r}")
    for field, wanted in FIXED.items():
        if config.get(field) not in (None, wanted):
            raise UsageError(f"{name}: {field} is {shown(config[field])}, not {wanted!r}")
    made = {
        "model_type": MoeLlava.kind, "text_config": text, "vision_config": dict(vision),
        "image_token_index": token, **_experts(config.get("moe"), name),
    }  # fmt: skip
    return MoeLlava().completed(made, name)


def _experts(moe: Any, name: str) -> dict[str, Any]:
    """The experts that a release's ``moe`` dict describes."""
    if not isinstance(moe, Mapping):
        raise UsageError(f"{name}: no 'moe' in its config, which says where the experts are")
    layers, counts = moe.get("moe_layers_idx"), moe.get("num_experts")
    chosen, room = moe.get("top_k_experts"), moe.get("eval_capacity_factor")
    if (
        not (isinstance(counts, list) and isinstance(layers, list) and len(counts) == len(layers))
        or len(set(counts)) != 1
        or type(counts[0]) is not int
    ):
        raise UsageError(
            f"{name}: moe.num_experts is {shown(counts)}: not one and the same number for each of "
            f"moe_layers_idx, {shown(layers)}"
        )
    if chosen != CHOSEN or moe.get("use_residual"):
        raise UsageError(
            f"{name}: moe.top_k_experts is {shown(chosen)}, use_residual "
            f"{shown(moe.get('use_residual'))}: only {CHOSEN} without residual expert is read"
        )
    if not isinstance(room, (int, float)) or CHOSEN * room < counts[0]:
        raise UsageError(
            f"{name}: moe.eval_capacity_factor is {shown(room)}: with {counts[0]} experts the "
            f"release drops tokens below {counts[0] / CHOSEN:g}, which is not done here"
        )
    return {
        "moe_layers_idx": layers, "num_local_experts": counts[0], "num_experts_per_tok": chosen,
    }  # fmt: skip
