"""The report on half-written, hand-edited and foreign runs: a notice or a gap, nothing wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reports import build_report, changes
from reports.__main__ import main as reports
from reports.errors import ReportError
from reports.rundata import load_run
from reports.summary import Summary, summarise
from tests.fixtures.runs import METHODS, write_run
from tests.tiers import some

FILES = ("run.json", "cells.csv", "accuracy.csv", "cost.csv", "routing.csv")


def small_run(path: Path, **choices: Any) -> Path:
    """Few methods on one bench: enough to damage, quick to draw."""
    defaults: dict[str, Any] = {"methods": ("dense", "gamma", "blind"), "benches": ("gqa",)}
    return write_run(path, **{**defaults, "failed": (), "without_cost": (), **choices})


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def read(path: Path) -> tuple[Summary, str]:
    """What every table and figure is made of, and the notices; drawing is not what is tested."""
    summary = summarise(load_run(path))
    return summary, "\n".join(summary.run.notices)


def score(summary: Summary, label: str, bench: str) -> float | None:
    series = next(s for s in summary.series if s.label == label)
    found = summary.score(series, bench)
    return found.value if found else None


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_said(tmp_path: Path, name: str) -> None:
    path = small_run(tmp_path)
    (path / name).unlink()
    assert f"{name} is missing" in read(path)[1]
    assert f"{name} is missing" in build_report(path).read_text(encoding="utf-8")


DAMAGE = (b"", b"\xff\xfe\x00garbage", b"{}\n[1")
DAMAGED = [(name, content) for name in FILES for content in DAMAGE]


@pytest.mark.parametrize("case", some(DAMAGED, *DAMAGED[::4]))
def test_damaged_file_leaves_no_traceback(tmp_path: Path, case: tuple[str, bytes]) -> None:
    name, content = case
    path = small_run(tmp_path)
    (path / name).write_bytes(content)
    build_report(path)
    assert (path / "report.md").stat().st_size > 500


@pytest.mark.parametrize("cut", [1, 4, 60])
def test_cut_off_last_line_is_not_read(tmp_path: Path, cut: int) -> None:
    path = small_run(tmp_path)
    whole = (path / "accuracy.csv").read_text(encoding="utf-8")
    assert score(read(path)[0], "blind", "gqa") is not None
    # One character less still has every field, but a digit may be gone.
    (path / "accuracy.csv").write_text(whole[:-cut], encoding="utf-8")
    summary, notices = read(path)
    assert score(summary, "blind", "gqa") is None
    assert score(summary, "dense", "gqa") is not None
    assert "accuracy.csv: the last line is cut off" in notices


def test_run_in_progress_shows_what_is_planned(tmp_path: Path) -> None:
    pending = [(m, b) for m in ("pmod", "blind") for b in ("gqa", "textvqa")]
    path = write_run(
        tmp_path, ("dense", "gamma", "pmod", "blind"), ("gqa", "textvqa"), (), (), pending
    )
    summary, html = summarise(load_run(path)), build_report(path).read_text(encoding="utf-8")
    assert [s.label for s in summary.series] == ["dense", "gamma", "pmod", "blind"]
    assert "This run is not complete: 4 of 8 cells are done." in html
    assert html.count("not run") >= 8


def test_every_prefix_of_a_run_gives_a_report(tmp_path: Path) -> None:
    """As after a kill: cells.csv holds k lines, the other files are older or newer."""
    path = small_run(tmp_path, failed=(("gamma", "gqa"),))
    lines = (path / "cells.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    for kept in range(len(lines) + 1):
        (path / "cells.csv").write_text("".join(lines[:kept]), encoding="utf-8")
        summary, _ = read(path)
        assert summary.count("done") == sum(",done," in line for line in lines[:kept])


def test_later_row_of_a_cell_replaces_the_earlier(tmp_path: Path) -> None:
    path = small_run(tmp_path, failed=(("gamma", "gqa"),))
    assert summarise(load_run(path)).count("failed") == 1

    def retried(lines: list[str]) -> list[str]:
        line = next(x for x in lines if ",failed," in x)
        identity = line.split(",mini,")[0]
        return [*lines, f"{identity},mini,done,,500,31.0"]

    edit(path / "cells.csv", retried)
    summary = summarise(load_run(path))
    assert (summary.count("failed"), summary.count("done")) == (0, 3)


def test_numbers_of_a_failed_cell_are_not_shown(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    edit(
        path / "cells.csv",
        lambda x: [y.replace("done", "failed") if "gamma" in y else y for y in x],
    )
    assert score(summarise(load_run(path)), "gamma", "gqa") is None


@pytest.mark.parametrize(
    ("column", "value", "notice"),
    [
        ("value", "high", "1 value(s) of value are no number"),
        ("value", "inf", "1 value(s) of value are no number"),
        ("ci_low", "0.99", "1 intervals off their value"),
        ("delta_ci_high", "-0.9", "1 difference intervals off their value"),
    ],
)
def test_hand_edited_numbers_are_left_out(
    tmp_path: Path, column: str, value: str, notice: str
) -> None:
    path = small_run(tmp_path)

    def change(lines: list[str]) -> list[str]:
        place = lines[0].split(",").index(column) - lines[0].count(",") - 1
        for i, line in enumerate(lines):
            if ",gamma," in line:
                fields = line.split(",")
                fields[place] = value
                lines[i] = ",".join(fields)
        return lines

    edit(path / "accuracy.csv", change)
    summary, notices = read(path)
    assert notice in notices
    if column == "value":
        assert score(summary, "gamma", "gqa") is None


def test_impossible_counts_of_changes_are_left_out(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    more = "n_paired,right_to_wrong,wrong_to_right,detectable,skill,skill_ci_low,skill_ci_high"
    values = {"gamma": "10,8,9,0.1,0.9,0.95,0.99", "blind": "10,-1,2,0.1,,,"}

    def change(lines: list[str]) -> list[str]:
        rest = [values.get(x.split(",")[2], ",,,,,,") for x in lines[1:]]
        return [f"{lines[0]},{more}", *(f"{x},{y}" for x, y in zip(lines[1:], rest, strict=True))]

    edit(path / "accuracy.csv", change)
    summary, notices = read(path)
    assert "accuracy.csv: 2 counts of changed answers that cannot be, left out" in notices
    assert "accuracy.csv: 1 intervals above blind off their value" in notices
    assert changes.table(summary) is None


def test_ratios_that_cannot_be_are_left_out(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    edit(path / "routing.csv", lambda x: [x[0], x[1].rsplit(",", 1)[0] + ",1.7", *x[2:]])
    assert "routing.csv: 1 contradictory kept fractions" in read(path)[1]


def test_missing_column_leaves_the_file_out(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    edit(path / "accuracy.csv", lambda x: [x[0].replace(",value,", ",score,"), *x[1:]])
    summary, notices = read(path)
    assert "accuracy.csv: left out, it has no column value" in notices
    assert score(summary, "dense", "gqa") is None


def test_lines_of_another_length_are_left_out(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    edit(path / "accuracy.csv", lambda x: [*x[:2], x[2] + ",surplus", *x[3:]])
    summary, notices = read(path)
    assert "accuracy.csv: row 3 has 20 fields instead of 19" in notices
    assert score(summary, "gamma", "gqa") is None
    assert score(summary, "dense", "gqa") is not None


def test_newer_schema_is_said(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    meta = json.loads((path / "run.json").read_text(encoding="utf-8"))
    (path / "run.json").write_text(json.dumps(meta | {"schema_version": 99}), encoding="utf-8")
    edit(path / "accuracy.csv", lambda x: [f"{y},{i or 'novel'}" for i, y in enumerate(x)])
    summary, notices = read(path)
    assert "schema version 99, newer than this report" in notices
    assert score(summary, "dense", "gqa") == pytest.approx(0.762)


def test_mixed_devices_are_said(tmp_path: Path) -> None:
    path = small_run(tmp_path, throughput=True)
    edit(path / "throughput.csv", lambda x: [*x[:-1], x[-1].replace("2-core CPU", "GPU")])
    assert "throughput.csv: mixed device (2-core CPU, GPU)" in read(path)[1]


def test_remarks_on_a_cell_are_passed_on(tmp_path: Path) -> None:
    path = small_run(tmp_path)
    edit(
        path / "cells.csv",
        lambda x: [x[0] + ",notes", x[1] + ",batch 8 -> 4", x[2] + ",", x[3] + ","],
    )
    _, notices = read(path)
    assert notices == "dense on gqa: batch 8 -> 4"


def test_text_of_a_run_is_never_markup(tmp_path: Path) -> None:
    path = small_run(tmp_path, methods=("dense", "$x_1$ a<b|c"))
    nasty = '"<script>alert(1)</script> | `x` \x01"'
    edit(
        path / "cells.csv", lambda x: [*x, f"z,tiny-llava,mod,{{}},mod,gqa,mini,failed,{nasty},,1"]
    )
    html = build_report(path).read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "$x_1$ a&lt;b|c" in html
    markdown = (path / "report.md").read_text(encoding="utf-8")
    assert "\\<script\\>" in markdown
    assert "\x01" not in html + markdown


def test_no_run_is_one_line_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(ReportError):
            build_report(path)
        assert reports([str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    command = [sys.executable, "-m", "reports", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_large_study_stays_a_page_that_opens(tmp_path: Path) -> None:
    methods = (*METHODS, *(f"method{i} k={i}" for i in range(5)))
    path = write_run(tmp_path, methods, [f"bench{i}" for i in range(15)], (), layers=32)
    subprocess.run([sys.executable, "-m", "reports", str(path)], check=True, capture_output=True)
    assert (path / "report.html").stat().st_size < 10e6
