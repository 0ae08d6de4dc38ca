"""What a run says while it runs: lines on standard error, and one bar in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from harness.common.console import Console
from harness.common.stops import tell

OnBatch = Callable[[int, int], None]  # answered, all


class Progressing:
    """Lines unless `quiet`; a bar as well when standard error is a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.console = Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self.bars = self.console.is_terminal and not quiet

    def say(self, line: str) -> None:
        """One line of progress."""
        self.console.print(line, soft_wrap=True)

    def table(self, make: Callable[[], Table]) -> None:
        """A table, made only when it is going to be seen."""
        if not self.quiet:
            print_whole(self.console, make())

    def warn(self, line: str) -> None:
        """One line that also a quiet run prints."""
        tell(line)

    @contextmanager
    def cell(self, title: str) -> Iterator[OnBatch | None]:
        """A bar for one cell: what to call after each batch, None without a bar."""
        if not self.bars:
            yield None
            return
        looks = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*looks, console=self.console, transient=True) as bar:
            task = bar.add_task(title, total=None)

            def on_batch(answered: int, everything: int) -> None:
                bar.update(task, completed=answered, total=everything)

            yield on_batch


def print_whole(console: Console, table: Table) -> None:
    """Print a table at its full width: a number cut to fit a narrow window is no number."""
    roomy = console.options.update(max_width=1000)
    width = max(console.width, Measurement.get(console, roomy, table).maximum)
    Console(file=console.file, width=width, highlight=False).print(table)
