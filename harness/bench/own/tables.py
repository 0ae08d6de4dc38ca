"""Files of own data as raw rows: what each format is, and what is wrong with a whole file."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.ownfiles import TABLES

COLUMNS = (
    "id", "image", "images", "question", "answer", "answers", "choices", "boxes", "metric",
    "cluster", "post_prompt",
)  # fmt: skip
ALIASES = {"file_name": "image"}  # of folders of images as the datasets library writes them
LISTS = ("images", "answers", "choices", "boxes")  # JSON lists in a CSV
TEXTS = re.compile(r'\[\s*".*"\s*\]', re.DOTALL)  # a JSON list of them
NEEDED = (("image", "images"), ("question",), ("answer", "answers", "boxes"))
VIDEO = ("video", "videos")
NEAR = 0.8  # similarity from which an unknown column is a slip of the pen
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")


class BadRow(Exception):
    """What is wrong with one row: its kind, which is counted, and what is said of it."""

    def __init__(self, kind: str, said: str = "") -> None:
        super().__init__(said or kind)
        self.kind = kind


@dataclass(frozen=True)
class Raw:
    """One row as it stands in the file, counted from 1: its values, or what is wrong with it."""

    number: int
    values: Mapping[str, Any]
    fault: BadRow | None = None


@dataclass(frozen=True)
class Table:
    """The rows of own data. ``folder``: what image paths start from. ``unused``: columns."""

    rows: list[Raw]
    folder: Path
    unused: tuple[str, ...]


def read_table(path: Path) -> Table:
    """The rows of a file or folder. Raises UsageError, one line, for a file that is none."""
    found: list[tuple[Any, BadRow | None]] = []
    try:
        for file in _files(path) if path.is_dir() else [path]:
            found += READERS[file.suffix.lower()](file)
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror or one_line(error)})") from None
    if not found:
        raise _wrong(path, "there are no rows in it")
    names = dict.fromkeys(name for values, fault in found if fault is None for name in values)
    unused = _check_columns(path, list(names))
    rows = [
        Raw(number, {} if fault else _known(values), fault)
        for number, (values, fault) in enumerate(found, start=1)
    ]
    return Table(rows, path if path.is_dir() else path.parent, unused)


def _wrong(path: Path, why: str) -> UsageError:
    return UsageError(f"--bench: {path.name}: {why}")


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    named = ((ALIASES.get(name, name), value) for name, value in values.items())
    return {name: value for name, value in named if name in COLUMNS}


def _check_columns(path: Path, names: list[str]) -> tuple[str, ...]:
    """The columns nobody reads. Raises UsageError: one that is missing, misspelt, or a video."""
    known = [*COLUMNS, *ALIASES]
    for name in names:
        if name.lower() in VIDEO:
            raise _wrong(path, f"column '{name}': videos cannot be asked about; give frames of "
                         "one as a list in images")  # fmt: skip
    unused = [name for name in names if name not in known]
    for name in unused:
        close = difflib.get_close_matches(name.lower(), known, 1, NEAR)
        if close:
            raise _wrong(path, f"unknown column '{name}': did you mean '{close[0]}'?")
    both = [name for name in ALIASES if name in names and ALIASES[name] in names]
    if both:
        raise _wrong(path, f"'{both[0]}' and '{ALIASES[both[0]]}' are the same column")
    named = {ALIASES.get(name, name) for name in names}
    for choice in NEEDED:
        if names and named.isdisjoint(choice):
            have = ", ".join(names) or "none"
            raise _wrong(path, f"no column {' or '.join(choice)}; its columns are {have}")
    return tuple(name or "one without a name" for name in unused)


# --- folders --------------------------------------------------------------------------------
def _files(folder: Path) -> list[Path]:
    """The table of a folder: `metadata.*`, the only one, or the shards of one split."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in TABLES)
    named = [p for p in found if p.stem == "metadata"]
    if len(named or found) == 1:
        return named or found
    if not found and (folder / "data").is_dir():
        found = sorted(p for p in (folder / "data").iterdir() if p.suffix.lower() == ".parquet")
        if len(found) == 1:
            return found
    splits = {m.group(1) if (m := SHARD.fullmatch(p.name)) else p.name for p in found}
    if len(splits) == 1:
        return found
    if found:
        have = ", ".join(p.relative_to(folder).as_posix() for p in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise _wrong(folder, f"several tables are in it ({have}{more}): name one of them, or call "
                     "one metadata.jsonl")  # fmt: skip
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        raise _wrong(folder, "a dataset as save_to_disk leaves it: write it with to_parquet")
    raise _wrong(folder, f"no table is in it: expected one of metadata{', metadata'.join(TABLES)}")


# --- formats --------------------------------------------------------------------------------
Rows = Iterable[tuple[Any, BadRow | None]]


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, f"not UTF-8 (byte {content[error.start]:#04x} at {error.start}): save "
                     "it as UTF-8") from None  # fmt: skip


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"'{twice}' stands twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON")


def _loads(text: str) -> Any:
    """JSON whose numbers keep their digits. Raises ValueError, also for a name given twice."""
    return json.loads(
        text, object_pairs_hook=_pairs, parse_float=Decimal, parse_constant=_no_number
    )


def _objects(values: Iterable[Any]) -> Iterator[tuple[Any, BadRow | None]]:
    for value in values:
        if isinstance(value, dict):
            yield value, None
        else:
            yield {}, BadRow("not an object", "not an object with names and values")


def _json(path: Path) -> Rows:
    try:
        found = _loads(_text(path))
    except (ValueError, RecursionError) as error:
        hint = " (a file of one object a line is .jsonl)" if "Extra data" in str(error) else ""
        raise _wrong(path, f"not JSON: {one_line(str(error), 120)}{hint}") from None
    if not isinstance(found, list):
        raise _wrong(path, "expected a list of rows: [{...}, {...}]")
    return _objects(found)


def _jsonl(path: Path) -> Rows:
    # By line feeds alone: other ends of line may stand inside a text.
    for line in _text(path).split("\n"):
        if not line.strip():
            continue
        try:
            yield from _objects([_loads(line)])
        except (ValueError, RecursionError) as error:
            yield {}, BadRow("not JSON", f"not JSON: {one_line(str(error), 80)}")


def _csv(path: Path) -> Rows:
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise _wrong(path, f"column '{twice[0]}' stands twice")
        for fields in reader:
            if fields:
                yield _csv_row(names, fields)
    except csv.Error as error:
        raise _wrong(path, f"not CSV (line {reader.line_num}: {error})") from None


def _csv_row(names: list[str], fields: list[str]) -> tuple[Any, BadRow | None]:
    if len(fields) != len(names):
        said = f"{len(fields)} fields where the header has {len(names)}"
        return {}, BadRow("wrong number of fields", said)
    row: dict[str, Any] = dict(zip(names, fields, strict=True))
    for name in LISTS:
        if not str(row.get(name) or "").strip():
            continue
        try:
            row[name] = _loads(row[name])
        except (ValueError, RecursionError):
            row[name] = None
        if not isinstance(row[name], list):
            return {}, BadRow("no list", f'{name} is no JSON list, such as ["one", "two"]')
    if TEXTS.fullmatch(str(row.get("answer") or "").strip()):
        return {}, BadRow("answer is a list", "answer is a list of texts: its column is answers")
    return row, None


def _parquet(path: Path) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, pa.ArrowInvalid) as error:
        raise _wrong(path, f"not Parquet: {one_line(str(error), 120)}") from None
    wanted = [n for n in table.column_names if n in COLUMNS or n in ALIASES]
    others = dict.fromkeys(n for n in table.column_names if n not in wanted)
    return ((row | others, None) for row in table.select(wanted).to_pylist())


READERS: dict[str, Callable[[Path], Rows]] = {
    ".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
