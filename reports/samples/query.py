"""Which documents a reader asks for: search words and filters as SQL, answered in pages."""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Any

from harness.common.nearest import unknown
from reports.errors import ReportError
from reports.samples.index import Index

PAGE = 200  # rows of one answer at most
REMEMBERED = 8  # lists of documents that are kept: four bytes a document
WORD = re.compile(r'"([^"]+)"|(\S+)')

CHANGES = {
    "": "",
    "lost": "a.rank < b.rank",
    "won": "a.rank > b.rank",
    "changed": "a.rank <> b.rank",
    "differ": "a.answer <> b.answer",
    "wrong": "a.ok = 0",
    "right": "a.ok = 1",
    "failed": "",
}
"""What is asked of a method's answer a, and of the one b that it is compared with."""
EVIDENCE = {"": "", "any": "a.evidence < 1", "half": "a.evidence < 0.5", "most": "a.evidence < 0.1",
            "all": "a.evidence = 0"}  # fmt: skip
"""How much of the evidence the layers of method a leave out, mean over layers."""
ANSWERS = "SELECT 1 FROM answers a JOIN series s ON s.id = a.series"


@dataclass(frozen=True)
class Wish:
    """One list of documents.

    ``method`` -1 is any but the controls, ``against`` -1 is dense on the same model.
    """

    bench: str = ""
    words: str = ""
    change: str = ""
    method: int = -1
    against: int = -1
    evidence: str = ""

    @classmethod
    def of(cls, asked: Mapping[str, str], index: Index) -> Wish:
        """From the parts of an address. Raises ReportError, one line, for what is not known."""
        for name, known in (("bench", ["", *index.benches]), ("change", CHANGES),
                            ("evidence", EVIDENCE)):  # fmt: skip
            if asked.get(name, "") not in known:
                raise ReportError(unknown(name, asked[name], [n for n in known if n]))
        numbers = {n: _whole(asked.get(n, "-1"), n) for n in ("method", "against")}
        for name, number in numbers.items():
            if not -1 <= number < len(index.series):
                raise ReportError(f"{name}: -1 to {len(index.series) - 1} expected, not {number}")
        texts = {n: asked.get(n, "") for n in ("bench", "words", "change", "evidence")}
        return cls(**texts, **numbers)  # type: ignore[arg-type]

    def sql(self) -> tuple[str, list[Any]]:
        """The condition on ``docs d`` and its values."""
        parts, values = ["1"], []
        if self.bench:
            parts.append("d.bench = ?")
            values.append(self.bench)
        for phrase, word in WORD.findall(self.words):
            parts.append("instr(d.hay, ?) > 0")
            values.append((phrase or word).casefold())
        if self.change == "failed":
            own = f"{ANSWERS} WHERE a.doc = d.id AND NOT s.control AND"
            parts.append(f"EXISTS ({own} a.ok = 0) AND NOT EXISTS ({own} a.ok IS NOT 0)")
        asked = [c for c in (CHANGES[self.change], EVIDENCE[self.evidence]) if c]
        if asked:
            joined, more = self._answer()
            parts.append(f"EXISTS ({joined} AND {' AND '.join(asked)})")
            values += more
        return " AND ".join(parts), values

    def _answer(self) -> tuple[str, list[Any]]:
        """The answers a of the document that are meant, each with the b it is compared with."""
        text, values = ANSWERS, []
        if " b." in f" {CHANGES[self.change]}":
            chosen = "s.ref" if self.against < 0 else "?"
            text += f" JOIN answers b ON b.doc = a.doc AND b.series = {chosen}"
            values += [] if self.against < 0 else [self.against]
        chosen = "a.series = ?" if self.method >= 0 else "NOT s.control"
        text += f" WHERE a.doc = d.id AND {chosen}"
        values += [self.method] if self.method >= 0 else []
        return text, values


class Lists:
    """Answers wishes; the last few lists are kept, so that their pages cost nothing."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self._kept: OrderedDict[tuple[Wish, int], array[int]] = OrderedDict()
        self._lock = Lock()

    def page(
        self, wish: Wish, start: int, count: int, at: tuple[str, str] | None
    ) -> dict[str, Any]:
        """``total``, the ``rows`` from ``start`` on, and the place of document ``at`` if it is
        among them.
        """
        ids = self._ids(wish)
        with closing(self.index.connect()) as base:
            rows = _rows(base, ids[start : start + min(count, PAGE)].tolist())
            place = None
            if at is not None:
                own = base.execute("SELECT id FROM docs WHERE bench = ? AND doc = ?", at).fetchone()
                place = ids.index(own["id"]) if own is not None and own["id"] in ids else None
        return {"total": len(ids), "start": start, "rows": rows, "at": place}

    def _ids(self, wish: Wish) -> array[int]:
        progress = self.index.progress
        key = wish, progress.cells + len(progress.benches)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        condition, values = wish.sql()
        with closing(self.index.connect()) as base:
            found = base.execute(f"SELECT d.id FROM docs d WHERE {condition} ORDER BY d.id", values)
            ids = array("i", (row[0] for row in found))
        with self._lock:
            self._kept[key] = ids
            while len(self._kept) > REMEMBERED:
                self._kept.popitem(last=False)
        return ids


def _rows(base: Any, ids: list[int]) -> list[dict[str, Any]]:
    """Documents in this order; ``marks`` is [place of the method, right or None, score] each."""
    places = ", ".join("?" * len(ids))
    docs = base.execute(
        f"SELECT id, bench, doc, question, target FROM docs WHERE id IN ({places})", ids
    ).fetchall()
    found = {row["id"]: {**dict(row), "marks": []} for row in docs}
    answers = base.execute(
        f"SELECT doc, series, ok, score FROM answers WHERE doc IN ({places}) ORDER BY doc, series",
        ids,
    )
    for row in answers:
        found[row["doc"]]["marks"].append([row["series"], row["ok"], row["score"]])
    return [found[number] for number in ids]


def _whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ReportError(f"{name}: a whole number expected, not '{text[:40]}'") from None
