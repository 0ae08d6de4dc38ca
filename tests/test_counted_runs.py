"""Ordinary runs: fvcore and torch count every sample; what disagrees fails its cell."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.cost.findings import SINGLY, Curve, Finding, RefereeError
from harness.cost.referees import Referees
from harness.store.columns import COUNTED
from harness.store.csvfile import read_rows
from tests.fakes import SHAPE, FakeRun, derived, run


@cache
def real_referees() -> Referees:
    """The real counters at the fakes' sizes; examined once for all tests."""
    return Referees(SHAPE)


class Counting(FakeRun):
    """The fakes with real counters."""

    def counters(self) -> Any:
        return real_referees()


def test_an_ordinary_run_has_the_counters_rows_and_resumes_to_the_same_bytes(
    tmp_path: Path,
) -> None:
    def stop(method: str, doc: int) -> None:
        if method == "fastv" and doc == 10:
            raise KeyboardInterrupt

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run(whole, Counting()) == 0
    assert run(cut, Counting(on_answer=stop)) == 130
    assert run(cut, Counting()) == 0
    assert derived(cut) == derived(whole)
    for path in (whole / "samples").glob("*.csv"):
        assert path.read_bytes() == (cut / "samples" / path.name).read_bytes()

    cost = pd.read_csv(whole / "cost.csv")
    key = ["cell_id", "scope"]
    closed = cost[(cost.counter == "closed_form") & (cost.convention == "full")].set_index(key)
    for counter in ("fvcore", "torch"):
        rows = cost[cost.counter == counter]
        assert set(rows.convention) == {"full"}
        assert set(rows.scope) == {*COUNTED, "total"}
        assert len(rows) == 6 * 7  # cells x scopes
        for name in ("tflops_mean", "tflops_ci_low", "tflops_ci_high"):
            ours, theirs = closed[name], rows.set_index(key)[name]
            pd.testing.assert_series_equal(ours, theirs, rtol=1e-12)


def test_the_total_counts_the_router_and_not_the_head_again(tmp_path: Path) -> None:
    run(tmp_path / "run", Counting())
    cost = pd.read_csv(tmp_path / "run" / "cost.csv")
    for (_, _, convention), rows in cost.groupby(["cell_id", "counter", "convention"]):
        if convention.startswith("paper"):
            assert set(rows.scope) == {"llm_prefill"}
            continue
        by_scope = rows.set_index("scope").tflops_mean
        parts = ["vision", "projector", "llm_prefill", "llm_decode", "router"]
        assert by_scope["total"] == pytest.approx(by_scope[parts].sum(), rel=1e-12)
        assert by_scope["router"] > 0
        assert 0 < by_scope["lm_head"] < by_scope["llm_prefill"] + by_scope["llm_decode"]


def test_a_counter_that_disagrees_on_a_sample_fails_its_cell_in_one_line(tmp_path: Path) -> None:
    class Off:
        def described(self) -> dict[str, Any]:
            return {}

        def sample(self, record: Any, vision_runs: bool, counts: Any) -> Any:
            found = real_referees().sample(record, vision_runs, counts)
            if record.mod_layers.any():
                found["torch"]["llm_decode"] *= 1.01
            return found

    class Disagreeing(FakeRun):
        def counters(self) -> Any:
            return Off()

    out = tmp_path / "run"
    assert run(out, Disagreeing()) == 3
    rows = read_rows(out / "cells.csv")
    assert [row["status"] for row in rows] == ["done", "failed", "failed"] * 2
    said = "FLOPs of llm_decode disagree by more than 0.5%: closed form "
    assert rows[1]["error"].startswith(said)


def test_a_curve_counts_few_sizes_and_is_checked_on_those_it_meets() -> None:
    asked: list[int] = []

    def square(size: int, bend: float = 0.0) -> Finding:
        asked.append(size)
        value = 3.0 * size**2 + 5 * size + 7 + (bend if size > 700 else 0.0)
        return Finding("toy", f"{size} tokens", value, value, value)

    curve = Curve(square, nodes=(58, 634, 2986), proof=100)
    sizes = np.arange(1, 2000)
    expected = float((3 * sizes**2 + 5 * sizes + 7).sum())
    assert curve.total(sizes) == {"fvcore": expected, "torch": expected}
    assert len(asked) == len(set(asked)) <= SINGLY
    before = len(asked)
    assert curve.total(np.array([9000])) == dict.fromkeys(("fvcore", "torch"), 243_045_007.0)
    assert asked[before:] == [9000]  # beyond all counted so far: counted, too
    with pytest.raises(RefereeError, match=r"FLOPs of toy at 1217 tokens: fvcore counts .*, its"):
        Curve(lambda n: square(n, 2e6), nodes=(58, 634, 2986), proof=1217).total(sizes)
