"""What a run says while it runs, with a clock that the test turns."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from harness.common.console import Console
from harness.common.progress import EVERY, PATIENCE, Progressing
from tests.fakes import FakeRun, run


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Shown:
    """A display on a made-up console; `turn` lets seconds pass, one look a second."""

    def __init__(self, width: int = 80, terminal: bool = False) -> None:
        self.file, self.clock = io.StringIO(), Clock()
        how: dict[str, Any] = {"force_terminal": terminal, "width": width, "color_system": None}
        console = Console(file=self.file, markup=False, highlight=False, **how)
        self.show = Progressing(console=console, clock=self.clock)

    def turn(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.now += 1
            self.show.tick()

    def said(self) -> str:
        """What was written since the last look, without control sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.file.getvalue())
        self.file.seek(0)
        self.file.truncate()
        return text


def plan(shown: Shown, benches: tuple[str, ...] = ("gqa", "pope")) -> list[Any]:
    forecast = shown.show.forecast
    return [forecast.part("answers", m, b, 100) for b in benches for m in ("dense", "fastv")]


def answer(shown: Shown, on_batch: Any, count: int, seconds: int, of: int = 100) -> None:
    """``count`` documents at a time, that many seconds each."""
    on_batch(0, of)
    for done in range(count, of + 1, count):
        shown.turn(seconds * count)
        on_batch(done, of)


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_the_run_and_the_cell_with_their_times(width: int) -> None:
    shown = Shown(width, terminal=True)
    parts = plan(shown)
    with shown.show.part("[1/4] dense on gqa", parts[0]) as on_batch:
        assert on_batch is not None
        on_batch(0, 100)
        shown.turn(60)
        shown.said()
        on_batch(50, 100)
        lines = shown.said().splitlines()
    shown.show.close()
    run, cell = (next(line for line in lines if word in line) for word in ("run,", "dense on"))
    # 50 of 400 documents at 1.2 s each: 420 s are left of the run, 60 of the cell.
    assert "0:01:00 so far" in run and "12 %" in run and "about 7 min left" in run
    assert "50/100" in cell and "about 1 min" in cell
    assert max(map(len, lines)) <= width


def test_what_is_done_is_on_the_screen_at_once() -> None:
    shown = Shown(terminal=True)
    shown.show.phase("loading tiny-llava", soon=True)
    assert "loading tiny-llava" in shown.said()
    shown.show.close()


def test_without_a_terminal_there_is_a_plain_line_at_least_once_a_minute() -> None:
    shown = Shown()
    parts = plan(shown)
    with shown.show.part("[1/4] dense on gqa", parts[0]) as on_batch:
        answer(shown, on_batch, 10, 3)  # five minutes
    text = shown.file.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)
    lines = text.splitlines()
    assert 300 / 60 <= len(lines) <= 300 / EVERY
    assert "[1/4] dense on gqa: 50 of 100; run 12 % done, about 18 min left" in lines


def test_a_step_that_is_over_at_once_says_nothing_in_plain_lines_and_a_long_one_does() -> None:
    shown = Shown()
    shown.show.phase("looking up", soon=True)
    shown.turn(PATIENCE - 1)
    shown.show.phase("loading tiny-llava", soon=True)
    shown.turn(PATIENCE + 1)
    assert shown.said().splitlines() == ["loading tiny-llava"]
    shown.show.phase("drawing the report")
    assert shown.said().splitlines() == ["drawing the report"]


def test_a_resumed_cell_is_timed_by_what_is_answered_now() -> None:
    shown = Shown()
    (part, other) = plan(shown, ("gqa",))
    with shown.show.part("dense on gqa", part) as on_batch:
        assert on_batch is not None
        shown.turn(5)  # its documents are read
        on_batch(90, 100)
        shown.turn(20)
        on_batch(100, 100)
    forecast = shown.show.forecast
    assert forecast.rate(part) == pytest.approx(2.0)
    assert forecast.seconds_left(other) == pytest.approx(100 * 2.0 + 5.0)


def test_a_quiet_run_says_nothing_but_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with Progressing(quiet=True) as show:
        show.phase("loading")
        with show.part("a", show.forecast.part("answers")) as on_batch:
            assert on_batch is None
        show.say("a line")
        show.warn("a warning")
    assert capsys.readouterr() == ("", "a warning\n")


def test_cells_of_an_earlier_start_count_as_done_and_say_how_long_the_rest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dense and random were done in 0.5 s each, by `cells.csv`; fastv failed and is to come."""
    assert run(tmp_path / "run", FakeRun(fail={"fastv": ValueError("no")}), bench=("gqa",)) == 3
    seen: list[tuple[float | None, float | None]] = []

    class Watched(FakeRun):
        def evaluate(self, *args: Any, **options: Any) -> Any:
            (show,) = shows
            seen.append((show.forecast.share, show.forecast.left))
            return super().evaluate(*args, **options)

    shows: list[Progressing] = []

    def watched(quiet: bool) -> Progressing:
        shows.append(Progressing(quiet))
        return shows[0]

    monkeypatch.setattr("harness.jobs.runner.Progressing", watched)
    assert run(tmp_path / "run", Watched(), bench=("gqa",)) == 0
    ((share, left),) = seen
    assert share == pytest.approx(2 / 3)
    assert left == pytest.approx(0.5)
