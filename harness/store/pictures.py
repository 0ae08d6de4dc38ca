"""``routing/``: what the report draws its pictures from. Torch-free.

routing/images/<image_id>.jpg         an image once, for all cells that show it
routing/<cell_id>/NN-<doc_id>.npz     the routing record of a shown sample
routing/<cell_id>/NN-<doc_id>.json    its words, images, answer, target and score
routing/<cell_id>/attention.npz       attention maps of the plain model, beside dense's samples
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from harness.store.csvfile import TEMPORARY, cannot_write

PICTURED = 4  # samples of a cell that are kept
LONGEST = 448  # pixels of a stored image's longer side
QUALITY = 82
ATTENTION = "attention.npz"


def save_image(folder: Path, image_id: str, image: Any) -> None:
    """A small JPEG of a PIL image, in its own shape; one that is there already stays.

    Raises StoreError when the disk does not take it.
    """
    path = folder / "images" / f"{image_id}.jpg"
    if path.exists():
        return
    small = image.convert("RGB")
    small.thumbnail((LONGEST, LONGEST))
    part = path.with_name(path.name + TEMPORARY.rstrip("-"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        small.save(part, "JPEG", quality=QUALITY, optimize=True)
        os.replace(part, path)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_pictures(
    folder: Path,
    records: Mapping[str, Any],
    samples: Mapping[str, Any],
    attention: Mapping[str, Any] | None,
) -> None:
    """The folder of one cell, whole or not at all.

    Raises StoreError when the disk does not take it.
    """
    chosen = list(records.items())[:PICTURED]
    if not chosen:
        return
    building = folder.with_name(folder.name + TEMPORARY.rstrip("-"))
    try:
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        for number, (doc_id, record) in enumerate(chosen):
            name = "".join(c if c.isalnum() or c in "-_" else "_" for c in str(doc_id))[:80]
            record.to_npz(building / f"{number:02d}-{name}.npz")
            if (sample := samples.get(doc_id)) is not None and sample.picture:
                about = json.dumps(_about(sample), ensure_ascii=False)
                place = building / f"{number:02d}-{name}.json"
                place.write_text(about, encoding="utf-8", errors="backslashreplace")
        if attention is not None:
            np.savez_compressed(building / ATTENTION, **attention)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _about(sample: Any) -> dict[str, Any]:
    about = {name: getattr(sample, name) for name in ("doc_id", "prediction", "target", "score")}
    return about | sample.picture
