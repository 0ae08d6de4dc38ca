"""Converting into a folder of the user's, or into the cache for `--model` and `--checkpoint`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.jsonfile import read_json
from harness.common.place import shown
from harness.families.catalog import KNOWN, completed, config_for
from harness.model.convert import folders
from harness.model.convert.frame import Tell, convert_into, source_of
from harness.model.convert.registry import target_of
from harness.model.convert.released import ADAPTERS
from harness.model.updates import is_updates, whole_model

METHOD_FILE = "method.json"  # of a checkpoint folder, see `harness.model.checkpoints`


def is_released(folder: Path) -> bool:
    """Whether a folder is in a research code's layout, by its config alone.

    These keep all sizes on the top level beside the name of a vision tower.
    """
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return False
    if not isinstance(config, Mapping) or "text_config" in config:
        return False
    named = any(key in config for key in ("mm_vision_tower", "mm_image_tower"))
    return named or any((folder / name).exists() for name in ADAPTERS[:1])


def convert(source: Path, to: Path, tower: Path | None, tell: Tell) -> dict[str, Any]:
    """Convert ``source`` into the folder ``to``; returns its record (`folders.RECORD`).

    A folder made of the same files stays as it is. Raises UsageError, one line.
    """
    if not source.is_dir():
        raise UsageError(f"convert: there is no folder {shown(source)}")
    if tower is not None and not tower.is_dir():
        raise UsageError(f"--tower: there is no folder {shown(tower)}")
    if to.exists() and not to.is_dir():
        raise UsageError(f"--to: {shown(to)} is a file; name a new folder")
    found = source_of(source, tower)
    old = folders.record_of(to) if to.is_dir() else None
    if old is None and to.is_dir() and any(to.iterdir()):
        folders.refuse_half(to)
        raise UsageError(f"--to: {shown(to)} is not empty; name a new folder")
    key, files = folders.key_of(found)
    if old is not None:
        if old["key"] != key:
            raise UsageError(f"--to: {shown(to)} was made of other files; name a new folder")
        return old
    with folders.written(to) as partial:
        made = convert_into(found, partial, tell)
        record = {
            "key": key,
            "layout": made.layout,
            "method": made.method,
            "model": made.whole,
            "source": source.name,
            "files": files,
            "left_out": made.left_out,
            "notes": made.notes,
        }
        folders.write_record(partial, record)
    return record


def as_model(folder: Path) -> Path:
    """The folder of the dense model behind a folder given to `--model`; itself if it is one.

    Raises UsageError for a released layout that cannot be converted, one without a model, and
    updates whose base is not there.
    """
    folders.refuse_half(folder)
    if is_updates(folder):
        return whole_model(folder, folders.CACHE)
    record = folders.record_of(folder)
    if record is None and not is_released(folder):
        return folder
    made, record = _cached(folder) if record is None else (folder, record)
    if not record["model"]:
        name = record["method"]
        raise UsageError(
            f"--model: {folder} is no model of its own, but weights of {name}: give its base model "
            f"and --checkpoint {name}={folder}"
        )
    return made


def config_behind(model: str) -> dict[str, Any]:
    """The config of a known model or a local folder, as `harness.families.catalog.config_for`.

    Of a folder in a released layout, that of the model it would become: nothing is converted.
    """
    folder = Path(model)
    if model in KNOWN or not folder.is_dir() or not is_released(folder):
        return config_for(model)
    _, target = target_of(replace(source_of(folder), sizes_only=True))
    return completed(target.config, model)


def as_checkpoint(folder: Path, method: str) -> Path:
    """The folder of ``method``'s weights behind one given to `--checkpoint`; itself if it is one.

    That may be a released layout, or what one was converted to. Raises UsageError.
    """
    folders.refuse_half(folder)
    if (folder / METHOD_FILE).exists():
        return folder
    record = folders.record_of(folder)
    if record is None and not is_released(folder):
        return folder
    made, record = _cached(folder) if record is None else (folder, record)
    if record["method"] != method:
        has = f"weights of {record['method']}" if record["method"] else "a model for --model"
        raise UsageError(f"--checkpoint: {folder} has no weights of {method}, but {has}")
    return made / method if record["model"] else made


def _cached(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The conversion of a released folder, made now if nobody made it before."""
    key, _ = folders.key_of(source_of(folder))
    to = folders.CACHE / key[:20]
    return to, convert(folder, to, None, lambda line: print(f"converting {line}", file=sys.stderr))
