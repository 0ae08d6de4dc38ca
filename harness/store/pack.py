"""A run as it is shipped: every answer in a few small files that need no code of ours to be read.

samples.parquet   cell_id and the columns of ``samples/*.csv``, numbers as numbers
metrics.parquet   what the scoring made of them: a row a cell and metric, scores by document
evidence.parquet  answer-bearing patches by document and layer, on benches with boxes
*.csv, *.csv.gz   the run's tables; the large ones under gzip
routing/          the keep masks of the documents shown in pictures
pack.json         what was written, in bytes

Routing records stay where the run is: costs are not counted again from a packed run, tables are
(`--derive`). What is packed is read back and compared before anything is written. Torch-free.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import StoreError, UsageError
from harness.common.jsonfile import parse_json, read_json
from harness.common.nearest import unknown
from harness.common.place import check_place
from harness.options.workload import is_workload
from harness.store import columns, tables
from harness.store.csvfile import cell_text, write_atomic
from harness.store.folder import RUN_JSON, is_busy, open_for_reading, read_run_json
from harness.store.rundir import DONE

WORD = "pack"
MANIFEST = "pack.json"
PLAIN = ("cells.csv", "accuracy.csv", "averages.csv")  # what a person opens first
SMALL = 64 * 1024  # bytes up to which a table stays as it is
LEVEL = 19  # of zstd: written once, read often


@dataclass(frozen=True)
class Packed:
    """What was written: bytes by file, and of how many samples and cells."""

    files: dict[str, int]
    samples: int
    cells: int

    @property
    def bytes(self) -> int:
        return sum(self.files.values())


def pack(run: Path, to: Path, figures: Sequence[str] = ()) -> Packed:
    """Pack a finished run on benchmarks into the folder `to`; `figures` by name go with it.

    Again into the same folder: the same bytes. Raises UsageError for what is no such run and for a
    folder that holds anything else, and StoreError for files that are damaged.
    """
    open_for_reading(str(run), WORD)
    _check_quiet(run)
    _check_run(run)
    about = read_run_json(run)
    origin = {"created_at": about.get("created_at"), "cells": about.get("cells")}
    files = _packed(run, about) | _figures(run, figures)
    samples, cells = _count(run)
    _check_target(run, to, origin, files)
    found = Packed({name: len(content) for name, content in files.items()}, samples, cells)
    manifest = {"run": origin, "samples": samples, "bytes": found.files}
    # First, so that a pack that was cut off can be made again.
    write_atomic(to / MANIFEST, _json(manifest))
    for name, content in files.items():
        write_atomic(to / name, content, durable=False)
    return found


def settle(run: Path) -> None:
    """Put tables that were written again back under gzip, where the pack had them so."""
    for zipped in run.glob("*.csv.gz"):
        plain = zipped.with_suffix("")
        if plain.exists():
            write_atomic(zipped, _zipped(plain.read_bytes()), durable=False)
            plain.unlink()


def _zipped(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _check_quiet(run: Path) -> None:
    if is_busy(run):
        raise UsageError(f"{WORD}: another run is writing to '{run}' now")


def _check_run(run: Path) -> None:
    if tables.stored(run / "study.csv") is not None:
        raise UsageError(f"{WORD}: '{run}' is a study; pack the runs of its arms one by one")
    for row in _answered(run):
        if not all(tables.exists(place) for place in _places(run, row["cell_id"])[:2]):
            raise UsageError(
                f"{WORD}: '{run}' has no samples of {row['label']} on {row['bench']}: give the "
                "directory of a run as its command wrote it"
            )


def _answered(run: Path) -> list[dict[str, str]]:
    rows = tables.read_rows(run / "cells.csv")
    return [r for r in rows if r.get("status") == DONE and not is_workload(r.get("bench", ""))]


def _places(run: Path, cell: str) -> tuple[Path, Path, Path]:
    folder = run / tables.FOLDER
    return (
        folder / f"{cell}.csv",
        folder / f"{cell}.metrics.json",
        folder / f"{cell}.evidence.json",
    )


def _count(run: Path) -> tuple[int, int]:
    rows = _answered(run)
    return sum(int(row["n"] or 0) for row in rows), len(rows)


def _check_target(
    run: Path, to: Path, origin: Mapping[str, Any], files: Mapping[str, bytes]
) -> None:
    """Refuse a folder with anything that is not this run's pack or its report."""
    try:
        check_place(to)
    except UsageError as error:
        raise UsageError(f"--to: {error}") from None
    if to.exists() and not to.is_dir():
        raise UsageError(f"--to: '{to}' is a file; give a folder")
    if to.exists() and to.resolve() == run.resolve():
        raise UsageError(f"--to: '{to}' is the run itself; choose another folder")
    if not to.exists() or not any(to.iterdir()):
        return
    try:
        before = read_json(to / MANIFEST)
        owned, same = set(before["bytes"]), before["run"] == origin
    except (OSError, ValueError, TypeError, KeyError):
        raise UsageError(f"--to: '{to}' holds other files; choose a new folder") from None
    if not same:
        raise UsageError(f"--to: '{to}' holds another run's pack; choose a new folder")
    foreign = [name for name in files if name not in owned and (to / name).exists()]
    if foreign:
        raise UsageError(f"--to: '{to}' holds {foreign[0]}, which is not of the pack; remove it")


# --- the files ------------------------------------------------------------------------------
def _packed(run: Path, about: Mapping[str, Any]) -> dict[str, bytes]:
    words = _words(about.get("argv", ()))
    about = {**about, "argv": words}
    if about.get("data_asked"):
        (about["data_asked"],) = _words([str(about["data_asked"])])
    about.pop("own_asked", None)  # places of one machine: a pack is not judged
    found = {RUN_JSON: _json(about)}
    names = {path.name.removesuffix(".gz") for path in run.glob("*.csv*")}
    for name in sorted(name for name in names if name.endswith(".csv")):
        content = tables.content(run / name) or b""
        if name in PLAIN or len(content) <= SMALL:
            found[name] = content
        else:
            found[f"{name}.gz"] = _zipped(content)
    for path in sorted(run.glob("*.json")):
        if path.name not in (RUN_JSON, MANIFEST):
            found[path.name] = path.read_bytes()
    cells = [row["cell_id"] for row in _answered(run)]
    if cells:
        found |= {tables.SAMPLES: _samples(run, cells)}
        found |= {tables.METRICS: _metrics(run, cells)}
        found |= _evidence(run, cells)
    for path in sorted((run / "routing").rglob("*")):
        if path.is_file():
            found[path.relative_to(run).as_posix()] = path.read_bytes()
    return found


def _words(argv: Iterable[str]) -> list[str]:
    """A command line without the places of one machine: of an absolute path its last name."""
    return [Path(word).name if Path(word).is_absolute() else word for word in argv]


def _samples(run: Path, cells: Sequence[str]) -> bytes:
    rows = []
    for cell in cells:
        rows += [{tables.CELL: cell, **one} for one in tables.read_rows(_places(run, cell)[0])]
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {*columns.SAMPLES.of_type(True), tables.CELL}
    import pyarrow as pa

    table = {}
    for name in names:
        column = [row.get(name, "") for row in rows]
        table[name] = pa.array(*((column, pa.string()) if name in texts else _typed(column)))
    return _parquet(pa.table(table))


def _typed(column: Sequence[str]) -> tuple[list[Any], Any]:
    """Values and their type: numbers where their text comes back to the last digit, else text."""
    import pyarrow as pa

    for read, kind in ((int, pa.int64()), (float, pa.float64())):
        try:
            values = [read(text) if text else None for text in column]
        except ValueError:
            continue
        whole = read is float or all(v is None or abs(v) < 2**63 for v in values)
        if whole and all(cell_text(v) == t for v, t in zip(values, column, strict=True)):
            return values, kind
    return list(column), pa.string()


def _metrics(run: Path, cells: Sequence[str]) -> bytes:
    import pyarrow as pa

    rows = []
    for cell in cells:
        for one in _listed(_places(run, cell)[1]):
            scores = one["scores"]
            about = {k: v for k, v in one.items() if k != "scores"}
            lists = {"doc_ids": list(scores), "scores": [float(v) for v in scores.values()]}
            known = one.get("not_scored") or _finite(one["value"])
            if tables.metric({**about, **lists}) != one or not known:
                raise StoreError(f"{run}: the metrics of {cell} cannot be packed as they are")
            rows.append({tables.CELL: cell, **about, **lists})
    kinds = {"doc_ids": pa.list_(pa.string()), "scores": pa.list_(pa.float64())}
    names = dict.fromkeys(name for row in rows for name in row)
    kinds |= dict.fromkeys(tables.SOMETIMES, pa.string())
    table = {name: pa.array([row.get(name) for row in rows], kinds.get(name)) for name in names}
    return _parquet(pa.table(table))


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _evidence(run: Path, cells: Sequence[str]) -> dict[str, bytes]:
    import pyarrow as pa

    rows = []
    for cell in cells:
        place = _places(run, cell)[2]
        found = _listed(place) if tables.exists(place) else []
        rows += [{tables.CELL: cell, **one} for one in found]
    return {tables.EVIDENCE: _parquet(pa.Table.from_pylist(rows))} if rows else {}


def _listed(path: Path) -> list[dict[str, Any]]:
    try:
        return list(parse_json(tables.content(path) or b"[]"))
    except ValueError as error:
        raise StoreError(f"{path}: cannot be read ({error})") from None


def _parquet(table: Any) -> bytes:
    """The file, read back: a pack that lost anything is never written."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=LEVEL,
                   write_statistics=False, store_schema=False)  # fmt: skip
    content = buffer.getvalue()
    if not pq.read_table(io.BytesIO(content)).equals(table):
        raise StoreError("a packed table does not come back as it was")
    return content


def _figures(run: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Figures by name, in every format, with the slice each was drawn from."""
    there = [path for path in sorted((run / "figures").glob("*")) if path.is_file()]
    found: dict[str, bytes] = {}
    for name in names:
        files = [path for path in there if path.stem == name]
        if not files:
            known = list(dict.fromkeys(path.stem for path in there))
            raise UsageError(f"--figures: {unknown('figure', name, known)}")
        found |= {f"figures/{path.name}": path.read_bytes() for path in files}
    return found


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
