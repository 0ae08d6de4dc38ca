"""Released LLaVA-HR and Mini-Gemini-HD files, γ-MoD's on them too: names and fields, as functions.

Pure and torch-free; whoever reads the files calls them. From the published code; nobody here has
opened a released file, so a reader must compare names and shapes with an instantiated model, both
ways. Weights are to be read as they stand: a loader that rewrites "gamma" in names would lose the
ConvNeXt's layer scales, which LLaVA-HR therefore calls ``weight`` and Mini-Gemini ``gamma``.
A name's place is a name in memory, `LEFT_OUT` for what is stored and not read, None for what is no
part of the layout (γ-MoD's routers among it: they are the method's).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.families.convnext import stride_of
from harness.families.decoders import Sizes
from harness.families.towers import CLIP_L_336
from harness.families.two_towers import SLOW_L, SLOW_XXL

LEFT_OUT = ""
DECODER = (
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
)
TOWER = "model.vision_tower."
FAST, SLOW = TOWER + "fast.", TOWER + "slow."
# timm's names of a ConvNeXt's parts and transformers'.
STAGE = re.compile(r"stages\.(\d+)\.downsample\.([01])\.(weight|bias)")
BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)")
BLOCK_PARTS = {
    "conv_dw": "dwconv",
    "norm": "layernorm",
    "mlp.fc1": "pwconv1",
    "mlp.fc2": "pwconv2",
}
LAYER = re.compile(
    r"model\.layers\.\d+\.(self_attn|mlp|input_layernorm|post_attention_layernorm)\."
)


def llava_hr_place(name: str) -> str | None:
    """The place of a tensor of LLaVA-HR's."""
    for before, place in (
        (TOWER + "fast_vision_tower.vision_tower.vision_model.", _clip),
        (TOWER + "slow_vision_tower.vision_tower.", _convnext),
        (TOWER + "align_stages_latent.", _adapter),
        (TOWER + "align_stages.0.", _fusion),
    ):
        if name.startswith(before):
            return place(name.removeprefix(before))
    return _decoder(name)


def mini_gemini_place(name: str) -> str | None:
    """The place of a tensor of Mini-Gemini-HD's."""
    for before, place in (
        (TOWER + "vision_tower.vision_model.", _clip),
        ("model.vision_tower_aux.vision_", _convnext),
        ("model.vlm_uni_", _mining),
    ):
        if name.startswith(before):
            return place(name.removeprefix(before))
    return _decoder(name)


def llava_hr_fields(
    config: Mapping[str, Any],
    names: Collection[str],
    where: str,
    clip: Sizes = CLIP_L_336,
    slow: Sizes | None = None,
) -> Sizes:
    """A family config's fields beside the decoder's, from a released LLaVA-HR config.

    ``names``: of the released tensors; adapters exist where they are stored, whatever
    ``freeze_vision`` says. ``where`` begins a message. ``clip`` and ``slow``: the towers' configs,
    where the stored tensors say other sizes than the names. Raises UsageError for fields that make
    it something else.
    """
    _expect(config, where, "mm_projector_type", ("mlp2x_gelu",))
    _clip_name(config, where, "mm_vision_tower")
    size, named = config.get("input_image_size"), _slow(config, where, "vision_tower_slow")
    slow = slow or named
    stride, patch = stride_of(slow["depths"]), clip["patch_size"]
    if type(size) is not int or size < stride or size % stride:
        raise UsageError(
            f"{where}: input_image_size is {shown(size)}, expected a multiple of {stride}"
        )
    adapters = any("align_stages_latent." in name for name in names)
    if not adapters and config.get("freeze_vision") is False:
        raise UsageError(f"{where}: freeze_vision is false, but no adapters (align_stages_latent)")
    positions = clip["image_size"]
    return {
        "model_type": "llava_hr",
        "vision_config": {**clip, "image_size": max(size // stride * patch, positions)},
        "slow_config": slow,
        "image_size": size,
        "position_size": positions,
        "adapters": adapters,
        "vision_feature_layer": -1,  # the released -2 is not read
        "vision_feature_select_strategy": "default",
    }


def mini_gemini_fields(
    config: Mapping[str, Any], where: str, clip: Sizes = CLIP_L_336, slow: Sizes | None = None
) -> Sizes:
    """The same from a released Mini-Gemini-HD config (`model_type` mgm)."""
    _expect(config, where, "mm_projector_type", ("mlp2x_gelu",))
    _expect(config, where, "image_global", (True,))
    _clip_name(config, where, "mm_vision_tower")
    named = _slow(config, where, "mm_vision_tower_aux")
    slow = slow or named
    _expect(config, where, "mm_hidden_size_aux", (sum(slow["hidden_sizes"]),))
    for field in ("image_grid", "image_size_aux", "mm_vision_select_layer"):
        if type(config.get(field)) is not int:
            raise UsageError(f"{where}: {field} is {shown(config.get(field))}, no whole number")
    return {
        "model_type": "mini_gemini_hd",
        "vision_config": clip,
        "slow_config": slow,
        "image_size": config["image_size_aux"],
        "image_grid": config["image_grid"],
        "vision_feature_layer": config["mm_vision_select_layer"],
        "vision_feature_select_strategy": "default",
    }


def slow_sizes(shapes: Mapping[str, Collection[int]], before: str) -> Sizes | None:
    """A ConvNeXt's config from stored shapes; None where none is stored under ``before``."""
    found: dict[int, tuple[int, int]] = {}
    for name, shape in shapes.items():
        block = BLOCK.fullmatch(name.removeprefix(before)) if name.startswith(before) else None
        if block is not None and block[3] == "norm.weight":
            stage, depth = int(block[1]), int(block[2]) + 1
            found[stage] = (next(iter(shape)), max(depth, found.get(stage, (0, 0))[1]))
    if not found:
        return None
    widths, depths = zip(*(found[stage] for stage in sorted(found)), strict=True)
    return {"model_type": "convnext", "hidden_sizes": list(widths), "depths": list(depths)}


def _decoder(name: str) -> str | None:
    if name.endswith("rotary_emb.inv_freq"):  # a buffer of old releases
        return LEFT_OUT
    if name.startswith("model.layers.") and not LAYER.match(name):
        return None
    for before, after in DECODER:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return None


def _clip(rest: str) -> str | None:
    return LEFT_OUT if rest == "embeddings.position_ids" else FAST + rest


def _convnext(rest: str) -> str | None:
    """The place of a tensor under its name in timm's ConvNeXt."""
    if rest.startswith("head."):
        return LEFT_OUT
    for before, after in (("stem.0.", "patch_embeddings."), ("stem.1.", "layernorm.")):
        if rest.startswith(before):
            return f"{SLOW}embeddings.{after}{rest.removeprefix(before)}"
    found = STAGE.fullmatch(rest)
    if found and found[1] != "0":  # the first stage begins without one
        return f"{SLOW}encoder.stages.{found[1]}.downsampling_layer.{found[2]}.{found[3]}"
    block = BLOCK.fullmatch(rest)
    if block is None:
        return None
    here = f"{SLOW}encoder.stages.{block[1]}.layers.{block[2]}."
    if block[3] in ("weight", "gamma"):
        return here + "layer_scale_parameter"
    part, _, kind = block[3].rpartition(".")
    return here + f"{BLOCK_PARTS[part]}.{kind}" if part in BLOCK_PARTS else None


def _adapter(rest: str) -> str | None:
    return f"{TOWER}adapters.{rest}"


def _fusion(rest: str) -> str | None:
    return f"{TOWER}fusion.{rest}"


def _mining(rest: str) -> str | None:
    found = re.fullmatch(r"(query|aux|val)_projector\.([01])\.(weight|bias)", rest)
    if found is None:
        return None
    part = {"query": "query", "aux": "key", "val": "value"}[found[1]]
    return f"{TOWER}mining.{part}.{found[2]}.{found[3]}"


def _slow(config: Mapping[str, Any], where: str, field: str) -> Sizes:
    """The ConvNeXt that a field names, by timm's, open_clip's or a folder's name."""
    name = config.get(field)
    short = str(name).rstrip("/").rpartition("/")[2].lower().replace("-", "_")
    if isinstance(name, str) and "convnext_xxlarge" in short:
        return SLOW_XXL
    if isinstance(name, str) and "convnext_large" in short:
        return SLOW_L
    raise UsageError(
        f"{where}: {field} is {shown(name)}, expected a convnext_large or a convnext_xxlarge"
    )


def _clip_name(config: Mapping[str, Any], where: str, field: str) -> None:
    name = config.get(field)
    if not isinstance(name, str) or "clip-vit-large-patch14-336" not in name.lower():
        raise UsageError(f"{where}: {field} is {shown(name)}, expected clip-vit-large-patch14-336")


def _expect(config: Mapping[str, Any], where: str, field: str, allowed: tuple[Any, ...]) -> None:
    if config.get(field) not in allowed:
        said, read = shown(config.get(field)), " or ".join(map(shown, allowed))
        raise UsageError(f"{where}: {field} is {said}, which is not converted; read is {read}")
