"""The weight files of a released folder, read by their index, one file at a time.

Safetensors, or PyTorch's own files under `weights_only`: a file that asks for more than tensors is
refused, never unpickled.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UsageError, one_line
from harness.model.weights import INDEX, SINGLE, read_header, read_index

if TYPE_CHECKING:
    from torch import Tensor

BIN_INDEX, BIN_SINGLE = "pytorch_model.bin.index.json", "pytorch_model.bin"
# What only an adapter's folder holds: its numbers are updates of weights that lie elsewhere.
ADAPTERS = (
    *("non_lora_trainables.bin", "adapter_config.json"),
    *("adapter_model.bin", "adapter_model.safetensors"),
)


class Weights:
    """The tensors of one folder. Nothing is read before it is asked for.

    Raises UsageError, one line: no weights, an adapter, a missing or damaged file, an index that
    does not say what the files hold.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ADAPTERS:
            if (folder / name).exists():
                raise UsageError(
                    f"{folder}: {name} makes it an adapter (LoRA): merge it into its base model "
                    "first"
                )
        self.files, self._index = self._found()

    def _found(self) -> tuple[list[Path], dict[str, str] | None]:
        for index, single in ((INDEX, SINGLE), (BIN_INDEX, BIN_SINGLE)):
            if (self.folder / single).is_file():
                return [self.folder / single], None
            if (self.folder / index).is_file():
                where = read_index(self.folder / index)
                names = sorted(set(where.values()))
                lost = [name for name in names if not (self.folder / name).is_file()]
                if lost:
                    raise UsageError(
                        f"{self.folder}: {len(lost)} of {len(names)} weight files are missing, "
                        f"the first is {lost[0]}"
                    )
                return [self.folder / name for name in names], where
        alone = " (mm_projector.bin is a projector alone)"
        hint = alone if (self.folder / "mm_projector.bin").exists() else ""
        raise UsageError(
            f"{self.folder}: no weights: none of {SINGLE}, {INDEX}, {BIN_SINGLE} and {BIN_INDEX}"
            + hint
        )

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every tensor, their numbers unread (old .bin files excepted)."""
        found: dict[str, tuple[int, ...]] = {}
        for path in self.files:
            if path.suffix == ".safetensors":
                here = {k: tuple(map(int, v["shape"])) for k, v in read_header(path).items()}
            else:
                here = {name: tuple(value.shape) for name, value in _unpickled(path).items()}
            self._check(path, here)
            found |= here
        return found

    def _check(self, path: Path, here: dict[str, tuple[int, ...]]) -> None:
        if self._index is None:
            return
        said = {name for name, file in self._index.items() if file == path.name}
        for names, what in ((said - here.keys(), "lacks"), (here.keys() - said, "also holds")):
            if names:
                raise UsageError(
                    f"{path}: {what} {listed(names)}: not what the folder's index says"
                )

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """Those named, as they are stored, on the CPU, one at a time, a file after the other."""
        for path in self.files:
            if path.suffix == ".safetensors":
                yield from _one_by_one(path, names)
            else:
                yield from ((k, v) for k, v in _unpickled(path).items() if k in names)


def _one_by_one(path: Path, names: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            for name in (one for one in file.keys() if one in names):  # noqa: SIM118, no mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, KeyError):
        raise UsageError(f"{path} is damaged or not a safetensors file") from None


def _unpickled(path: Path) -> dict[str, Tensor]:
    """A .bin file; mapped, not read, where its format allows that."""
    import torch

    try:
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError:
        raise UsageError(
            f"{path}: holds more than tensors, and reading that could run code: expected a plain "
            "table of tensors, or safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: damaged, or no file of tensors: {one_line(error, 120)}"
        ) from None
    plain = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items()
    )
    if not plain:
        raise UsageError(
            f"{path}: expected a table of tensors by name, found {type(found).__name__}"
        )
    return dict(found)


def listed(names: object, most: int = 3) -> str:
    """The first few of some names, and how many there are beside them."""
    every = sorted(map(str, names))  # type: ignore[call-overload]
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more
