"""The table a timing run ends with: rows best first, and what they show."""

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
    from reports import load, speedtables, text, timesections, timing
    from reports.rundata import load_run
    from reports.summary import summarise, timed_part

    summary = timed_part(summarise(load_run(run_dir)))
    if summary is None:
        return None
    loads = load.read(summary)
    board = timing.board(summary, timing.timed(summary))
    single = speedtables.ranked(summary, board)
    tables = [load.ranked(summary, one) for one in loads] or ([single] if single else [])
    if not tables:
        return None
    first = tables[0]
    columns = [i for i, column in enumerate(first.columns) if not column.fold]

    def table(width: int | None) -> Table:
        found = Table(box=SIMPLE_HEAD, title=first.title)
        for i in columns:
            head = first.columns[i]
            title = Text("\n".join(filter(None, (head.title, head.unit))))
            found.add_column(title, justify="right" if head.numeric else "left")
        for number, one in enumerate(tables):
            if len(tables) > 1:
                found.add_row(Text(loads[number].requests, style="bold"))
            for row in one.rows:
                found.add_row(*(_cell(row[i], i == 0) for i in columns))
        return found

    mini = "mini model; " if summary.is_mini_model else ""
    models = text.listing(list(dict.fromkeys(s.model for s in summary.series if s.model)))
    how = load.conditions(loads[0]) if loads else timing.conditions(list(board.at.values()))
    of = f"; {loads[0].requests}" if len(loads) == 1 else ""
    caption = f"{models}; {mini}{how}{of}; 95 % intervals."
    return Ending(table, caption, timesections.page(summary)[1])


def _cell(cell: Cell, name: bool) -> Text:
    """Main line and interval; of a row's name its parameters, of the others nothing below."""
    found = Text(cell.main, style=STYLES.get(cell.tone, ""))
    for more in filter(None, (cell.ci, cell.sub if name else "")):
        found.append(f" {more}", style="dim")
    return found
