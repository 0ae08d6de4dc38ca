"""What a job ends with: its table in the terminal or as Markdown, and where its report is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from harness.common.console import Console
from harness.common.errors import one_line
from harness.common.progress import Progressing, print_whole
from harness.common.stops import PROGRAM, put

MARKDOWN = "md"
FORMS = (MARKDOWN,)


@dataclass(frozen=True)
class Ending:
    """``table``: made for a width in columns, None for as wide as it gets.

    ``caption``: the conditions of its numbers. ``notes``: what it shows, in sentences.
    """

    table: Callable[[int | None], Table]
    caption: str = ""
    notes: Sequence[str] = ()


def conclude(
    report: Path | None,
    make: Callable[[], Ending | None],
    show: Progressing,
    form: str | None = None,
    asked: bool = False,
) -> bool:
    """Print the table, then the path of the report; False where the table could not be made.

    The path goes to standard output, and the table beside the progress. ``asked``: the table is
    what the job is for, so it goes to standard output, also of a quiet run. ``form``: Markdown
    stands there alone, so that it can be passed on.
    """
    wanted, ending, whole = form is not None or asked or not show.quiet, None, True
    if wanted:
        try:
            ending = make()
        except Exception as error:  # the run is safe, and its tables are files
            whole = False
            show.close()
            show.warn(f"{PROGRAM}: no table: {one_line(error)}")
    show.close()
    if form is not None and whole and ending is None:
        whole = False
        show.warn(f"{PROGRAM}: --table: nothing was scored here: there is no final table")
    if form == MARKDOWN and ending is not None:
        put("\n\n".join(filter(None, (markdown(ending.table(None)), ending.caption))))
    elif ending is not None:
        _print(ending, Console(highlight=False, markup=False) if asked else show.console)
    if form == MARKDOWN:
        for line in (*(ending.notes if ending else ()), *([str(report)] if report else [])):
            show.say(line)
    elif report is not None:
        put(report)
    return whole


def _print(ending: Ending, console: Console) -> None:
    print_whole(console, ending.table(console.width))
    for line in filter(None, (ending.caption, *ending.notes)):
        console.print(line, soft_wrap=not console.is_terminal)  # a reader's tool wraps for itself


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown, its title above it."""
    from reports.markdown import escape

    heads = [_flat(column.header) for column in table.columns]
    rules = ["---:" if column.justify == "right" else "---" for column in table.columns]
    cells = [[_flat(cell) for cell in column.cells] for column in table.columns]
    rows = [heads, *zip(*cells, strict=True)]
    lines = ["| " + " | ".join(escape(text) for text in row) + " |" for row in rows]
    lines.insert(1, "| " + " | ".join(rules) + " |")
    title = escape(_flat(table.title)) if table.title else ""
    return (f"{title}\n\n" if title else "") + "\n".join(lines)


def _flat(cell: object) -> str:
    """A cell's text on one line."""
    text = cell if isinstance(cell, Text) else Text.from_markup(str(cell))
    return " ".join(text.plain.split())
