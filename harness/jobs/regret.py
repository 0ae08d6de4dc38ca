"""`--analyse regret`: two questions about one image, with the cache kept after the first.

Works on every method of a run, after its cells and with the same loaded model. The questions about
an image are paired in the order of the bench, the first with the second, the third with the fourth,
and each pair is asked in both orders: every document comes first once and second once. A document's
answer as the first turn is also its answer alone. Conversations of a finished method are kept in
regret_samples.csv, so a stopped run goes on with the next one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.answerboxes import BOX_TASKS
from harness.bench.scores import doc_key
from harness.common.errors import CellError, StoreError, one_line
from harness.common.forecast import Forecast
from harness.common.progress import Progressing
from harness.common.roots import ROOT
from harness.common.stops import PROGRAM
from harness.jobs.grid import Cell, Grid
from harness.readouts.regret import write_regret
from harness.store.columns.regret import BOTH, CONVERSATIONS, EARLIER, LATER, REGRET
from harness.store.csvfile import write_csv
from harness.store.rundir import Store
from harness.store.tables import read_rows

NAME = "regret"
SOURCES = ("jobs/regret.py", "bench/conversation.py", "bench/rescoring.py")
LEFT_OUT, FAILED = "left out", "failed"


@dataclass(frozen=True)
class Pair:
    """Two questions about one image, the earlier document first."""

    image_id: str
    earlier: Any  # harness.bench.request.Request
    later: Any


class Regret:
    """The second turns that belong to a run on benchmarks."""

    recorded: dict[str, Any] = {}  # noqa: RUF012  the settings say it all

    def __init__(self, grid: Grid, out: Path) -> None:
        self.grid, self.folder = grid, out

    def resume(self, out: Path) -> None:
        """Nothing to refuse: what other settings measured is measured again."""

    def methods(self) -> dict[Any, Path | None]:
        """Every method with conversations to hold, and its weights."""
        return {cell.method: cell.checkpoint for cell in self._left()}

    def describe(self) -> dict[str, Any]:
        """Nothing beside the settings."""
        return {}

    def plan(self, forecast: Forecast) -> None:
        """Named only: how long one takes is not known before it is over."""
        for cell in self._left():
            forecast.part(_title(cell))

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Hold what conversations are missing; True when those of a cell failed."""
        ids = {r.get("requested_id") or r["cell_id"]: r["cell_id"] for r in store.cells()}
        kept = {cell.key.cell_id: self._kept(cell) for cell in self.grid.cells}
        why: dict[str, tuple[str, str]] = {}
        benches: dict[str, Sequence[Pair] | CellError] = {}
        for cell in self.grid.cells:
            requested = cell.key.cell_id
            if kept[requested] or (reason := cell.method.one_turn):
                if not kept[requested]:
                    why[ids[requested]] = LEFT_OUT, reason
                    show.say(f"{_title(cell)} is left out: {reason}")
                continue
            try:
                if cell.bench.name not in benches:
                    benches[cell.bench.name] = self._pairs(cell, session, store)
                kept[requested] = self._hold(cell, ids[requested], benches, session, show)
            except (StoreError, KeyboardInterrupt):
                raise
            except Exception as error:
                why[ids[requested]] = FAILED, one_line(error)
                show.warn(f"{PROGRAM}: {_title(cell)} failed: {one_line(error)}")
            rows = [row for found in kept.values() for row in found]
            write_csv(self.folder / CONVERSATIONS.file, CONVERSATIONS, rows)
        for row in write_regret(self.folder, [ids[c.key.cell_id] for c in self.grid.cells], why):
            if row["order"] == BOTH and row["status"] not in (LEFT_OUT, FAILED):
                show.say(_told(row))
        return any(status == FAILED for status, _ in why.values())

    # --- what is there ----------------------------------------------------------------------
    def _left(self) -> list[Cell]:
        """Cells that may have a second turn and have none yet."""
        cells = [cell for cell in self.grid.cells if not cell.method.one_turn]
        return [cell for cell in cells if not self._kept(cell)]

    def _kept(self, cell: Cell) -> list[dict[str, str]]:
        """The conversations of a cell under the same code and settings, from an earlier run."""
        stamp = self._stamp(cell)
        if not (self.folder / REGRET.file).is_file():
            return []
        rows = read_rows(self.folder / CONVERSATIONS.file)
        return [row for row in rows if row["stamp"] == stamp]

    def _stamp(self, cell: Cell) -> str:
        from harness.store.cells import source_digest

        source = source_digest([ROOT / "harness" / name for name in SOURCES])
        facts = [source, cell.key.cell_id, self.grid.settings.analyse_samples]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    # --- what is done -----------------------------------------------------------------------
    def _pairs(self, cell: Cell, session: Any, store: Store) -> Sequence[Pair]:
        """Of the documents that the run answered, by the images that it saw. Raises CellError."""
        from harness.timing.documents import requests_of

        bench, settings = cell.bench, self.grid.settings
        if BOX_TASKS.search(bench.task):
            raise CellError("answers with boxes are not scored in a conversation")
        found = requests_of(session, bench.name, settings.data, settings.limit, settings.seed)
        grouped = len({request.task for request in found}) > 1
        requests = {doc_key(r.doc_id, r.task if grouped else ""): r for r in found}
        pairs = paired_by_image(requests, _images(store, bench.name))[
            : settings.analyse_samples // 2
        ]
        if not pairs:
            raise CellError(f"no two questions of the {len(requests)} documents share an image")
        return pairs

    def _hold(
        self, cell: Cell, cell_id: str, benches: dict[str, Any], session: Any, show: Progressing
    ) -> list[dict[str, Any]]:
        """The rows of one cell."""
        from harness.bench.conversation import Talker

        pairs, settings = benches[cell.bench.name], self.grid.settings
        orders = [(EARLIER, p.image_id, p.earlier, p.later) for p in pairs]
        orders += [(LATER, p.image_id, p.later, p.earlier) for p in pairs]
        held = []
        with (
            show.part(_title(cell), show.forecast.part(_title(cell))) as progress,
            session.under(cell.method, cell.checkpoint) as (run, sharing),
        ):
            talker = Talker(session, run, sharing, cell.method.label, settings.allow)
            for number, (_, _, first, second) in enumerate(orders, start=1):
                held.append(talker.hold(first, second))
                if progress is not None:
                    progress(number, len(orders))
        return self._rows(cell, cell_id, orders, held, session)

    def _rows(
        self, cell: Cell, cell_id: str, orders: Any, held: Any, session: Any
    ) -> list[dict[str, Any]]:
        from harness.bench.rescoring import score

        settings = self.grid.settings
        told: dict[str, dict[tuple[str, str], str]] = {"first": {}, "kept": {}, "fresh": {}}
        for (_, _, first, second), said in zip(orders, held, strict=True):
            told["first"][first.task, first.doc_id] = said.first.text
            told["kept"][second.task, second.doc_id] = said.kept.text
            told["fresh"][second.task, second.doc_id] = said.fresh.text
        metrics = {
            name: score(session, cell.bench, answers, settings.limit, settings.seed)
            for name, answers in told.items()
        }
        grouped = len({first.task for _, _, first, _ in orders}) > 1
        rows = []
        for (order, image_id, first, second), said in zip(orders, held, strict=True):
            one, two = (doc_key(r.doc_id, r.task if grouped else "") for r in (first, second))
            rows.append(
                {
                    "cell_id": cell_id, "stamp": self._stamp(cell), "order": order,
                    "bench": cell.bench.name, "metric": metrics["kept"].metric,
                    "image_id": image_id, "first_doc": one, "doc_id": two,
                    "first_score": metrics["first"].scores.get(one),
                    "alone_score": metrics["first"].scores.get(two),
                    "kept_score": metrics["kept"].scores.get(two),
                    "fresh_score": metrics["fresh"].scores.get(two),
                    "first_answer": said.first.text, "kept_answer": said.kept.text,
                    "fresh_answer": said.fresh.text, "n_prompt": said.kept.n_prompt,
                    "n_question": said.n_question, "kv_ratio": said.kept.kv,
                    "kv_ratio_fresh": said.fresh.kv,
                }
            )  # fmt: skip
        return rows


def paired_by_image(requests: dict[str, Any], images: dict[str, str]) -> list[Pair]:
    """Neighbouring questions of every image; a question that was asked before makes no pair."""
    by_image: dict[str, dict[str, Any]] = {}
    for doc, request in requests.items():
        if images.get(doc):
            by_image.setdefault(images[doc], {}).setdefault(request.text, request)
    return [
        Pair(image, *two)
        for image, asked in by_image.items()
        for two in zip(*[iter(asked.values())] * 2, strict=False)
    ]


def _images(store: Store, bench: str) -> dict[str, str]:
    """Document -> its images' hash, from any finished cell of the bench. Raises CellError."""
    for row in store.done().values():
        if row["bench"] == bench:
            rows = read_rows(store.samples_csv(row["cell_id"]))
            return {r["doc_id"]: r["image_id"] for r in rows}
    raise CellError("no cell of it is done, so nobody knows which documents share an image")


def _title(cell: Cell) -> str:
    return f"{NAME} of {cell.name}"


def _told(row: Any) -> str:
    unit = 100 if max(row["turn2_fresh"], row["turn2_kept"]) <= 1 else 1
    low, high = (
        "?" if row[name] is None else f"{unit * row[name]:+.1f}" for name in ("ci_low", "ci_high")
    )
    return (
        f"{NAME} of {row['label']} on {row['bench']} ({row['data']}): {unit * row['regret']:+.1f} "
        f"points [{low}, {high}] over {row['n']} second turns on {row['images']} images"
    )
