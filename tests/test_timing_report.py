"""The report of a timing run, from hand-made CSVs, in a process that has no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.common.roots import ROOT
from harness.store.columns import CELLS, THROUGHPUT
from reports import breakeven, waterfall
from reports.build import build_report
from reports.rundata import load_run
from reports.summary import summarise
from reports.timing import Timed, timed, watermark
from tests.fixtures.without import WITHOUT_TORCH

# label -> ms of vision, prefill, decode, and of the selection; the interval is 4 % wide
METHODS = {"dense": (10.0, 100.0, 40.0, 0.0), "pmod": (10.0, 60.0, 38.0, 4.0)}
METHODS["fastv"] = (10.0, 104.0, 40.0, 6.0)
FLOPS = {"vision": 1.0, "prefill": 1.8, "decode": 1.1, "end_to_end": 1.5}


def rows_of(label: str, n_image: int, batch: int, note: str, faster: float) -> list[dict[str, Any]]:
    vision, prefill, decode, selection = METHODS[label]
    parts = {"vision": vision, "prefill": prefill / (1 if label == "dense" else faster)}
    parts |= {"decode": decode, "end_to_end": sum((vision, parts["prefill"], decode)) + 2.0}
    dense = dict(zip(("vision", "prefill", "decode"), METHODS["dense"], strict=False))
    dense["end_to_end"] = sum(METHODS["dense"][:3]) + 2.0
    work = f"n_text=58:n_image={n_image}:n_out=32:batch={batch}"
    head = {
        "cell_id": f"{label}{n_image}{batch}", "model": "small, random weights", "method": label,
        "params": "{}", "label": label, "workload": work, "device": "Some GPU", "attn": "sdpa",
        "dtype": "bfloat16", "batch": batch, "n_text": 58, "n_image": n_image, "n_out": 32,
        "notes": note, "repeats": 30,
    }  # fmt: skip
    rows = []
    for phase, ms in parts.items():
        row = {**head, "phase": phase, "median_ms": ms, "p10_ms": ms * 0.98, "p90_ms": ms * 1.05}
        if label != "dense":
            gain = dense[phase] / ms
            row |= {"speedup_vs_dense": gain, "speedup_ci_low": gain * 0.98}
            row |= {"speedup_ci_high": gain * 1.02, "flops_ratio": FLOPS[phase]}
            row["realisation"] = gain / FLOPS[phase]
            row["realisation_ci_low"] = 0.98 * row["realisation"]
            row["realisation_ci_high"] = 1.02 * row["realisation"]
        rows.append(row)
    if selection:
        rows.append({**head, "phase": "selection", "median_ms": selection})
    return rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three methods on two sizes by two batches; fastv failed on the largest."""
    path = tmp_path / "timed"
    path.mkdir()
    rows, cells = [], []
    for n_image, batch, faster in ((576, 1, 0.6), (576, 8, 1.0), (2928, 1, 1.0), (2928, 8, 1.2)):
        note = "busy device: 1 other process on it" if batch == 8 else ""
        for label in METHODS:
            failed = (label, n_image, batch) == ("fastv", 2928, 8)
            found = rows_of(label, n_image, batch, note, faster)
            rows += [] if failed else found
            head = {name: found[0].get(name, "") for name in CELLS}
            head |= {"bench": found[0]["workload"], "data": "synthetic", "batch_size": batch}
            head |= {"status": "failed" if failed else "done", "n": 30}
            cells.append(head | {"error": "out of memory at batch 8" if failed else ""})
    pd.DataFrame(rows, columns=list(THROUGHPUT)).to_csv(path / "throughput.csv", index=False)
    pd.DataFrame(cells, columns=list(CELLS)).to_csv(path / "cells.csv", index=False)
    works = list(dict.fromkeys(row["workload"] for row in rows))
    settings = {"throughput": True, "methods": list(METHODS), "workload": works}
    about = {"schema_version": 1, "device_name": "Some GPU", "settings": settings, "seed": 0}
    (path / "run.json").write_text(json.dumps(about | {"clock": "CUDA events"}))
    return path


def test_it_is_drawn_where_there_is_no_torch(run: Path) -> None:
    code = (
        f"{WITHOUT_TORCH}"
        "from reports import build_report\nfrom pathlib import Path\n"
        f"build_report(Path({str(run)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    markdown = (run / "report.md").read_text()
    assert "Measured times of 2 methods against dense on 4 workloads" in markdown
    assert "11 of 12 cells done, 1 failed" in markdown
    assert "out of memory at batch 8" in markdown
    assert (
        "1.67× [1.63, 1.70] (0.93 [0.91, 0.94] of 1.80×)" in markdown
    )  # pmod's prefill: 100 / 60 of 1.8
    assert "accuracy.csv" not in markdown
    assert "busy device: 1 other process on it" in markdown
    for name in ("waterfall", "breakeven"):
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


def test_break_even_lies_between_measured_numbers(run: Path) -> None:
    """pmod pays at 2928 and not at 576 in batch 1, at the only number measured in batch 8."""
    entries = entries_of(run)
    table = breakeven.table(entries)
    assert table is not None
    shown = {row[0].main: [cell.main for cell in row[1:]] for row in table.rows}
    assert shown == {
        "pmod": ["> 576, ≤ 2928", "≤ 576 (smallest measured)"],
        "fastv": ["> 2928 (largest measured)", "> 576 (largest measured)"],
    }
    assert breakeven.table(entries[:1]) is None


def test_break_even_of_a_method_that_pays_everywhere(run: Path) -> None:
    """Faster at 576 and at 2928: the smaller one bounds it from above, nothing from below."""
    places = breakeven.grouped(entries_of(run))["pmod", 32.0]
    fast = places[2928, 1]
    found = breakeven.crossing({(576, 1): fast, (2928, 1): fast}, 1)
    assert (found.above, found.upto) == (None, 576)


def test_a_throttled_device_is_a_watermark_of_its_own(run: Path) -> None:
    entries = entries_of(run)
    assert watermark(entries) == "busy"
    for entry in entries:
        entry.notes = "throttled device: heat"
    assert watermark(entries) == "throttled"
    assert watermark([]) == ""


def test_an_unfinished_run_says_so(run: Path) -> None:
    (run / "throughput.csv").unlink()
    page = build_report(run).read_text()
    assert "Nothing has been timed (yet)." in page
    assert "throughput.csv is missing" in page
