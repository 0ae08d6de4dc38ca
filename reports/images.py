"""What stays of each image, where prompts have several: ``images.csv`` as a table."""

from __future__ import annotations

import pandas as pd

from harness.store import columns
from reports import text
from reports.csvio import Spec, read_table
from reports.section import Section
from reports.summary import Summary
from reports.tables import Cell, Column, Table, name_cell

IMAGES = Spec.of(columns.IMAGES, "cell_id", "image", "n", "tokens", "kept")
TITLE = "Image by image"
MOST = 8  # images that have a column of their own
ALL = "all"
INTRO = (
    "Prompts with several images. A method that picks image by image gives each its own amount; "
    "one that ranks the prompt's image tokens together may leave little of one of them."
)


def section(summary: Summary) -> Section | None:
    """The table under its heading; None without prompts of several images."""
    table = _table(summary)
    return None if table is None else Section("images", TITLE, INTRO, tables=(table,))


def _table(summary: Summary) -> Table | None:
    frame = _frame(summary)
    if not len(frame):
        return None
    numbers = sorted({int(n) for n in frame["image"] if n != ALL})
    shown = [str(n) for n in numbers[:MOST]]
    heads = [Column("Method", numeric=False), Column("Bench", numeric=False), Column("Documents"),
             Column("All images", "tokens kept, share")]  # fmt: skip
    heads += [Column(f"Image {n}", "tokens kept, share") for n in shown]
    rows = []
    for (place, bench), part in frame.groupby(["series", "bench"], sort=True):
        by = {str(one.image): one for one in part.itertuples()}
        note = "mini" if summary.is_mini_bench(str(bench)) else ""
        count = by[ALL].n if ALL in by else part["n"].max()
        row = [name_cell(summary.series[int(place)]), Cell(str(bench), note=note, sort=str(bench)),
               Cell(f"{count:.0f}", sort=float(count))]  # fmt: skip
        rows.append([*row, *(_kept(by.get(name), count) for name in (ALL, *shown))])
    note = "Image tokens processed, mean over layers and over the documents that have the image."
    if len(numbers) > MOST:
        note += f" Images behind the {MOST}th stand in images.csv."
    return Table("images", TITLE, heads, rows, note)


def _frame(summary: Summary) -> pd.DataFrame:
    """images.csv of the finished cells, with the series each row belongs to."""
    place = {
        cell.cell_id: summary.series.index(series)
        for (series, _), cell in summary.cells.items()
        if cell.status == "done" and cell.cell_id
    }
    notices = summary.run.notices
    frame = read_table(summary.run.path / IMAGES.name, IMAGES, notices)
    number = frame["image"].eq(ALL) | frame["image"].str.fullmatch("[1-9][0-9]{0,4}")
    right = number & frame["tokens"].gt(0) & frame["kept"].between(0, frame["tokens"] + 1e-6)
    right &= frame["n"].ge(1)
    if not right.all():
        notices.append(f"{IMAGES.name}: {int((~right).sum())} row(s) left out, no such image.")
    frame = frame.assign(series=frame["cell_id"].map(place))
    return frame[right & frame["series"].notna()].astype({"series": int})


def _kept(row: object, count: float) -> Cell:
    """Tokens kept of an image; a note where fewer documents have it."""
    if row is None:
        return Cell(text.GAP, tone="gap")
    kept, tokens, n = (float(getattr(row, name)) for name in ("kept", "tokens", "n"))
    note = f"n = {n:.0f}" if n != count else ""
    return Cell(f"{kept:.1f}", text.percent(kept / tokens), note=note, sort=kept)
