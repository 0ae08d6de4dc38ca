"""The second question on the kept cache: regret by method, from ``regret.csv``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from harness.store.columns import regret as columns
from reports import labels, points, style, text
from reports.csvio import Spec, read_table, stored
from reports.points import Level, Row
from reports.section import Section
from reports.sheet import Drawn, Sheet
from reports.style import ACCENT, INK
from reports.summary import Summary
from reports.tables import Cell, Column, Table

TITLE = "A second question on the kept cache"
INTRO = (
    "Two questions about one image in one conversation. Regret is the score of the second answer "
    "when the whole conversation is one new prompt, which the method prunes knowing the second "
    "question, less its score on the cache that was pruned for the first one: positive where "
    "keeping the cache costs accuracy."
)
ABOUT = (
    "Neighbouring questions about an image, each pair in both orders, so that every document is "
    "once the first and once the second. Both ways are given the same tokens; the first answer is "
    "the method's own. Paired by document, intervals by image, p by Holm over all rows but "
    "dense's. Both right: of the conversations whose first answer is right, the share whose second "
    "is right too. A method whose choice no later text can reach (made before the decoder without "
    "the question, or on image tokens that stand before it) has no regret by construction."
)
MINI = (
    " The mini model was trained on single questions: set the second turns against the same "
    "questions asked alone."
)
REGRET = Spec.of(columns.REGRET, "bench", "order", "status")
DONE = "done"


def section(summary: Summary, folder: Path) -> Section | None:
    """The section, None for a run without second turns."""
    run = summary.run
    if stored(Path(run.path) / columns.REGRET.file) is None:
        return None
    frame = read_table(run.path / columns.REGRET.file, REGRET, run.notices)
    whole = frame[frame["order"] == columns.BOTH]
    if whole.empty:
        return None
    done = whole[(whole["status"] == DONE) & whole["regret"].notna()]
    with style.context():
        drawn = () if done.empty else (_figure(summary, done, folder),)
    intro = INTRO + (MINI if _mini(summary, whole) else "")
    return Section("regret", TITLE, intro, drawn, (_table(frame),), about=ABOUT)


def _mini(summary: Summary, frame: pd.DataFrame) -> bool:
    return bool(summary.is_mini_model or frame["data"].str.contains("mini").any())


def _unit(part: pd.DataFrame) -> float:
    return 100.0 if part[["turn2_kept", "turn2_fresh"]].max().max() <= 1 else 1.0


def _figure(summary: Summary, done: pd.DataFrame, folder: Path) -> Drawn:
    """Regret with its interval, a panel a bench."""
    benches = list(dict.fromkeys(done["bench"]))
    most = max((done["bench"] == bench).sum() for bench in benches)
    _, row = labels.inches(list(done["label"]))
    sheet = Sheet("regret", len(benches), width=4.6, height=1.2 + row * most)
    alts = []
    for bench in benches:
        part = done[done["bench"] == bench]
        unit = _unit(part)
        axes = sheet.panel(bench, _mini(summary, part))
        rows = [
            Row(
                r.label, unit * r.regret, unit * r.ci_low, unit * r.ci_high, ACCENT, "o",
                bool(r.p_adjusted < 0.05),
            )
            for r in part.itertuples()
        ]  # fmt: skip
        points.draw(axes, rows, "regret, points", [Level("none", 0.0, INK)])
        said = ", ".join(f"{r.label} {text.number(unit * r.regret, signed=True)}"
                         for r in part.itertuples())  # fmt: skip
        alts.append(f"{bench}, regret in points: {said}.")
    n = sorted({int(v) for v in done["n"]})
    counts = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}"
    caption = (
        "Regret of the second turn, points, 95 % CI (bootstrap of images); filled: significant "
        f"after Holm. {counts} second turns. {text.conditions(summary)}; conversations one at a "
        "time."
    )
    header = ["bench", "label", "n", "images", "regret", "ci_low", "ci_high", "p_adjusted"]
    body = done[header].astype(object).where(done[header].notna(), "").to_numpy().tolist()
    return sheet.save(folder, TITLE, caption, alts, [header, *body])


def _table(frame: pd.DataFrame) -> Table:
    """One row a method and bench; the orders by themselves below the regret."""
    heads = [
        Column("Method", numeric=False), Column("Bench", numeric=False),
        Column("n", "second turns / images"), Column("Regret", "95 % CI, points"),
        Column("p", "adjusted"), Column("Second turn", "kept / from scratch"),
        Column("Alone", "the same questions"), Column("Both right", "kept / from scratch, %"),
        Column("Same answers"), Column("KV kept", "vision"),
    ]  # fmt: skip
    rows = []
    for line in frame[frame["order"] == columns.BOTH].itertuples():
        of_cell = frame[frame["cell_id"] == line.cell_id]
        bench = f"{line.bench}{' (mini)' if 'mini' in line.data else ''}"
        name = [Cell(line.label, tone="name", sort=line.label), Cell(bench, sort=line.bench)]
        if line.status != DONE:
            said = Cell(f"{line.status}: {line.error}", tone="failed")
            rows.append([*name, Cell(text.GAP), said, *[Cell(text.GAP)] * (len(heads) - 4)])
        else:
            rows.append([*name, *_numbers(line, of_cell)])
    note = "Below the regret: of the pairs with the earlier document first, and with the later one."
    return Table("regret", TITLE, heads, rows, note, searchable=len(rows) > 12)


def _numbers(line: Any, of_cell: pd.DataFrame) -> list[Cell]:
    unit = _unit(of_cell)
    strong = bool(line.p_adjusted < 0.05)
    by_order = {
        order: text.number(unit * float(value), signed=True)
        for order, value in zip(of_cell["order"], of_cell["regret"], strict=True)
    }
    orders = [by_order[o] for o in (columns.EARLIER, columns.LATER) if o in by_order]
    return [
        Cell(f"{line.n:.0f} / {line.images:.0f}", sort=line.n),
        Cell(
            text.number(unit * line.regret, signed=True),
            text.interval(unit * line.ci_low, unit * line.ci_high, signed=True),
            sub=" / ".join(orders), strong=strong, sort=line.regret,
            tone=("worse" if line.regret > 0 else "better") if strong else "",
        ),
        Cell(text.number(line.p_adjusted, 3), sort=line.p_adjusted),
        Cell(_two(unit * line.turn2_kept, unit * line.turn2_fresh), sort=line.turn2_kept),
        Cell(text.number(unit * line.turn2_alone), sort=line.turn2_alone),
        Cell(_two(100 * line.both_right, 100 * line.both_right_fresh), sort=line.both_right),
        Cell(text.number(line.same_answers, 0), sort=line.same_answers),
        Cell(text.percent(line.kv_ratio), sort=line.kv_ratio),
    ]  # fmt: skip


def _two(kept: float, fresh: float) -> str:
    return f"{text.number(kept)} / {text.number(fresh)}"
