"""What a run says while it runs: lines on standard error, and two bars in a terminal.

The bar above is the whole run's, with the time that is left; the one below is that of what is
being done. Without a terminal the same is said in a plain line now and then. A thread of its own
looks once a second, so that also a long step shows that it lives; while times are measured it
draws twice a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.measure import Measurement
from rich.table import Table

from harness.common.bars import Bars
from harness.common.console import Console
from harness.common.forecast import Forecast, Part, time_left
from harness.common.stops import tell

OnBatch = Callable[[int, int], None]  # answered, all

TICK = 1.0  # seconds between two looks at the clock
PATIENCE = 3.0  # seconds after which a step that may be over at once is named in a plain line
EVERY = 30.0  # seconds between two plain lines


class Progressing:
    """Lines unless ``quiet``; bars as well when standard error is a terminal.

    A context: inside, the clock runs.
    """

    def __init__(
        self,
        quiet: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quiet, self.clock = quiet, clock
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False, markup=False)
        self.forecast = Forecast()
        self.doing, self.part_now = "", Part("", "", "", finished=True)
        self.began = self.said = self.since = clock()
        self._bars = Bars(self.console) if self.console.is_terminal and not quiet else None
        self._owed = False  # a plain line on what is being done
        self._begun: float | None = None  # when the part that ran last began
        self._ended = threading.Event()
        self._still = False
        self._ticker: threading.Thread | None = None

    def __enter__(self) -> Progressing:
        if not self.quiet:
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars away: what comes now is the result."""
        self._ended.set()
        if self._ticker is not None:
            self._ticker.join()
            self._ticker = None
        if self._bars is not None:
            self._bars.close()

    # --- lines ------------------------------------------------------------------------------------
    def say(self, line: str) -> None:
        """One line of progress."""
        self.said, self._owed = self.clock(), False
        self.console.print(line, soft_wrap=True)

    def warn(self, line: str) -> None:
        """One line that also a quiet run prints."""
        if self._bars is not None:
            self.say(line)
        else:
            tell(line)

    def table(self, make: Callable[[], Table]) -> None:
        """A table, made only when it is going to be seen."""
        if not self.quiet:
            if self._bars is not None:
                self._bars.close()
            print_whole(self.console, make())

    # --- what is being done -----------------------------------------------------------------------
    def phase(self, text: str, soon: bool = False) -> None:
        """What is being done now. ``soon``: a plain line only if it lasts.

        That is for steps that may end with a refusal, which is one line.
        """
        self.doing, self.since, self._owed = text, self.clock(), soon
        if self._bars is not None:
            self._show()
        elif not soon:
            self.say(text)

    def each(
        self, doing: str, things: Iterable[Any], names: Mapping[Any, str] | None = None
    ) -> Iterator[Any]:
        """The things one by one, each named while it is in work: by ``names`` or its label."""
        everything = list(things)
        parts = [self.forecast.part(doing, str(i), units=1) for i, _ in enumerate(everything)]
        for number, (one, part) in enumerate(zip(everything, parts, strict=True), start=1):
            name = names[one] if names else getattr(one, "label", "") or one.row
            with self.part(f"[{number}/{len(everything)}] {doing} {name}", part) as on_batch:
                self._owed = True
                if on_batch is not None:
                    on_batch(0, 1)
                yield one
                if on_batch is not None:
                    on_batch(1, 1)

    @contextmanager
    def part(self, title: str, part: Part, still: bool = False) -> Iterator[OnBatch | None]:
        """One part of the run: what to call with its units done and all; None for a quiet run.

        The first call says what was done before. ``still``: times are measured, nothing else may
        run.
        """
        self._bill()
        begun = self.clock()
        first: list[tuple[int, float]] = []

        def on_batch(done: int, everything: int) -> None:
            now = self.clock()
            if not first:
                first.append((done, now))
                part.overhead = now - begun
            part.units, part.done = everything, done
            part.measured, part.seconds = done - first[0][0], now - first[0][1]
            self._show()
            if self._bars is None and now - self.said >= EVERY:
                self.say(self.status())

        self.doing, self.part_now, self._owed = title, part, False
        self._still = still
        self._show()
        try:
            yield None if self.quiet else on_batch
        finally:
            self._still = False
            part.finished, self._begun = True, begun
            self.doing = ""

    def _bill(self) -> None:
        """What the last part took beside its units."""
        if self._begun is not None:
            self.part_now.overhead = max(self.clock() - self._begun - self.part_now.seconds, 0.0)
            self._begun = None

    def status(self) -> str:
        """What is being done, how much of it and of the run is done, and what is left."""
        part = self.part_now
        doing = self.doing or "working"
        if not part.finished and (part.units or 0) > 1:
            doing += f": {part.done} of {part.units}"
        return "; ".join(filter(None, (doing, self.whole())))

    def whole(self) -> str:
        """``run 31 % done, about 14 min left, then arank``; empty where nothing can be told."""
        share = self.forecast.share
        done = "" if share is None else f"run {100 * share:.0f} % done"
        return ", ".join(filter(None, (done, time_left(self.forecast))))

    def _show(self) -> None:
        if self._bars is not None and not self._ended.is_set():
            part = None if self.part_now.finished else self.part_now
            self._bars.show(self.doing, part, self.forecast, self.clock() - self.began)

    def _tick(self) -> None:
        while not self._ended.wait(TICK):
            self.tick()

    def tick(self) -> None:
        """A second has passed: what is shown moves on, and a line that is due is said."""
        now = self.clock()
        if self._still and now - self.said < EVERY:
            return
        if self._bars is not None:
            self.said = now
            self._show()
        elif (self._owed and now - self.since >= PATIENCE) or now - self.said >= EVERY:
            self.say(self.status())


def print_whole(console: Console, table: Table) -> None:
    """Print a table at its full width: a number cut to fit a narrow window is no number."""
    roomy = console.options.update(max_width=1000)
    width = max(console.width, Measurement.get(console, roomy, table).maximum)
    wide = Console(  # it draws as that one does: rich would look at the environment again
        file=console.file,
        width=width,
        highlight=False,
        force_terminal=console.is_terminal,
        color_system=console.color_system,  # type: ignore[arg-type]  # a word of the four it takes
        no_color=console.no_color,
    )
    wide.print(table)
