"""The samples of a cell by column: numbers as arrays, texts as Arrow arrays. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.store import columns, tables

TEXTS = (  # those that tables are made of
    "doc_id", "prediction", "image_id", "cluster", "image_tokens", "image_kept",
)  # fmt: skip
Floats = NDArray[np.float64]


class Samples:
    """Columns of ``samples/<cell_id>.csv``, as many as tables need."""

    def __init__(self, count: int, numbers: Mapping[str, Floats], texts: Mapping[str, Any]) -> None:
        self.count, self._numbers, self._texts = count, numbers, texts

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Samples:
        """Of rows, whose values are numbers or their text; the first row has every column."""
        import pyarrow as pa

        names = rows[0] if rows else ()
        known = [name for name in names if name in NUMBERS]
        numbers = {name: np.array([_number(row.get(name)) for row in rows]) for name in known}
        texts = {
            name: pa.array([str(row.get(name) or "") for row in rows], pa.string())
            for name in TEXTS
            if name in names
        }
        return cls(len(rows), numbers, texts)

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    def where(self, known: NDArray[np.bool_]) -> Samples:
        """Those samples alone."""
        if known.all():
            return self
        import pyarrow as pa

        numbers = {name: column[known] for name, column in self._numbers.items()}
        texts = {name: column.filter(pa.array(known)) for name, column in self._texts.items()}
        return Samples(int(known.sum()), numbers, texts)

    def numbers(self, name: str) -> Floats:
        """A column, NaN where nothing stands; all of it where there is no such column."""
        found = self._numbers.get(name)
        return np.full(self.count, np.nan) if found is None else found

    def known(self, name: str) -> Floats:
        """The values of a column that are there."""
        found = self.numbers(name)
        return found[~np.isnan(found)]

    def texts(self, name: str) -> Any:
        """A column as an Arrow array of strings."""
        import pyarrow as pa

        found = self._texts.get(name)
        return pa.array([""] * self.count, pa.string()) if found is None else found

    def clusters(self) -> list[str]:
        """What intervals draw: the cluster of own data, else the image; "" without either."""
        names = (self.texts(name).to_pylist() for name in ("cluster", "image_id"))
        return [cluster or image for cluster, image in zip(*names, strict=True)]


NUMBERS = frozenset(columns.SAMPLES.of_type(False))


def _number(value: Any) -> float:
    return np.nan if value in (None, "") else float(value)


def read(path: Path) -> Samples:
    """The samples in a file of a cell, wherever a run keeps it. Raises StoreError.

    What is not plainly whole is read line by line, which says what is wrong.
    """
    return _columns(tables.content(path) or b"") or Samples.of(tables.read_rows(path))


def _columns(content: bytes) -> Samples | None:
    import pyarrow as pa
    from pyarrow import csv

    names = content[: content.find(b"\n")].decode("utf-8", errors="replace").split(",")
    whole = content.endswith(b"\n") and '"' not in "".join(names) and "doc_id" in names
    if not whole or len(set(names)) < len(names):
        return None
    texts = [name for name in TEXTS if name in names]
    numbers = [name for name in names if name in NUMBERS]
    try:
        table = csv.read_csv(
            pa.BufferReader(content),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(
                include_columns=[*texts, *numbers],
                column_types=dict.fromkeys(texts, pa.string())
                | dict.fromkeys(numbers, pa.float64()),
                null_values=[""],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    found = {name: table[name].to_numpy() for name in numbers}
    return Samples(len(table), found, {name: table[name].combine_chunks() for name in texts})
