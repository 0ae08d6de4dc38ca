"""Two bars in a terminal: the whole run above, what is being done below."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from harness.common.forecast import Forecast, Part, spoken, time_left

WIDTH, NARROW = 24, 12  # of a bar; the second where the window has under ROOMY columns
ROOMY = 100
LONGEST, SHORTEST = 60, 12  # columns of what is being done
COUNT = len("1234/5678")


class Bars:
    """Drawn when told, by no thread of its own; lines printed on the console go above them."""

    def __init__(self, console: Console) -> None:
        self.bar = WIDTH if console.width >= ROOMY else NARROW
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(self.bar),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[left]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
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
        whole = time_left(forecast)
        room = self.progress.console.width - self.bar - COUNT - max(len(whole), COUNT) - 4
        room = max(min(room, LONGEST), SHORTEST)
        so_far = timedelta(seconds=int(elapsed))
        self.progress.update(
            self.run,
            description=f"run, {so_far} so far".ljust(room),
            total=None if pulse else 1,
            completed=share or 0,
            count="" if pulse else f"{100 * (share or 0):.0f} %",
            left=whole,
            visible=bool(forecast.parts),
        )
        units = part.units if part and part.units != 1 else None  # one is nothing to count
        left = forecast.seconds_left(part) if part and part.measured else None
        ready = bool(part and units and part.done >= units)
        self.progress.update(
            self.now,
            description=cropped(doing, room).ljust(room),
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


def cropped(text: str, width: int) -> str:
    """The text, without its middle where it is longer: a cell's bench stands at its end."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"
