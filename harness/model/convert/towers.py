"""The vision tower of a released folder: stored in it, or in a folder of its own. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.families.configs import shown
from harness.families.towers import CLIP_L_336
from harness.model.convert.layout import LEFT_OUT, MODEL, Place, Placing, Source, Stream
from harness.model.convert.released import Weights

# Towers whose sizes need no file, by the last part of the name that a config gives.
KNOWN: dict[str, dict[str, Any]] = {
    "clip-vit-large-patch14-336": CLIP_L_336,
    "clip-vit-large-patch14": {**CLIP_L_336, "image_size": 224},
    "siglip-so400m-patch14-384": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    },
}
VISION_TYPES = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}
# Fields of a tower's config that shape its numbers.
FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_channels", "image_size", "patch_size", "hidden_act", "layer_norm_eps"),
)
# Of a whole CLIP or SigLIP model, what is no part of the tower that LLaVA reads.
OUTSIDE = ("text_model.", "text_projection.", "visual_projection.", "logit_", "vision_model.head.")
COLOURS = {
    "clip_vision_model": (
        [0.48145466, 0.4578275, 0.40821073],
        [0.26862954, 0.26130258, 0.27577711],
    ),
    "siglip_vision_model": ([0.5] * 3, [0.5] * 3),
}
STORED = "model.vision_tower.vision_tower.vision_model."
IN_MODEL = "model.vision_tower."
# Config fields that name a tower, and the names of its tensors where it is stored.
NAMED = {"mm_vision_tower": STORED, "mm_image_tower": "model.image_tower.image_tower.vision_model."}


@dataclass(frozen=True)
class Tower:
    """A tower's ``vision_config``, its images' mean and deviation, and the weights outside."""

    config: dict[str, Any]
    mean: list[float]
    std: list[float]
    outside: Weights | None  # None: its weights are in the source

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return int(self.config["image_size"] // self.config["patch_size"]) ** 2

    def streams(self, layers: int) -> list[Stream]:
        """Where its weights go if they lie outside, blocks from ``layers`` on left out."""
        if self.outside is None:
            return []
        return [Stream(self.outside, outside_placing(layers))]


def find_tower(source: Source, field: str = "mm_vision_tower", stored: str = STORED) -> Tower:
    """The tower that the config's ``field`` names.

    Looked for in this order: the folder that the user gave; the name as a path, from here or from
    the source; the local model-hub cache. Raises UsageError where it is needed and nowhere.
    """
    name, inside, folder = _located(source, field, stored)
    short = _short(name)
    if folder is None and (not inside or short not in KNOWN):
        lacks = "the sizes of" if inside else "the weights of"
        raise source.refuse(
            f"it does not hold {lacks} its vision tower '{one_line(name, 80)}', which is not here: "
            "give the tower's own folder: python -m modsuite convert SOURCE --to FOLDER "
            "--tower FOLDER"
        )
    config = dict(KNOWN[short]) if folder is None else _config(folder)
    mean, std = COLOURS[config["model_type"]]
    if folder is not None and (folder / "preprocessor_config.json").is_file():
        found = _json(folder / "preprocessor_config.json")
        mean, std = found.get("image_mean", mean), found.get("image_std", std)
    return Tower(config, mean, std, None if inside or folder is None else Weights(folder))


def tower_folder(
    source: Source, field: str = "mm_vision_tower", stored: str = STORED
) -> Path | None:
    """The folder that `find_tower` would read; None where it needs none or finds none."""
    return _located(source, field, stored)[2]


def _located(source: Source, field: str, stored: str) -> tuple[str, bool, Path | None]:
    """(the tower's name, whether the source has its weights, its own folder if one is needed)."""
    name = source.config.get(field)
    if not isinstance(name, str) or not name:
        raise source.refuse(f"{field} is {shown(name)}, expected the name of a vision tower")
    inside = source.sizes_only or any(one.startswith(stored) for one in source.names)
    # A tower whose sizes and weights are both known already is looked for nowhere.
    looked_for = not (inside and _short(name) in KNOWN)
    return name, inside, source.tower or (_folder(source, name) if looked_for else None)


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _folder(source: Source, name: str) -> Path | None:
    for folder in (Path(name), source.folder / name):
        if (folder / "config.json").is_file():
            return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _config(folder: Path) -> dict[str, Any]:
    """The ``vision_config`` of a tower's folder, of the tower alone or of the whole model."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"--tower: {folder} is no model folder (no config.json)")
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind in VISION_TYPES:
        part = config.get("vision_config")
        if not isinstance(part, Mapping):
            raise UsageError(f"{folder}: its config.json has no vision_config")
        config, kind = dict(part), VISION_TYPES[str(kind)]
    if kind not in COLOURS:
        raise UsageError(
            f"{folder}: a model of type {shown(kind)}; vision towers that work are "
            + ", ".join([*VISION_TYPES, *COLOURS])
        )
    return {"model_type": kind, **{key: config[key] for key in FIELDS if key in config}}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({one_line(error, 120)})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: not a config, but a {type(found).__name__}")
    return found


def stored_place(name: str, stored: str = STORED) -> Place | None:
    """The place of a tower's tensor in a released file; None if it is no such tensor."""
    if not name.startswith(stored):
        return None
    return _in_model(name.removeprefix(stored))


def outside_placing(layers: int) -> Placing:
    """Places of the tensors of a tower's own folder; blocks from ``layers`` on are left out."""

    def place(name: str) -> Place | None:
        if name.startswith(OUTSIDE):
            return LEFT_OUT
        rest = name.removeprefix("vision_model.")
        number = rest.removeprefix("encoder.layers.").partition(".")[0]
        if number.isdecimal() and int(number) >= layers:
            return LEFT_OUT
        return _in_model(rest)

    return place


def _in_model(rest: str) -> Place:
    # `position_ids`: a buffer 0..n that old releases stored.
    return LEFT_OUT if rest == "embeddings.position_ids" else Place(MODEL, IN_MODEL + rest)
