"""The table a timing run ends with: speed-ups over dense, best first, and what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from harness.readouts.ending import Ending

if TYPE_CHECKING:  # it brings pandas along
    from reports.tables import Cell

STYLES = {"better": "green", "worse": "red", "failed": "red", "gap": "dim"}


def ending(run_dir: Path) -> Ending | None:
    """The report's first table without what it shows on demand; None where nothing was timed."""
    from reports import speedtables, text, timesections, timing
    from reports.rundata import load_run
    from reports.summary import summarise, timed_part

    summary = timed_part(summarise(load_run(run_dir)))
    if summary is None:
        return None
    board = timing.board(summary, timing.timed(summary))
    ranked = speedtables.ranked(summary, board)
    if ranked is None:
        return None
    columns = [i for i, column in enumerate(ranked.columns) if not column.fold]

    def table(width: int | None) -> Table:
        found = Table(box=SIMPLE_HEAD, title=ranked.title)
        for i in columns:
            head = ranked.columns[i]
            title = Text("\n".join(filter(None, (head.title, head.unit))))
            found.add_column(title, justify="right" if head.numeric else "left")
        for row in ranked.rows:
            found.add_row(*(_cell(row[i], i == 0) for i in columns))
        return found

    mini = "mini model; " if summary.is_mini_model else ""
    models = text.listing(list(dict.fromkeys(s.model for s in summary.series if s.model)))
    caption = f"{models}; {mini}{timing.conditions(list(board.at.values()))}; 95 % intervals."
    return Ending(table, caption, timesections.sentences(board))


def _cell(cell: Cell, name: bool) -> Text:
    """Main line and interval; of a row's name its parameters, of the others nothing below."""
    found = Text(cell.main, style=STYLES.get(cell.tone, ""))
    for more in filter(None, (cell.ci, cell.sub if name else "")):
        found.append(f" {more}", style="dim")
    return found
