"""One document whole: its question and image, every method's answer, and what each layer kept."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from harness.common.errors import StoreError
from harness.store.packing import unpack
from harness.store.record import DAMAGED, RoutingRecord
from reports.entries import entry
from reports.record import drawable, read
from reports.samples.documents import told
from reports.samples.files import packed_records
from reports.samples.index import Index
from reports.shown import Shown, question

GONE = "What its layers kept of this document is not in the run directory."
NUMBERS = ("score", "ok", "n_image", "n_text", "n_out", "kv_vision", "kv", "prefill", "decode",
           "evidence")  # fmt: skip


def detail(index: Index, bench: str, doc: str) -> dict[str, Any] | None:
    """The document as JSON, None where there is none of this name (or not yet)."""
    whole = bench in index.progress.benches  # else more answers of it will follow
    with closing(index.connect()) as base:
        row = base.execute(
            "SELECT * FROM docs WHERE bench = ? AND doc = ?", (bench, doc)
        ).fetchone()
        if row is None:
            return None
        answers = base.execute("SELECT * FROM answers WHERE doc = ? ORDER BY series", (row["id"],))
        methods = [_method(index, base, row, dict(answer)) for answer in answers]
    names = [name for name in (row["image"] or "").split("+") if name] or [""]
    found = [index.source(bench).image(doc, name) for name in names]
    missing = list(dict.fromkeys(one for one in found if isinstance(one, str)))
    files = [not isinstance(one, str) for one in found]
    asked = row["question"] or next((m["asked"] for m in methods if m["asked"]), None)
    return {
        "bench": bench,
        "doc": doc,
        "mini": bench in index.mini,
        "whole": whole,
        "question": asked,
        "target": row["target"],
        "images": row["images"],
        "image": row["image"] if files[0] else None,
        "files": files,
        "no_image": " ".join(missing),
        "methods": methods,
    }


def _method(index: Index, base: Any, row: Any, answer: dict[str, Any]) -> dict[str, Any]:
    series = index.series[answer["series"]]
    cell_id = index.cells[series, row["bench"]]
    about = told(index.run / "routing" / cell_id).get(row["doc"], {})
    record, why = _record(index, base, cell_id, row["doc"], about)
    found = {
        "series": answer["series"],
        "answer": answer["answer"],
        **{name: answer[name] for name in NUMBERS},
        "why": why,
        "asked": "",
        "shown": None,
    }
    if record is not None:
        said = {"words": about.get("words"), "prediction": answer["answer"],
                "target": row["target"], "score": answer["score"]}  # fmt: skip
        shown = Shown(series, row["bench"], cell_id, row["doc"], record, said)
        found |= {"shown": entry([shown]), "asked": question(shown)}
    return found


def _record(
    index: Index, base: Any, cell_id: str, doc: str, about: dict[str, Any]
) -> tuple[RoutingRecord | None, str]:
    """The routing record, or the sentence why there is none."""
    try:
        if (path := about.get("file")) is not None and path.is_file():
            return read(path), ""
        own = "SELECT data FROM records WHERE cell = ? AND doc = ?"
        kept = base.execute(own, (cell_id, doc)).fetchone()
        if kept is not None:
            return drawable(unpack(kept["data"])), ""
        if not index.progress.records:  # not reached yet: read up to it
            return _streamed(index, cell_id, doc)
    except (OSError, ValueError, StoreError, *DAMAGED) as error:
        return None, f"What its layers kept cannot be read ({str(error)[:160]})."
    return None, GONE


def _streamed(index: Index, cell_id: str, doc: str) -> tuple[RoutingRecord | None, str]:
    path = index.run / "records" / f"{cell_id}.gz"
    if not path.is_file():
        return None, GONE
    for name, packed in packed_records(path):
        if name == doc:
            return drawable(unpack(packed)), ""
    return None, GONE
