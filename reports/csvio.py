"""Reading CSV files that may be half written, hand-edited or newer than this code.

A wrong figure is worse than a gap: whatever cannot be trusted is left out and said in a notice.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.common.jsonfile import read_json
from harness.store import tables
from harness.store.columns.table import Table
from harness.store.csvfile import scan
from harness.store.tables import stored

__all__ = ["Spec", "read_object", "read_table", "stored"]

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")
"""Characters that no XML or terminal takes."""


@dataclass(frozen=True)
class Spec:
    """What the report needs of one file.

    ``text`` and ``numbers`` are the columns by type; ``key`` are the columns that tell one record
    from another (a later row replaces an earlier one, as in a run that was resumed); ``required``
    are the columns without which the file says nothing.
    """

    name: str
    text: tuple[str, ...]
    numbers: tuple[str, ...]
    key: tuple[str, ...]
    required: tuple[str, ...]

    @classmethod
    def of(cls, table: Table, *required: str) -> Spec:
        """All columns of a file as its writer declares them."""
        return cls(table.file, table.of_type(True), table.of_type(False), table.key, required)

    @property
    def columns(self) -> list[str]:
        return [*self.text, *self.numbers]


def read_table(path: Path, spec: Spec, notices: list[str]) -> pd.DataFrame:
    """Read one CSV of a run directory.

    Args:
        path: the file; it may be missing.
        spec: the columns that are needed.
        notices: collects one plain sentence for everything that had to be left out.

    Returns:
        A frame that has every column of ``spec`` (text as ``str``, numbers as ``float``, empty
        where nothing was measured) and any further column of the file as text.
    """
    header, records = _rows(path, spec.name, notices) or ([], [])
    missing = [c for c in spec.required if c not in header]
    if header and missing:
        notices.append(f"{spec.name}: left out, it has no column {', '.join(missing)}.")
        header, records = [], []
    return _typed(header, _last_of_each(header, records, spec.key), spec, notices)


def _last_of_each(
    header: list[str], records: list[list[str]], key: tuple[str, ...]
) -> list[list[str]]:
    """The last record of every key, where it stands."""
    places = [header.index(name) for name in key if name in header]
    if not places:
        return records
    last = {tuple(record[i] for i in places): number for number, record in enumerate(records)}
    return [records[number] for number in sorted(last.values())]


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object without characters that cannot be shown. Raises OSError and ValueError."""
    value = _shown(read_json(path))
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _shown(value: Any, depth: int = 0) -> Any:
    if depth > 50:  # before whatever walks it runs out of stack
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return _CONTROL.sub("", value)
    if isinstance(value, dict):
        return {_shown(name): _shown(item, depth + 1) for name, item in value.items()}
    return [_shown(item, depth + 1) for item in value] if isinstance(value, list) else value


def _rows(path: Path, name: str, notices: list[str]) -> tuple[list[str], list[list[str]]] | None:
    """Header and complete records of a file, or None when it holds none."""
    try:
        content = tables.content(path)
    except tables.Unreadable as error:
        notices.append(f"{error.place.name}: cannot be read ({error.said}).")
        return None
    if content is None:
        return None
    text = content.decode("utf-8-sig", errors="replace")
    lines = _CONTROL.sub("", text).split("\n")
    found = scan(line + "\n" for line in lines[:-1])
    if lines[-1] or found.lines < len(lines) - 1:
        # Also a record of the right length may have lost digits, so it is never trusted.
        notices.append(f"{name}: the last line is cut off and was left out.")
    if found.wrong:
        more = len(found.wrong) - 1
        others = f", and {more} more like it," if more else ""
        notices.append(f"{name}: {found.wrong[0]}; it{others} is left out.")
    if not found.header or len(set(found.header)) != len(found.header):
        if text:
            notices.append(f"{name}: left out, it has no usable header line.")
        return None
    return found.header, found.rows


def _typed(
    header: list[str], records: list[list[str]], spec: Spec, notices: list[str]
) -> pd.DataFrame:
    """Text columns as str, number columns as float with NaN for empty or unreadable values."""
    raw = {name: [record[i] for record in records] for i, name in enumerate(header)}
    raw |= {name: [""] * len(records) for name in spec.columns if name not in raw}
    columns: dict[str, pd.Series] = {}
    for name, texts in raw.items():
        if name in spec.numbers:
            values = [_number(text) for text in texts]
            wrong = values.count(None)
            if wrong:
                said = f"{wrong} value(s) of {name} are no number, left out."
                notices.append(f"{spec.name}: {said}")
            columns[name] = pd.Series([math.nan if v is None else v for v in values], dtype=float)
        else:
            columns[name] = pd.Series(texts, dtype=str if name in spec.text else object)
    return pd.DataFrame(columns)


def _number(text: str) -> float | None:
    """NaN for an empty one; None for what is no number. Infinity is none: nothing here is."""
    text = text.strip()
    if not text or text.lower() == "nan":
        return math.nan
    if not text.isascii() or "_" in text:  # which Python takes, and no other reader
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
