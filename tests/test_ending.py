"""The table a run ends with: read off a terminal of 80 and of 160 columns, and as Markdown."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

import pytest

from harness.command.cli import main
from harness.common.console import Console
from harness.common.progress import Progressing
from harness.readouts.ending import Ending, conclude
from harness.readouts.summary import ending
from tests.fakes import FakeRun, run
from tests.fixtures.pairs import write_pairs
from tests.fixtures.runs import write_run

AVERAGES = {"dense": 0.80, "pyramiddrop": 0.70, "mine": 0.76, "random": 0.60, "gamma": 0.85}
KEPT = {"dense": 1.0, "pyramiddrop": 0.33, "mine": 0.33, "random": 0.33, "gamma": 0.77}
BENCHES = ("gqa", "textvqa", "pope")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    write_run(out, tuple(AVERAGES), failed=(), without_cost=())
    write_pairs(out, AVERAGES, KEPT)
    return out


def made(path: Path) -> Ending:
    found = ending(path)
    assert found is not None
    return found


def shown(path: Path, width: int, **how: object) -> str:
    """What a console of that width gets."""
    file = io.StringIO()
    # Its own view of the environment is of when it was imported, which another test may have faked.
    how |= {"_environ": os.environ, "markup": False, "highlight": False}
    console = Console(file=file, width=width, **how)  # type: ignore[arg-type]
    show = Progressing(console=console)
    conclude(None, lambda: made(path), show)
    return file.getvalue()


def lines_of(text: str) -> dict[str, str]:
    """The rows of the table by their method."""
    rows = [line.rstrip() for line in text.splitlines() if re.match(r" \w+ +\d+ %", line)]
    return {line.split()[0]: line for line in rows}


def test_eighty_columns_hold_cost_average_difference_and_verdict_best_first(path: Path) -> None:
    rows = lines_of(shown(path, 80))
    assert list(rows) == ["gamma", "dense", "mine", "pyramiddrop", "random"]
    assert max(map(len, rows.values())) <= 80
    words = " ".join(rows["pyramiddrop"].split())
    assert words == "pyramiddrop 33 % 33 % 70.0 [66.0, 74.0] −10.0 [−14.0, −6.0] worse"
    assert rows["gamma"].split()[-1] == "better" and rows["mine"].split()[-1] == "open"
    assert rows["dense"].split()[-1] == "reference"


def test_long_parameters_go_on_below_and_widen_no_narrow_terminal(tmp_path: Path) -> None:
    label = "gamma layers=0+2+4+7+8+9+10+11 mask=QA rule=topk"
    averages, kept = {"dense": 0.8, label: 0.7}, {"dense": 1.0, label: 0.3}
    write_run(tmp_path, tuple(averages), failed=(), without_cost=())
    write_pairs(tmp_path, averages, kept)
    said = shown(tmp_path, 80).split("Average over")[0]
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    below = "".join(line.strip() for line in said.splitlines() if "%" not in line)
    assert "layers=0+2+4+7+8+9+10+11" in below
    assert f"\n {label.split()[1]}\n" in re.sub(" +\n", "\n", shown(tmp_path, 160))


def test_a_wide_terminal_has_the_benches_as_well(path: Path) -> None:
    narrow, wide = shown(path, 80), shown(path, 160)
    for bench in BENCHES:
        assert f"{bench} mini, %" in wide and f"{bench} mini, %" not in narrow
    assert "no room here for gqa, textvqa, pope" in narrow and "no room" not in wide
    score = next(csv_rows(path, "accuracy.csv", label="mine", bench="pope"))
    value, delta = (100 * float(score[name]) for name in ("value", "delta"))
    said = f"{value:.1f} ({delta:+.1f} ".replace("-", "−")
    assert said in lines_of(wide)["mine"]


def test_the_conditions_and_the_sentences_of_the_report_follow(path: Path) -> None:
    said = shown(path, 80)
    assert "tiny-llava (mini model), mini data" in said and "n = 500; 95 % intervals." in said
    assert "mine beats pyramiddrop by 6.0 [2.0, 10.0]" in said


def test_differences_are_to_the_row_that_is_asked_for(path: Path) -> None:
    found = ending(path, ["pyramiddrop"])
    assert found is not None
    columns = {str(c.header): [str(cell) for cell in c.cells] for c in found.table(80).columns}
    shown = dict(zip(columns["method"], columns["Δ to pyramiddrop\n[95 % CI]"], strict=True))
    assert shown["mine"] == "+6.0 [+2.0, +10.0]" and shown["pyramiddrop"] == "reference"


def test_verdicts_are_coloured_words_and_nothing_is_where_colours_are_unwanted(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    colours = {"force_terminal": True, "color_system": "standard"}
    assert "\x1b[31mworse" in shown(path, 100, **colours)
    assert "\x1b[32mbetter" in shown(path, 100, **colours)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[3[0-7]m", shown(path, 100, **colours))


def csv_rows(path: Path, name: str, **wanted: str):  # type: ignore[no-untyped-def]
    with (path / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if all(row[column] == value for column, value in wanted.items()):
                yield row


def parsed(text: str) -> list[dict[str, str]]:
    """A GitHub table as rows; fails on anything that would not be one."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    assert all(re.fullmatch(r":?-{3,}:?", rule) for rule in cells[1])
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_markdown_has_the_numbers_of_averages_and_stands_alone_on_standard_output(
    path: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["--plots-only", str(path), "--out", str(tmp_path / "out"), "--table", "md"]
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert out.startswith("| method |") and "report.html" not in out and "report.html" in err
    rows = {row["method"]: row for row in parsed(out)}
    known = {row["label"]: row for row in csv_rows(path, "averages.csv")}
    assert rows.keys() == known.keys()
    for label, row in known.items():
        value, low, high = (100 * float(row[name]) for name in ("average", "ci_low", "ci_high"))
        (title,) = (name for name in rows[label] if name.startswith("average"))
        assert rows[label][title] == f"{value:.1f} [{low:.1f}, {high:.1f}]"
        assert rows[label]["KV kept"] == f"{100 * float(row['kv']):.0f} %"
    after = out.splitlines()[len(known) + 2 :]
    assert after[0] == "" and len(after) == 2 and "(mini model)" in after[1]


def test_a_run_on_benchmarks_prints_it_too_also_when_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "run", FakeRun(), table="md") == 0
    out, err = capsys.readouterr()
    assert {row["method"] for row in parsed(out)} == {"dense", "fastv", "random"}
    assert err == ""


def test_a_run_without_averages_has_its_benches_at_any_width(tmp_path: Path) -> None:
    write_run(tmp_path / "old", tuple(AVERAGES), failed=(("mine", "pope"),), without_cost=())
    said = shown(tmp_path / "old", 80)
    assert all(f"{bench} mini, %" in said for bench in BENCHES)
    assert lines_of(said)["mine"].split()[-1] == "failed"
    assert "worse)" in lines_of(said)["random"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--list", "methods", "--table", "md"], "--table has no meaning with --list"),
        (["--plots-only", "runs/x", "--table", "markdown"], "choose from md"),
    ],
)
def test_a_table_that_cannot_be_had_is_refused_in_one_line(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
