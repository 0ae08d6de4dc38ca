"""Model files on disk: are the weights whole and plain numbers, and what are all files' hashes?

Torch-free.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath
from typing import Any

from harness.common.errors import UsageError
from harness.common.jsonfile import parse_json, read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")
# What the library reads of a model folder beside its weights: configs, tokenizer, processor, chat
# templates, index, and code it might ask for.
SETTINGS = (
    *("*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"),
    "additional_chat_templates/*.jinja",
)
FLOATS = ("F64", "F32", "F16", "BF16")
COUNTERS = "position_ids"  # integers that old files hold and the library leaves out
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 22


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, one or the shards of its index, all present.

    Raises UsageError for a folder without safetensors weights, a broken index or a missing shard.
    """
    if (folder / SINGLE).is_file():  # what the library takes where there are both
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        names = sorted(set(read_index(folder / INDEX).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"{folder}: {len(missing)} of {len(names)} weight files are missing, "
                f"the first is {missing[0]}"
            )
        return [folder / name for name in names]
    others = sorted(p.name for pattern in OTHER_FORMATS for p in folder.glob(pattern))
    if others:
        raise UsageError(f"{folder}: only safetensors weights are read, it has {others[0]}")
    raise UsageError(f"{folder}: no weights ({SINGLE} or {INDEX})")


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file, as the index says it; every file lies in the index's own folder.

    Judged by name: a snapshot of the model hub is made of links to blobs elsewhere.
    """
    try:
        found = {str(k): str(v) for k, v in read_json(path)["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not a weight index") from None
    for name in found.values():
        place = PurePosixPath(name.replace("\\", "/"))
        if place.is_absolute() or ".." in place.parts:
            raise UsageError(f"{path}: names {name!r}, a file outside its own folder")
    return found


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name -> dtype, shape, data_offsets.

    Raises UsageError unless the file is whole: the header parses and the file ends exactly where
    the last tensor does.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= size - 8:
            raise UsageError(f"{path}: not a safetensors file, or cut short ({size} bytes)")
        try:
            header = parse_json(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UsageError(f"{path}: not a safetensors file (unreadable header)") from None
    if size != 8 + length + end:
        raise UsageError(
            f"{path}: cut short or damaged, {size} bytes where {8 + length + end} are announced"
        )
    return header


def check_weights(folder: Path) -> list[Path]:
    """`weight_files`, each one whole and of floating-point numbers, by its header.

    Raises UsageError. Integers would be loaded as they stand, without the scales that they need.
    """
    files = weight_files(folder)
    for path in files:
        for name, entry in read_header(path).items():
            kind = entry.get("dtype")
            if kind not in FLOATS and not name.endswith(COUNTERS):
                raise UsageError(
                    f"{path}: integer or quantised weights, {name!r} is {kind}; "
                    f"give a folder of floating-point ones ({', '.join(FLOATS)})"
                )
    return files


def file_hash(path: Path) -> str:
    """sha256 of a file's content, in hex.

    A file of the model-hub cache is a link to a blob named by exactly this hash; the name is
    taken then, which saves reading many gigabytes.
    """
    real = path.resolve()
    if real.parent.name == "blobs" and SHA256.fullmatch(real.name):
        return real.name
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def weight_hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256 of every weight file of a model folder."""
    return _hashes(folder, weight_files(folder))


def setting_hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256 of everything else that loading reads (`SETTINGS`)."""
    found = {path for pattern in SETTINGS for path in folder.glob(pattern) if path.is_file()}
    return _hashes(folder, sorted(found))


def _hashes(folder: Path, files: list[Path]) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files}
