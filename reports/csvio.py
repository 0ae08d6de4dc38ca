"""Reading CSV files that may be half written, hand-edited or newer than this code.

A wrong figure is worse than a gap: whatever cannot be trusted is left out and said in a notice.
"""

from __future__ import annotations

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
    empty = pd.DataFrame({c: pd.Series(dtype=object) for c in spec.columns})
    rows = _rows(path, spec.name, notices)
    if rows is None:
        return _typed(empty, spec, notices)
    header, records = rows
    missing = [c for c in spec.required if c not in header]
    if missing:
        notices.append(f"{spec.name}: left out, it has no column {', '.join(missing)}.")
        return _typed(empty, spec, notices)
    frame = pd.DataFrame(records, columns=header, dtype=object)
    for column in spec.columns:
        if column not in frame:
            frame[column] = ""
    key = list(spec.key)
    return _typed(frame.drop_duplicates(key, keep="last").reset_index(drop=True), spec, notices)


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


def _typed(frame: pd.DataFrame, spec: Spec, notices: list[str]) -> pd.DataFrame:
    """Text columns as str, number columns as float with NaN for empty or unreadable values."""
    for column in spec.text:
        frame[column] = frame[column].astype(str)
    for column in spec.numbers:
        raw = frame[column].astype(str).str.strip()
        values = pd.to_numeric(raw, errors="coerce").astype(float)
        values = values.where(values.abs() != float("inf"))
        wrong = int((values.isna() & (raw != "") & (raw.str.lower() != "nan")).sum())
        if wrong:
            notices.append(f"{spec.name}: {wrong} value(s) of {column} are no number, left out.")
        frame[column] = values
    return frame
