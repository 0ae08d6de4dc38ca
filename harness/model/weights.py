"""Weight files on disk: are they whole, and what are their hashes? Torch-free."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from harness.errors import UsageError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.h5", "*.msgpack")
SHA256 = re.compile(r"[0-9a-f]{64}")
CHUNK = 1 << 22


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder, one or the shards of its index, all present.

    Raises UsageError for a folder without safetensors weights, a broken index or a missing shard.
    """
    if (folder / INDEX).is_file():
        names = sorted(set(_index(folder / INDEX).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise UsageError(
                f"{folder}: {len(missing)} of {len(names)} weight files are missing, "
                f"the first is {missing[0]}"
            )
        return [folder / name for name in names]
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    others = sorted(p.name for pattern in OTHER_FORMATS for p in folder.glob(pattern))
    if others:
        raise UsageError(f"{folder}: only safetensors weights are read, it has {others[0]}")
    raise UsageError(f"{folder}: no weights ({SINGLE} or {INDEX})")


def _index(path: Path) -> dict[str, str]:
    try:
        return {str(k): str(v) for k, v in json.loads(path.read_text())["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path}: not a weight index") from None


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
            header = json.loads(file.read(length))
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
    """`weight_files`, each one checked for completeness by its header."""
    files = weight_files(folder)
    for path in files:
        read_header(path)
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
    """File name -> sha256 of every weight file of a model folder."""
    return {path.name: file_hash(path) for path in weight_files(folder)}


def processor_hash(folder: Path) -> str:
    """One sha256 over everything that turns a document into model inputs.

    That is the tokenizer, the image processor, the chat template and the generation defaults.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        is_input = path.suffix in (".json", ".jinja", ".model", ".txt") and path.is_file()
        if is_input and path.name not in ("config.json", INDEX):
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
