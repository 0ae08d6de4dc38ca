"""The report of a timing run, from hand-made CSVs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from harness.common.roots import ROOT
from harness.readouts.ending import markdown
from harness.readouts.times import ending
from reports import breakeven, timesections, waterfall
from reports.build import build_report
from reports.rundata import load_run
from reports.summary import summarise
from reports.timing import Board, Timed, board, timed, watermark
from tests.fixtures.timed import write
from tests.fixtures.without import WITHOUT_TORCH


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "timed")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, painted_module: None) -> Path:
    """The same run with its report, drawn once."""
    path = write(tmp_path_factory.mktemp("runs") / "timed")
    build_report(path)
    return path


@pytest.mark.slow
def test_it_is_drawn_where_there_is_no_torch(run: Path) -> None:
    code = (
        f"{WITHOUT_TORCH}"
        "from reports import build_report\nfrom pathlib import Path\n"
        f"build_report(Path({str(run)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Measured times of 2 methods" in (run / "report.md").read_text()


def test_it_is_drawn(drawn: Path) -> None:
    run = drawn
    markdown = (run / "report.md").read_text()
    assert "Measured times of 2 methods against dense on 4 workloads" in markdown
    assert "11 of 12 cells done, 1 failed" in markdown
    assert "out of memory at batch 8" in markdown
    assert "1.67× [1.63, 1.70]<br>60.0 ms" in markdown  # pmod's prefill: 100 / 60
    assert "0.93 [0.91, 0.94]<br>of 1.80×" in markdown  # of its FLOPs ratio
    assert "accuracy.csv" not in markdown
    assert "busy device: 1 other process on it" in markdown
    for name in ("speedup", "waterfall", "breakeven"):
        for kind in ("svg", "png", "pdf", "csv"):
            assert (run / "figures" / f"{name}.{kind}").stat().st_size > 0
        assert "busy" in (run / "figures" / f"{name}.svg").read_text()  # the watermark


def entries_of(run: Path) -> list[Timed]:
    return timed(summarise(load_run(run)))


def test_the_waterfall_adds_up(run: Path) -> None:
    found = {
        (entry.series.label, entry.workload): one
        for entry, one in waterfall.all_steps(entries_of(run))
    }
    pmod = found["pmod", "n_text=58:n_image=2928:n_out=32:batch=1"]
    assert pmod == {
        "dense": 152.0,
        "backend": 0.0,
        "selection": 4.0,
        "prefill": -44.0,
        "decode": -2.0,
        "rest": pytest.approx(0.0),
        "method": 110.0,
    }
    for one in found.values():
        assert sum(one.values()) - one["method"] == pytest.approx(one["method"])
    assert len(found) == 7


def test_a_backend_penalty_stands_alone(run: Path) -> None:
    entries = entries_of(run)
    dense, pmod = entries[0], next(e for e in entries if e.series.label == "pmod")
    best = next(e for e in entries if e.series.label == "fastv")
    found = waterfall.steps(pmod, dense, best)
    assert found["backend"] == dense.ms("end_to_end") - best.ms("end_to_end")
    assert sum(found.values()) == pytest.approx(2 * found["method"])


def board_of(run: Path) -> Board:
    summary = summarise(load_run(run))
    return board(summary, timed(summary))


def test_break_even_lies_between_measured_numbers(run: Path) -> None:
    """pmod pays at 2928 and not at 576 in batch 1, at the only number measured in batch 8."""
    table = breakeven.table(board_of(run))
    assert table is not None
    shown = {row[0].main: [cell.main for cell in row[1:]] for row in table.rows}
    assert shown == {
        "pmod": ["> 576, ≤ 2928", "≤ 576 (smallest measured)"],
        "fastv": ["> 2928 (largest measured)", "> 576 (largest measured)"],
    }


def test_break_even_of_a_method_that_pays_everywhere() -> None:
    """Faster at 576 and at 2928: the smaller one bounds it from above, nothing from below."""
    found = breakeven.crossing([(2928, "faster"), (576, "faster")])
    assert (found.above, found.upto) == (None, 576)


def test_the_chart_of_break_even_says_what_failed(drawn: Path) -> None:
    chart = pd.read_csv(drawn / "figures" / "breakeven.csv").set_index(
        ["label", "n_image", "batch"]
    )
    assert chart.status.to_dict() == {
        ("pmod", 576, 1): "open",
        ("pmod", 576, 8): "faster",
        ("pmod", 2928, 1): "faster",
        ("pmod", 2928, 8): "faster",
        ("fastv", 576, 1): "slower",
        ("fastv", 576, 8): "slower",
        ("fastv", 2928, 1): "slower",
        ("fastv", 2928, 8): "failed",
    }
    assert pd.isna(chart.speedup["fastv", 2928, 8])  # not 0, and not as fast as dense
    words = (drawn / "figures" / "breakeven.svg").read_text()
    assert "failed" in words
    assert "▲ 1.38" in words  # pmod at 2928 in batch 1: 152 / 110


def only(run: Path, *works: str) -> None:
    """Leave some workloads in the run, named by a part of their specification."""
    for name, column in (("throughput.csv", "workload"), ("cells.csv", "bench")):
        frame = pd.read_csv(run / name)
        kept = frame[column].apply(lambda spec: any(f":{work}" in spec for work in works))
        frame[kept].to_csv(run / name, index=False)
    about = json.loads((run / "run.json").read_text())
    about["settings"]["workload"] = list(dict.fromkeys(frame[kept][column]))
    (run / "run.json").write_text(json.dumps(about))


def first_table(run: Path) -> list[list[str]]:
    """The first table of the Markdown report, cell by cell."""
    text = (run / "report.md").read_text()
    text = text.split("## Speed-up over dense")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_first_table_is_best_first(run: Path) -> None:
    """By the geometric mean; fastv, which failed at one size, comes after the complete rows."""
    only(run, "n_image=2928")
    build_report(run)
    head, _, *rows = first_table(run)
    assert head[1:] == [
        "2928 image tokens<br>32 new, batch 1",
        "2928 image tokens<br>32 new, batch 8",
    ]
    assert [row[0] for row in rows] == ["pmod", "dense", "fastv"]
    assert rows[0][1] == "1.38× [1.35, 1.41]<br>110.0 ms"  # 152 / 110, two percent either side
    assert rows[1][1] == "1×<br>152.0 ms"
    assert rows[2][1:] == ["0.97× [0.95, 0.99]<br>156.0 ms", "failed"]


def test_of_a_single_workload_the_first_table_has_the_phases(run: Path) -> None:
    only(run, "n_image=2928:n_out=32:batch=1")
    build_report(run)
    head, _, *rows = first_table(run)
    assert [title.partition("<br>")[0] for title in head] == [
        "Method",
        "End to end",
        "Prefill",
        "Decode",
        "Of FLOPs",
    ]
    assert [row[0] for row in rows] == ["pmod", "dense", "fastv"]
    assert not (run / "figures" / "breakeven.csv").exists()  # one size has no break-even


def test_many_workloads_start_with_the_mean_and_the_telling_ones(drawn: Path) -> None:
    head, _, *rows = first_table(drawn)
    assert head[1] == "Mean<br>geometric, of 4 workloads"
    gains = [152 / (10 + 60 / faster + 38 + 2) for faster in (0.6, 1.0, 1.0, 1.2)]
    mean = math.prod(gains) ** 0.25
    assert rows[0][:2] == ["pmod", f"{mean:.2f}×<br>{min(gains):.2f} to {max(gains):.2f}"]
    page = (drawn / "report.html").read_text()
    assert page.count('class="num fold"') == 1 + len(rows)  # all but three workloads


def test_the_table_for_a_paper_keeps_to_its_page(drawn: Path, run: Path) -> None:
    """Not all columns fit: the first ones stand there, and that others do not is said."""
    many = (drawn / "tables" / "speed.tex").read_text()
    assert "Left out for width: " in many
    assert r"1.38$\times$" in many
    only(run, "n_image=2928:n_out=32:batch=1")
    build_report(run)
    single = (run / "tables" / "speed.tex").read_text()
    assert "End to end" in single
    assert "Prefill" in single


def test_the_run_ends_with_the_first_table(run: Path) -> None:
    found = ending(run)
    assert found is not None
    lines = markdown(found.table(None)).splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[0] for row in table] == ["Method", "---", "pmod", "dense", "fastv"]
    assert table[2][-1] == "1.52× [1.49, 1.55]"  # 152 / 100 at 2928 tokens in batch 8
    assert table[4][-1] == "failed"
    assert found.caption.startswith("small, random weights; Some GPU, bfloat16, sdpa, 30 rounds")
    assert found.notes == timesections.sentences(board_of(run))
    (run / "throughput.csv").unlink()
    assert ending(run) is None


def test_the_first_sentences(run: Path) -> None:
    where = "576 image tokens, 32 new, batch 1"
    assert timesections.sentences(board_of(run)) == [
        f"On {where}, pmod is fastest: 1.01× [0.99, 1.03] over dense end to end (not told apart "
        "from dense), where FLOPs promise 1.50×. It is the fastest on 4 of 4 workloads.",
        "Faster than dense beyond the interval: 3 of 7 pairs; slower: fastv on 3 workloads, "
        f"lowest 0.67× [0.66, 0.69] on {where}; neither: pmod on {where} (1.01× [0.99, 1.03]).",
    ]


def test_the_waterfall_is_folded_where_nothing_differs(run: Path) -> None:
    """Every interval spans 1: there is no difference to explain."""
    frame = pd.read_csv(run / "throughput.csv")
    frame.loc[frame.label != "dense", ["speedup_ci_low", "speedup_ci_high"]] = [0.5, 2.0]
    frame.to_csv(run / "throughput.csv", index=False)
    page = build_report(run).read_text()
    section = page.split('id="waterfall"')[1].split("</section>")[0]
    assert "No method differs from dense beyond the interval" in section
    assert section.index("<details") < section.index("<figure")


def test_dense_at_another_backend_is_said(run: Path) -> None:
    """Times under a backend that is not dense's best do not pass for a gain."""
    only(run, "n_image=2928:n_out=32:batch=1")
    frame = pd.read_csv(run / "throughput.csv")
    frame.loc[frame.label == "pmod", "speedup_vs_best"] = 0.8
    frame.loc[frame.label == "fastv", "speedup_vs_best"] = 0.6
    frame.to_csv(run / "throughput.csv", index=False)
    assert timesections.sentences(board_of(run))[-1] == (
        "These times are not at dense's best backend: against that, 0 of 2 are faster, at best "
        "pmod with 0.80× (medians)."
    )


def test_a_throttled_device_is_a_watermark_of_its_own(run: Path) -> None:
    entries = entries_of(run)
    assert watermark(entries) == "busy"
    for entry in entries:
        entry.notes = "throttled device: heat"
    assert watermark(entries) == "throttled"
    assert watermark([]) == ""


def test_numbers_of_the_mini_model_are_marked_beside_what_disturbed_them(
    run: Path, paint: Callable[..., None]
) -> None:
    paint("speedup", "breakeven", "waterfall")
    for name in ("throughput.csv", "cells.csv"):
        frame = pd.read_csv(run / name)
        frame.assign(model="tiny-llava").to_csv(run / name, index=False)
    build_report(run)
    for name in ("speedup", "breakeven", "waterfall"):
        assert "mini, busy" in (run / "figures" / f"{name}.svg").read_text()
    found = ending(run)
    assert found is not None
    assert "mini model" in found.caption


def test_an_unfinished_run_says_so(run: Path) -> None:
    (run / "throughput.csv").unlink()
    page = build_report(run).read_text()
    assert "Nothing has been timed (yet)." in page
    assert "throughput.csv is missing" in page
