"""Tensors written as they come, into safetensors files of bounded size with an index."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from harness.model.tensorfiles import write_whole
from harness.model.weights import INDEX, SINGLE

if TYPE_CHECKING:
    from torch import Tensor

SHARD = 2_000_000_000  # bytes of a file, and about what is held in memory


class Writer:
    """Weight files of a model folder; `close` names them, before that they are partial."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Tensor] = {}
        self._size = self._total = 0
        self._written: list[list[str]] = []
        self.dtype: str | None = None  # of the first tensor

    def add(self, name: str, value: Tensor) -> None:
        """Take one tensor; what it shares memory with may be freed or changed only after this."""
        value = value.detach().contiguous().clone()
        self.dtype = self.dtype or str(value.dtype).removeprefix("torch.")
        size = value.numel() * value.element_size()
        if self._held and self._size + size > SHARD:
            self._flush()
        self._held[name] = value
        self._size += size
        self._total += size

    def _flush(self) -> None:
        from safetensors.torch import save_file

        save_file(self._held, self._partial(len(self._written)), metadata={"format": "pt"})
        self._written.append(list(self._held))
        self._held, self._size = {}, 0

    def _partial(self, number: int) -> Path:
        return self.folder / f"weights-{number}.partial"

    def close(self) -> None:
        """Write what is left and give all files their names; the index comes last."""
        if self._held:
            self._flush()
        count = len(self._written)
        names = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        if count == 1:
            names = [SINGLE]
        for number, name in enumerate(names):
            os.replace(self._partial(number), self.folder / name)
        if count > 1:
            where = {t: file for file, ts in zip(names, self._written, strict=True) for t in ts}
            table = {"metadata": {"total_size": self._total}, "weight_map": where}
            text = json.dumps(table, indent=2, sort_keys=True) + "\n"
            write_whole(self.folder / INDEX, text.encode())
