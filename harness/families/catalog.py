"""The families there are, and a model's sizes by name, folder or config. Torch-free.

Released configs name only what differs from the library's config classes: the text_config of
llava-hf/llava-1.5-7b-hf says `llama` and a vocabulary, all else is `LlamaConfig`'s. Those class
defaults stand in `decoders` and `towers`, type by type; whatever else is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.common.roots import DATA
from harness.families.family import Family
from harness.families.internvl import InternVL
from harness.families.llava import Llava
from harness.families.llava_hr import LlavaHr
from harness.families.llava_next import LlavaNext
from harness.families.llava_next_video import LlavaNextVideo
from harness.families.llava_onevision import LlavaOnevision
from harness.families.mini_gemini import MiniGeminiHd
from harness.families.moe_llava import MoeLlava, MoeLlavaPhi
from harness.families.qwen2_5_vl import Qwen25VL
from harness.families.qwen2_vl import Qwen2VL
from harness.families.qwen3_vl import Qwen3VL
from harness.families.shapes import ModelShape
from harness.families.trust import refuse_keys
from methods.vocabulary import ModelInfo

REGISTRY: dict[str, Family] = {
    kind.kind: kind()
    for kind in (
        *(Llava, LlavaNext, LlavaNextVideo, LlavaOnevision, Qwen2VL, Qwen25VL, Qwen3VL, InternVL),
        *(LlavaHr, MiniGeminiHd, MoeLlava, MoeLlavaPhi),
    )
}
FAMILIES = {name: family for name, family in REGISTRY.items() if family.loads}
KNOWN = {name: config for f in REGISTRY.values() for name, config in f.published.items()}
# Names that no hub has files under: of a family that is not loaded, or of this harness.
SIZES_ONLY = {
    name: line
    for f in REGISTRY.values()
    for name, line in f.summaries.items()
    if not f.loads or "/" not in name
}


@dataclass(frozen=True)
class Mini:
    """A model trained here for the mini benchmarks; its files lie in `assets/NAME`."""

    kind: str  # the family's
    summary: str  # for `--list models`


# Their trained methods lie in `assets/NAME-METHOD`; `harness.minimodel` trains them.
MINIS = {
    "tiny-llava": Mini("llava", "shipped, mini: a small LLaVA for the mini benchmarks"),
    "tiny-qwen": Mini("qwen2_5_vl", "shipped, mini: a small Qwen2.5-VL, images of any size, young"),
}


def family_of(config: Any, name: str, sizes_only: bool = False) -> Family:
    """The family that serves a config, in dict form or as a loaded model has it.

    ``sizes_only``: also one that cannot be loaded. Raises UsageError naming those that work.
    """
    said = config.get("model_type") if isinstance(config, Mapping) else config.model_type
    found = (REGISTRY if sizes_only else FAMILIES).get(str(said))
    if found is None:
        raise UsageError(
            f"{name}: a model of type '{said}'{_nearest(str(said))}; the types that work are "
            + ", ".join(FAMILIES)
        )
    return found


def _nearest(said: str) -> str:
    """The family that a type which does not work is like, and what stands between."""
    for name, family in FAMILIES.items():
        if said in family.relatives:
            return f", which is like {name}, but {family.relatives[said]}"
    near = difflib.get_close_matches(said, FAMILIES, 1, 0.75)
    return f" (did you mean '{near[0]}'?)" if near else ""


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a model folder, `completed`.

    Raises UsageError, one line: a missing or unreadable file, and what `completed` refuses.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise UsageError(f"{folder}: not a model folder (no config.json)")
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({one_line(error, 120)})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path}: not a model config, but a {type(config).__name__}")
    return completed(config, str(folder))


def completed(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A config with every size in it: `Family.completed` of the family that serves it."""
    return family_of(config, name).completed(config, name)


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The sizes behind a config (dict form), also of a family whose sizes alone are known.

    Raises UsageError for other families, decoders and towers, and sizes that are nowhere.
    """
    return family_of(config, name, sizes_only=True).shape(config, name)


def not_here(mini: str) -> str:
    """What is said where the files of a mini model are missing."""
    return (
        f"model '{mini}' ships as assets/{mini}, which is missing here: run make checkpoints, "
        "or name another with --model"
    )


def info_of(shape: ModelShape) -> ModelInfo:
    """What methods may ask about a model of these sizes."""
    return REGISTRY[shape.family].info(shape)


def config_for(model: str) -> dict[str, Any]:
    """The config of a known model, a local folder, or the shipped model, without weights.

    Raises UsageError naming what would work.
    """
    if model in KNOWN:
        return KNOWN[model]
    folder = Path(model)
    if not folder.is_dir():
        folder = DATA / "assets" / model
    if not (folder / "config.json").is_file():
        if model in MINIS:
            raise UsageError(f"--model: {not_here(model)}")
        known = ", ".join([*MINIS, *KNOWN])
        raise UsageError(
            f"--model: the sizes of '{model}' are not known: give a local folder with its "
            f"config.json, or one of {known}"
        )
    config = read_config(folder)
    refuse_keys(config, str(folder / "config.json"))  # random weights are built from it
    return config


def shape_of(model: str) -> ModelShape:
    """`shape_from_config(config_for(model))` under the model's own name."""
    return shape_from_config(config_for(model), model)
