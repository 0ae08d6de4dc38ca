"""Whether a folder of rendered scenes is whole, and drawn as a recipe asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.minimodel.sizes import sized_folders

DRAWN = "drawn.json"  # written last, so a drawing that was interrupted has none
USUAL = {"rounds": 1, "hd": 0.0}  # what a note that does not name them means


def lacking(folder: Path, pages: bool = True, share: float = 0.0) -> str:
    """What keeps `folder` from being trained on, or "" where it is whole.

    Folders without a note of how they were drawn, of earlier versions or of one's own making, are
    whole where pictures and lines agree. `pages`: whether large pages are read; `share`: of the
    scenes that must lie on such.
    """
    sized = list(sized_folders(folder).values()) if pages else []
    places = [folder] if (folder / "images.npy").exists() else []
    if not [*places, *sized]:
        return f"{folder}: no scenes"
    try:
        _note(folder)
    except (OSError, ValueError) as error:
        return f"{folder / DRAWN}: not readable as JSON ({one_line(error, 120)})"
    for place in (*places, *sized):
        if torn := _torn(place):
            return torn
    if share and not sized:
        return f"{folder}: no large pages, and a share of {share:g} of its scenes has them"
    return ""


def check_drawn(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Raises UsageError where the scenes in `folder` say that they were drawn otherwise."""
    found = _note(folder)
    if found and {key: (USUAL | found).get(key) for key in wanted} != wanted:
        raise UsageError(
            f"{folder}: its scenes were drawn with {found}, and the recipe's are with "
            f"{dict(wanted)}: remove or rename that folder, or name it with --data"
        )


def _note(folder: Path) -> dict[str, Any]:
    """`drawn.json`, empty where there is none. Raises OSError and ValueError."""
    if not (folder / DRAWN).exists():
        return {}
    found = read_json(folder / DRAWN)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def _torn(place: Path) -> str:
    """Why the scenes of one size are not whole, or ""."""
    try:
        images = len(np.load(place / "images.npy", mmap_mode="r"))
        lines = _lines(place / "scenes.jsonl")
    except (OSError, ValueError, EOFError) as error:
        return f"{place}: not readable as scenes ({one_line(error, 120)})"
    if images == lines:
        return ""
    return f"{place}: {images} images but {lines} scene lines, so drawing them was interrupted"


def _lines(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n")
