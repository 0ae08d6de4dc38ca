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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bench.request import Request
from harness.bench.scores import doc_key
from harness.common.errors import CellError, StoreError, one_line
from harness.common.forecast import Forecast
from harness.common.progress import Progressing
from harness.common.roots import ROOT
from harness.common.stops import PROGRAM
from harness.jobs.grid import Cell, Grid
from harness.readouts.regret import DONE, write_regret
from harness.store.columns.regret import BOTH, CONVERSATIONS, EARLIER, LATER, REGRET
from harness.store.csvfile import write_csv
from harness.store.rundir import Store
from harness.store.tables import read_rows

NAME = "regret"
SOURCES = ("jobs/regret.py", "bench/conversation.py", "bench/rescoring.py")
LEFT_OUT, FAILED = "left out", "failed"


class LeftOut(CellError):
    """A method or a bench that has no second turn; the message says why."""


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
        subjects = tuple(cell for cell in grid.cells if cell.method.role != "probe")
        self.grid, self.folder = replace(grid, cells=subjects), out
        self._grouped: dict[str, bool] = {}  # benches of several tasks

    def resume(self, out: Path) -> None:
        """Nothing to refuse: what other settings measured is measured again."""

    def methods(self) -> dict[Any, Path | None]:
        """Every method with conversations to hold, and its weights; any one to write the table."""
        left = self._left()
        if not left and not (self.folder / REGRET.file).is_file():
            left = list(self.grid.cells[:1])
        return {cell.method: cell.checkpoint for cell in left}

    def describe(self) -> dict[str, Any]:
        """Nothing beside the settings."""
        return {}

    def plan(self, forecast: Forecast) -> None:
        """Named only: how long one takes is not known before it is over."""
        for cell in self._left():
            forecast.part(_title(cell))

    def run(self, session: Any, store: Store, show: Progressing) -> bool:
        """Hold what conversations are missing; True when those of a cell failed."""
        named = {r.get("requested_id") or r["cell_id"]: r["cell_id"] for r in store.cells()}
        ids = [named.get(c.key.cell_id, c.key.cell_id) for c in self.grid.cells]
        kept: list[list[Any]] = [[*self._kept(cell)] for cell in self.grid.cells]
        why: dict[str, tuple[str, str]] = {}
        benches: dict[str, Sequence[Pair] | LeftOut] = {}
        for number, cell in enumerate(self.grid.cells):
            if kept[number]:
                continue
            try:
                pairs = self._may(cell, session, store, benches)
                kept[number] = self._hold(cell, ids[number], pairs, session, show)
            except (StoreError, KeyboardInterrupt):
                raise
            except LeftOut as error:
                why[ids[number]] = LEFT_OUT, one_line(error)
                show.say(f"{_title(cell)} is left out: {one_line(error)}")
            except Exception as error:
                why[ids[number]] = FAILED, one_line(error)
                show.warn(f"{PROGRAM}: {_title(cell)} failed: {one_line(error)}")
            rows = [row for found in kept for row in found]
            write_csv(self.folder / CONVERSATIONS.file, CONVERSATIONS, rows)
        for row in write_regret(self.folder, ids, why):
            if row["order"] == BOTH and row["status"] == DONE:
                show.say(_told(row))
        failed = any(status == FAILED for status, _ in why.values())
        return failed or not any(kept)

    # --- what is there ----------------------------------------------------------------------
    def _left(self) -> list[Cell]:
        """Cells that may have a second turn and have none yet."""
        cells = [cell for cell in self.grid.cells if not cell.method.one_turn]
        return [cell for cell in cells if not self._kept(cell)]

    def _kept(self, cell: Cell) -> list[dict[str, str]]:
        """The conversations of a cell under the same code and settings, from an earlier run."""
        stamp = self._stamp(cell)
        rows = read_rows(self.folder / CONVERSATIONS.file)
        return [row for row in rows if row["stamp"] == stamp]

    def _stamp(self, cell: Cell) -> str:
        from harness.store.cells import source_digest

        source = source_digest([ROOT / "harness" / name for name in SOURCES])
        facts = [source, cell.key.cell_id, self.grid.settings.analyse_samples]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    # --- what is done -----------------------------------------------------------------------
    def _may(self, cell: Cell, session: Any, store: Store, benches: dict[str, Any]) -> Any:
        """The pairs of the cell's bench, found once. Raises LeftOut."""
        if cell.method.one_turn:
            raise LeftOut(cell.method.one_turn)
        name = cell.bench.name
        if name not in benches:
            try:
                benches[name] = self._pairs(cell, session, store)
            except LeftOut as error:
                benches[name] = error
        if isinstance(benches[name], LeftOut):
            raise benches[name]
        return benches[name]

    def _pairs(self, cell: Cell, session: Any, store: Store) -> Sequence[Pair]:
        """Of the documents that the run answered, by the images that it saw. Raises LeftOut."""
        from harness.timing.documents import requests_of

        bench, settings = cell.bench, self.grid.settings
        mine = {one.key.cell_id for one in self.grid.cells if one.bench.name == bench.name}
        images = _images(store, mine)
        found = requests_of(session, bench, settings.data, settings.limit, settings.seed)
        if any(type(request) is not Request for request in found):
            raise LeftOut("only single questions with generated answers have a second turn")
        if any(request.asks_box for request in found):
            raise LeftOut("answers with boxes are not scored in a conversation")
        self._grouped[bench.name] = len({request.task for request in found}) > 1
        pairs = paired_by_image({self._names(bench, r)[1]: r for r in found}, images)
        pairs = pairs[: settings.analyse_samples // 2]
        if not pairs:
            raise LeftOut(f"no two questions of the {len(found)} documents share an image")
        return pairs

    def _names(self, bench: Any, request: Request) -> tuple[str, str]:
        """A document's key among the scores, and its name in the tables."""
        key = doc_key(request.doc_id, request.task if self._grouped[bench.name] else "")
        return key, bench.names.get(key, key)

    def _hold(
        self, cell: Cell, cell_id: str, pairs: Sequence[Pair], session: Any, show: Progressing
    ) -> list[dict[str, Any]]:
        """The rows of one cell."""
        from harness.bench.conversation import Talker

        settings = self.grid.settings
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
        rows = []
        for (order, image_id, first, second), said in zip(orders, held, strict=True):
            (one, first_doc), (two, doc_id) = (self._names(cell.bench, r) for r in (first, second))
            rows.append(
                {
                    "cell_id": cell_id, "stamp": self._stamp(cell), "order": order,
                    "bench": cell.bench.name, "metric": metrics["kept"].metric,
                    "image_id": image_id, "cluster": cell.bench.clusters.get(doc_id, ""),
                    "first_doc": first_doc, "doc_id": doc_id,
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


def _images(store: Store, cells: Collection[str]) -> dict[str, str]:
    """Document -> its images' hash, from any finished one of a bench's cells. Raises LeftOut.

    Other cells of its name, of data as they were before, may stand beside them.
    """
    found = next((row for asked, row in store.done().items() if asked in cells), None)
    if found is None:
        raise LeftOut("no cell of it is done, so nobody knows which documents share an image")
    headline = [m for m in store.read_metrics(found["cell_id"]) if m["headline"]]
    if any(m.get("judge") for m in headline):
        raise LeftOut("a judge scores its answers, and is asked for those of the run alone")
    if not any(m.get("scores") for m in headline):
        raise LeftOut("nothing here scores its answers")
    if not all(m.get("higher_is_better", True) for m in headline):
        raise LeftOut("less is better in its metric, which regret has no sign for")
    rows = read_rows(store.samples_csv(found["cell_id"]))
    return {r["doc_id"]: r["image_id"] for r in rows}


def _title(cell: Cell) -> str:
    return f"{NAME} of {cell.name}"


def _told(row: Any) -> str:
    unit = 100 if max(row["turn2_fresh"], row["turn2_kept"]) <= 1 else 1
    ends = [row[name] for name in ("ci_low", "ci_high")]
    known = None not in ends  # there is none with a single image
    interval = f"[{', '.join(f'{unit * one:+.1f}' for one in ends)}]" if known else "(no interval)"
    return (
        f"{NAME} of {row['label']} on {row['bench']} ({row['data']}): {unit * row['regret']:+.1f} "
        f"points {interval} over {row['n']} second turns on {row['images']} images"
    )
