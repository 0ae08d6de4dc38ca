"""A model folder kept as what it adds to another model: `updates.json` and `updates.safetensors`.

For two mini models that share a decoder, the second would be kept almost twice. Tensor names:

  <tensor>              a tensor as it is in the whole model's file
  <tensor>.A / .B       a low-rank update of the shared one, W + B @ A, A [r, in], B [out, r]
  (absent)              the shared tensor, unchanged

The whole model is put together once, into `build/converted`, as a folder that the library loads.
Products are made in float64 and rounded to the shared tensor's format, so that its file is the
same, bit for bit, wherever it is made: methods' weights name it by its hash. Torch-free at import.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.common.place import check_place
from harness.model.tensorfiles import read_weights, write_weights, write_whole
from harness.model.weights import SINGLE, check_weights, file_hash

if TYPE_CHECKING:
    from torch import Tensor

RECORD, TENSORS = "updates.json", "updates.safetensors"
# Folder beside this one; sha256 of its weights, of the whole model; how names begin there, here.
FIELDS = ("base", "sha256", "whole", "shared")
DOWN, UP = ".A", ".B"


def is_updates(folder: Path) -> bool:
    """Whether a folder holds updates in place of a model."""
    return (folder / RECORD).is_file() and not (folder / SINGLE).exists()


def save_updates(
    folder: Path,
    base: Path,
    shared: tuple[str, str],
    low_rank: Mapping[str, tuple[Tensor, Tensor]],
) -> None:
    """Write beside the whole model in ``folder`` what it adds to ``base``.

    ``shared``: how names of shared tensors begin in the base and here. ``low_rank``: (A, B) by name
    in this model's file. Raises ValueError where the model is not what these updates make, bit for
    bit.
    """
    import torch

    ours, theirs = read_weights(folder), _shared(base, shared)
    added: dict[str, Tensor] = {}
    for name, value in ours.items():
        if name not in theirs:
            added[name] = value
        elif name in low_rank:
            a, b = low_rank[name]
            if not torch.equal(updated(theirs[name], a, b), value):
                raise ValueError(f"{folder}: {name} is not {base.name}'s with its update")
            added |= {name + DOWN: a, name + UP: b}
        elif theirs[name].shape != value.shape or not torch.equal(theirs[name], value):
            added[name] = value
    record = {"base": base.name, "sha256": file_hash(base / SINGLE), "shared": list(shared)}
    record["whole"] = file_hash(folder / SINGLE)
    write_whole(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
    _write(folder / TENSORS, added)


def updated(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W + B @ A in the format of W [out, in]."""
    return (weight.double() + b.double() @ a.double()).to(weight.dtype)


def kept_pairs(folder: Path, base: Path) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Name in this model's file -> (tensor of ``base``, A, B) of every low-rank update kept in
    ``folder``. Raises UsageError: as `whole_model`."""
    record = _record(folder)
    _check_base(folder, base, record)
    added, theirs = _read(folder / TENSORS), _shared(base, tuple(record["shared"]))
    names = [name.removesuffix(DOWN) for name in added if name.endswith(DOWN)]
    for name in names:
        if name not in theirs or name + UP not in added:
            raise UsageError(f"{folder / TENSORS}: {name} is no update of a tensor of its base")
    return {name: (theirs[name], added[name + DOWN], added[name + UP]) for name in names}


def check_whole(folder: Path) -> None:
    """Raises UsageError where the updates in ``folder`` are of another model than lies there."""
    if _record(folder)["whole"] != file_hash(folder / SINGLE):
        raise UsageError(f"{folder}: {RECORD} is of another model than {SINGLE}: train it again")


def whole_model(folder: Path, cache: Path) -> Path:
    """The folder below ``cache`` with the model behind updates, put together if it is not there.

    Raises UsageError: an unreadable record, a base that is missing or another, updates that do not
    fit it.
    """
    folder = folder.absolute()
    record = _record(folder)
    base = folder.parent / record["base"]
    _check_base(folder, base, record)
    files = sorted(p for p in folder.iterdir() if p.is_file())
    read = [p for p in files if p.name not in ("README.md", "training.json", "history.jsonl")]
    key = hashlib.sha256("".join(p.name + file_hash(p) for p in read).encode()).hexdigest()
    to = cache / f"{folder.name}-{key[:20]}"
    if to.is_dir():
        return to
    check_place(to)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{to}.lock"):  # who comes second waits and finds it made
        if not to.is_dir():
            _make(folder, base, record, files, to)
    return to


def _check_base(folder: Path, base: Path, record: Mapping[str, Any]) -> None:
    check_weights(base)
    if (found := file_hash(base / SINGLE)) != record["sha256"]:
        raise UsageError(
            f"{folder}: updates of other weights than {base} has ({found[:12]}, expected "
            f"{record['sha256'][:12]})"
        )


def _make(folder: Path, base: Path, record: Mapping[str, Any], files: list[Path], to: Path) -> None:
    from harness.model.convert.folders import written

    with written(to) as partial:
        write_weights(partial, _together(folder, _shared(base, tuple(record["shared"]))))
        if file_hash(partial / SINGLE) != record["whole"]:
            raise UsageError(f"{folder}: put together, its weights are not those that were saved")
        for path in files:
            if path.name not in (RECORD, TENSORS):
                shutil.copyfile(path, partial / path.name)


def _together(folder: Path, theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    added = _read(folder / TENSORS)
    whole = dict(theirs)
    for name, value in added.items():
        inner = name.removesuffix(DOWN)
        if name.endswith(UP) and name.removesuffix(UP) + DOWN in added:
            continue
        if inner == name or inner + UP not in added:
            whole[name] = value
            continue
        b = added[inner + UP]
        if inner not in theirs or (b.shape[0], value.shape[1]) != tuple(theirs[inner].shape):
            raise UsageError(f"{folder / TENSORS}: {inner} is no update of a tensor of its base")
        whole[inner] = updated(theirs[inner], value, b)
    return whole


def _shared(base: Path, shared: tuple[str, ...]) -> dict[str, Tensor]:
    """The base's shared tensors by their names in the model that adds to them."""
    there, here = shared
    return {
        here + name.removeprefix(there): value
        for name, value in read_weights(base).items()
        if name.startswith(there)
    }


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = read_json(folder / RECORD)
        whole = {name: found[name] for name in FIELDS}
        named = Path(whole["base"]).name == whole["base"] and whole["base"] not in ("", "..")
        good = named and len(whole["shared"]) == 2
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / RECORD}: not readable ({one_line(error, 120)})") from None
    if not good:
        raise UsageError(
            f"{folder / RECORD}: expected a folder beside it and two beginnings of names"
        )
    return whole


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path}: damaged or missing ({one_line(error, 120)})") from None


def _write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".partial")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
    os.replace(partial, path)
