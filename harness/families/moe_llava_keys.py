"""MoE-LLaVA's released layout: its config and tensor names, and what they are here. Torch-free.

Names and fields were read off the released code (its model classes and DeepSpeed's MoE layer), not
off a weight file. Layers without experts have their decoder's usual names; in the others stands
`mlp.deepspeed_moe` with one MLP an expert and the gate. Phi and Qwen-1 have other decoder layers
and are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.moe_llava import CHOSEN, MoeLlava
from harness.families.towers import CLIP_L_336

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
LEFT_OUT = re.compile(r".*\.(rotary_emb\.(inv_freq|cos_cached|sin_cached)|position_ids)")
PREFIXES = (
    ("model.image_tower.image_tower.vision_model.", "model.vision_tower."),
    ("model.mm_projector.image_spatial_proj.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.image_spatial_proj.2.", "model.multi_modal_projector.linear_2."),
    ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight"),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.weight", "lm_head.weight"),
)


class Place(NamedTuple):
    """Where a released tensor stands in memory: in all of ``target``, or in one expert of it.

    ``half``: 0 the upper rows (gate), 1 the lower ones (up), None all of an expert's.
    """

    target: str
    expert: int | None = None
    half: int | None = None


def place(key: str) -> Place | None:
    """The place of a released tensor; None for a buffer that is left out.

    Raises UsageError for a name that this layout has not.
    """
    expert, gate = EXPERT.fullmatch(key), GATE.fullmatch(key)
    if expert:
        layer, number, matrix = expert.groups()
        mlp = f"model.language_model.layers.{layer}.mlp.experts."
        half = {"gate": 0, "up": 1, "down": None}[matrix]
        return Place(mlp + ("down_proj" if half is None else "gate_up_proj"), int(number), half)
    if gate:
        return Place(f"model.language_model.layers.{gate[1]}.mlp.gate.weight")
    if LEFT_OUT.fullmatch(key):
        return None
    if LAYER.fullmatch(key):
        return Place("model.language_model." + key.removeprefix("model."))
    for before, after in PREFIXES:
        if key.startswith(before):
            return Place(after + key.removeprefix(before))
    raise UsageError(f"'{key}' is no tensor of MoE-LLaVA's layout")


def sources_of(keys: Iterable[str], experts: int) -> dict[str, list[str]]:
    """Tensor in memory -> the released ones it is made of, in the order that `joined` takes.

    Raises UsageError naming what is not known, what stands twice and which expert is missing.
    """
    found: dict[str, dict[Place, str]] = {}
    for key in keys:
        where = place(key)
        if where is not None:
            parts = found.setdefault(where.target, {})
            if where in parts:
                raise UsageError(f"'{key}' and '{parts[where]}' are the same tensor")
            parts[where] = key
    return {target: _in_order(target, parts, experts) for target, parts in found.items()}


def _in_order(target: str, parts: Mapping[Place, str], experts: int) -> list[str]:
    """The released tensors of one in memory, expert by expert, gate before up."""
    if Place(target) in parts:
        return [parts[Place(target)]]
    halves: tuple[int | None, ...] = (0, 1) if target.endswith("gate_up_proj") else (None,)
    wanted = [Place(target, expert, half) for expert in range(experts) for half in halves]
    for where in wanted:
        if where not in parts:
            what = {0: "gate_proj", 1: "up_proj", None: "down_proj"}[where.half]
            raise UsageError(f"{target}: expert {where.expert} of {experts} has no {what}")
    more = parts.keys() - set(wanted)
    if more:
        raise UsageError(f"'{parts[min(more)]}': the config says {experts} experts")
    return [parts[where] for where in wanted]


def joined(target: str, tensors: Sequence[Any], experts: int) -> Any:
    """One tensor in memory from its sources: experts' matrices [rows, columns] as [experts, ...].

    Raises UsageError where the experts differ in shape.
    """
    import torch

    if len(tensors) == 1:
        return tensors[0]
    shapes = {tuple(one.shape) for one in tensors}
    if len(shapes) > 1:
        raise UsageError(f"{target}: its experts have different shapes, {sorted(shapes)}")
    rows, columns = tensors[0].shape
    return torch.cat(list(tensors)).view(experts, len(tensors) // experts * rows, columns)


def released_config(config: Mapping[str, Any], name: str, vocab: int, token: int) -> dict[str, Any]:
    """The complete config of a released one; ``vocab`` rows of words, ``token`` the image's.

    A release has no row for `<image>`: who converts appends some and says which. Raises UsageError
    for another decoder, tower or projector, and for experts that would drop tokens.
    """
    kind = config.get("model_type")
    if kind not in SOURCES:
        raise UsageError(
            f"{name}: model_type is {shown(kind)}; of MoE-LLaVA's those that are read are "
            + ", ".join(SOURCES)
        )
    decoder, fields = SOURCES[str(kind)]
    text: dict[str, Any] = {"model_type": decoder, "vocab_size": vocab}
    for theirs, ours in fields.items():
        if theirs not in config or (config[theirs] is None and theirs not in MAY_BE_NULL):
            raise UsageError(f"{name}: {theirs} is missing, a {decoder} decoder has one")
        text[ours] = config[theirs]
    if config.get("tie_word_embeddings"):
        raise UsageError(f"{name}: tie_word_embeddings is true: no MoE-LLaVA was released so")
    tower = str(config.get("mm_image_tower"))
    if not tower.rstrip("/").endswith(TOWER):
        raise UsageError(
            f"{name}: mm_image_tower is {shown(tower)}; the one that is read is {TOWER}"
        )
    for field, wanted in FIXED.items():
        if config.get(field, wanted) != wanted:
            raise UsageError(f"{name}: {field} is {shown(config[field])}, not {wanted!r}")
    made = {
        "model_type": MoeLlava.kind, "text_config": text, "vision_config": dict(CLIP_L_336),
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
