"""Two bars in a terminal: the whole run above, what is being done below."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from harness.common.forecast import Forecast, Part, spoken, time_left

WIDTH = 24  # of a bar at most


class Bars:
    """Drawn when told, by no thread of its own; lines printed on the console go above them."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", table_column=_column("left", 2)),
            BarColumn(WIDTH),
            TextColumn("{task.fields[count]}", table_column=_column("right")),
            TextColumn("{task.fields[left]}", table_column=_column("left")),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            expand=True,
        )
        self.run, self.now = self._row(), self._row()

    def _row(self) -> TaskID:
        return self.progress.add_task("", total=None, visible=False, count="", left="")

    def show(self, doing: str, part: Part | None, forecast: Forecast, elapsed: float) -> None:
        """Draw. ``part``: what is being done, where it has units; ``elapsed``: seconds so far."""
        if not self.progress.live.is_started:
            self.progress.start()
        share = forecast.share
        # A bar that is full while work of unknown length goes on would be wrong: it moves.
        pulse = share is None or (share == 1 and bool(forecast.unknown))
        so_far = timedelta(seconds=int(elapsed))
        self.progress.update(
            self.run,
            description=f"run, {so_far} so far",
            total=None if pulse else 1,
            completed=share or 0,
            count="" if pulse else f"{100 * (share or 0):.0f} %",
            left=time_left(forecast),
            visible=bool(forecast.parts),
        )
        units = part.units if part and part.units != 1 else None  # one is nothing to count
        left = forecast.seconds_left(part) if part and part.measured else None
        ready = bool(part and units and part.done >= units)
        self.progress.update(
            self.now,
            description=doing,
            total=units,
            completed=part.done if part else 0,
            count=f"{part.done}/{units}" if part and units else "",
            left="finishing" if ready else "" if left is None else f"about {spoken(left)}",
            visible=bool(doing),
        )
        self.progress.refresh()

    def close(self) -> None:
        """Take them away."""
        self.progress.stop()


def _column(justify: str, ratio: int | None = None) -> Column:
    cut = "ellipsis" if ratio else "ignore"  # a title may be cut, a number may not
    return Column(justify=justify, ratio=ratio, no_wrap=True, overflow=cut)  # type: ignore[arg-type]
