"""Tensors in the weight files of a folder, read, or written so that a file is whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UsageError
from harness.model.weights import INDEX, SINGLE, check_weights

if TYPE_CHECKING:
    from torch import Tensor

SHARD = "5GB"  # larger files are split, as the hub's own libraries do


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder. Raises UsageError, one line, where a file is not whole."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = {}
    for path in check_weights(folder):
        try:
            tensors |= load_file(str(path))
        except (SafetensorError, OSError, ValueError, KeyError):
            raise UsageError(f"{path} is damaged or not a safetensors file") from None
    return tensors


def write_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """One file, or several with an index where they are over `SHARD`, as in model folders."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    split = split_torch_state_dict_into_shards(dict(tensors), max_shard_size=SHARD)
    for file, names in split.filename_to_tensors.items():
        partial = folder / f"{file}.partial"
        plain = {k: tensors[k].detach().to("cpu").contiguous().clone() for k in names}
        save_file(plain, partial, metadata={"format": "pt"})
        os.replace(partial, folder / file)
    if split.is_sharded:
        table = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_whole(folder / INDEX, (json.dumps(table, indent=2, sort_keys=True) + "\n").encode())
    stale = SINGLE if split.is_sharded else INDEX  # of an earlier, smaller or larger checkpoint
    (folder / stale).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name first, so that no reader meets a part of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
