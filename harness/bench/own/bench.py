"""A table of questions with images as a bench: its rows, its key, and the dataset that is asked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.answerboxes import OWN_TASK
from harness.bench.benches import Bench
from harness.bench.catalog import BENCHES
from harness.bench.own.images import Pictures
from harness.bench.own.rows import METRICS, SCORE, Row, parse_row
from harness.bench.own.tables import BadRow, read_table
from harness.bench.sources import SHOWN
from harness.bench.tasks_index import TaskFile, index, upstream_folder
from harness.common.conditions import BAD_ROWS
from harness.common.errors import UsageError
from harness.common.ownfiles import OWN

SPLIT = "test"
TOLD = 3  # bad rows that are named
COLUMN = "image_{}"  # of the n-th image, counted from 1


@dataclass(frozen=True)
class OwnBench(Bench):
    """``rows`` are those that are asked; ``remarks`` what must be said of the others."""

    rows: tuple[Row, ...] = field(default=(), repr=False)
    remarks: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        return OWN

    @property
    def data_source(self) -> str:
        return f"{self.name}@{self.fingerprint()[:SHOWN]}"

    @property
    def documents(self) -> int:  # type: ignore[override]
        return len(self.rows)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.remarks

    @property
    def names(self) -> dict[str, str]:
        return {str(place): row.id for place, row in enumerate(self.rows)}

    @property
    def clusters(self) -> dict[str, str]:
        return {row.id: row.cluster for row in self.rows if row.cluster}

    def fingerprint(self, limit: int | None = None) -> str:
        """A hash over the first `limit` rows and their images' content, wherever they lie.

        And over the headline, which is another one where a row behind them has another metric.
        """
        rows = [row.content for row in self.rows[:limit]]
        text = json.dumps([self.metric, *rows], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def require(self, limit: int | None = None) -> None:
        """Nothing is left to check: its rows and images were read."""

    def dataset(self) -> Any:
        """What lmms-eval loads: a split of the rows, every image in a column of the images' own.

        The library decodes images when they are asked for.
        """
        from datasets import Dataset, DatasetDict, Features, Image, List, Value

        text = Value("string")
        mixed = len({row.metric for row in self.rows}) > 1
        most = max(len(row.pictures) for row in self.rows)
        images = {COLUMN.format(n): Image() for n in range(1, most + 1)}
        kinds: dict[str, Any] = {
            "id": text, "question": text, "metric": text, "mixed": Value("bool"), "target": text,
            "answers": List(text), "choices": List(text), "post_prompt": text,
            "box": List(Value("float64")), "boxes": text, "evidence": List(Value("int64")),
        }  # fmt: skip
        found = [_document(row, mixed, most) for row in self.rows]
        columns = {name: [one[name] for one in found] for name in (*kinds, *images)}
        return DatasetDict({SPLIT: Dataset.from_dict(columns, features=Features(kinds | images))})


def _document(row: Row, mixed: bool, most: int) -> dict[str, Any]:
    """A row as `harness.bench.own.task` and the readers of evidence boxes want it."""
    first, box = row.pictures[0], []
    if row.metric == "iou":  # in shares of the image, as RefCOCO's scoring has it
        x0, y0, x1, y1 = row.boxes[0]
        box = [x0 / first.width, y0 / first.height, x1 / first.width, y1 / first.height]
    shown = [*row.pictures, *[None] * (most - len(row.pictures))]
    return {
        "id": row.id,
        "question": row.question,
        "metric": row.metric,
        "mixed": mixed,
        "target": f"[{', '.join(f'{edge:.4f}' for edge in box)}]" if box else _usual(row.answers),
        "answers": list(row.answers),
        "choices": list(row.choices),
        "post_prompt": row.post_prompt,
        "box": box,
        "boxes": json.dumps([{"box": edges} for edges in row.boxes]),
        "evidence": list(range(len(row.boxes))),
        **{COLUMN.format(n): one and one.stored for n, one in enumerate(shown, start=1)},
    }


def _usual(answers: tuple[str, ...]) -> str:
    return Counter(answers).most_common(1)[0][0]


def rows_bench(path: Path, allow: Sequence[str]) -> OwnBench:
    """The bench of a table or folder.

    Raises UsageError, one line, for rows that cannot be asked or scored: how many, why, and the
    first ones. With ``bad-rows`` allowed they are left out and the report says so.
    """
    # Of a link its own name: caches keep files under their hashes, and two links may lead to one.
    name = path.name if path.name not in ("", "..") else path.resolve().name
    if path.is_dir() and (name in BENCHES or name in index(upstream_folder())):
        raise UsageError(
            f"--bench: the folder {name} has the name of a bench: rename it, or name the file in it"
        )
    table = read_table(path)
    pictures, good, bad = Pictures(table.folder), [], []
    seen: dict[str, int] = {}
    for raw in table.rows:
        try:
            row = parse_row(raw, pictures)
            if row.id in seen:
                said = f"its id '{row.id[:40]}' is that of row {seen[row.id]}"
                raise BadRow("duplicate id", said)
            seen[row.id] = raw.number
            good.append(row)
        except BadRow as error:
            bad.append((raw.number, error))
    remarks = []
    if bad:
        why = _told(bad, len(table.rows))
        if BAD_ROWS not in allow or not good:
            hint = f" (--allow {BAD_ROWS} leaves them out)" if good else ""
            raise UsageError(f"--bench: {name}: {why}{hint}")
        remarks.append(f"left out, as allowed: {why}")
    if table.unused:
        remarks.append(f"columns not used: {', '.join(table.unused)}")
    metrics = {row.metric for row in good}
    return OwnBench(
        name=name,
        task=OWN_TASK,
        asked=OWN,
        metric=METRICS[metrics.pop()] if len(metrics) == 1 else SCORE,
        file=TaskFile(OWN_TASK, "task", Path(__file__).with_name("own.yaml")),
        summary="own data",
        rows=tuple(good),
        remarks=tuple(remarks),
    )


def _told(bad: list[tuple[int, BadRow]], rows: int) -> str:
    """How many rows are bad, of which kinds, and what is wrong with the first ones."""
    kinds = Counter(error.kind for _, error in bad).most_common()
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds)
    first = "; ".join(f"row {number}: {error}" for number, error in bad[:TOLD])
    more = f"; and {len(bad) - TOLD} more" if len(bad) > TOLD else ""
    are = "is" if len(bad) == 1 else "are"
    return f"{len(bad)} of {rows} rows {are} bad ({counts}): {first}{more}"
