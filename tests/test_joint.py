"""Changes, fronts and skill: closed forms and brute force."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from harness.readouts.fronts import AVERAGE, Fronts, Subject
from harness.statistics import joint, stats
from harness.statistics.changes import changes
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run


def test_changes_count_falls_and_rises() -> None:
    found = changes([0, 0, 1, 1, 0.5], [1, 1, 0, 1, 0.4])
    assert (found.n, found.right_to_wrong, found.wrong_to_right) == (5, 2, 2)
    assert found.discordance == pytest.approx(0.8)
    turned = changes([0, 0, 1, 1, 0.5], [1, 1, 0, 1, 0.4], higher_is_better=False)
    assert (turned.right_to_wrong, turned.wrong_to_right) == (2, 2)
    assert changes([3, 1], [1, 1], higher_is_better=False).right_to_wrong == 1


def test_resampled_means_have_the_closed_form_of_a_bootstrap() -> None:
    values = np.random.default_rng(1).random((60, 3))
    means = joint.resampled_means(values)
    assert means.shape == (stats.RESAMPLES, 3)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=0), abs=0.01)
    assert means.std(axis=0) == pytest.approx(values.std(axis=0) / math.sqrt(60), rel=0.06)
    # One draw serves all columns: their correlation is that of the documents.
    assert np.corrcoef(means.T) == pytest.approx(np.corrcoef(values.T), abs=0.07)
    assert (joint.resampled_means(values, name="other") != means).any()
    assert (joint.resampled_means(values) == means).all()


def test_images_are_drawn_whole() -> None:
    values = np.repeat(np.array([[0.0], [1.0]]), 5, axis=0)
    means = joint.resampled_means(values, ["a"] * 5 + ["b"] * 5)
    assert set(np.unique(means)) == {0.0, 0.5, 1.0}


def test_front_agrees_with_brute_force() -> None:
    rng = np.random.default_rng(2)
    costs, scores = rng.integers(0, 4, (300, 5)) / 7, rng.integers(0, 4, (300, 5)) / 3
    found = joint.on_front(costs, scores)
    for draw, (cost, score) in enumerate(zip(costs, scores, strict=True)):
        pairs = list(zip(cost, score, strict=True))
        free = [not any(c <= x and s >= y and (c, s) != (x, y) for c, s in pairs) for x, y in pairs]
        assert found[draw].tolist() == free


def test_front_probability_of_every_possible_draw() -> None:
    """Four documents: all 256 draws counted; 2,000 random ones come close."""
    scores = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    costs = np.array([[2.0, 1.0]] * 4)
    draws = np.array(list(itertools.product(range(4), repeat=4)))
    exact = joint.front_probability(costs[draws].mean(axis=1), scores[draws].mean(axis=1))
    assert exact[1] == 1.0  # the cheapest always stands there
    assert 0.4 < exact[0] < 0.9
    means = joint.resampled_means(np.hstack([scores, costs]))
    close = joint.front_probability(means[:, 2:], means[:, :2])
    assert close == pytest.approx(exact, abs=0.035)


def test_skill_of_known_rows() -> None:
    dense, blind = [1.0] * 80 + [0.0] * 20, [1.0] * 20 + [0.0] * 80
    half = [1.0] * 50 + [0.0] * 50
    kept = joint.skill(half, dense, blind)
    assert kept is not None and kept.value == pytest.approx(0.5)
    assert kept.low is not None and kept.high is not None
    assert 0.3 < kept.low < 0.5 < kept.high < 0.7
    assert joint.skill(half, blind, dense) is None  # dense is not above blind
    assert joint.skill([], [], []) is None
    near = joint.skill([1.0, 0.0] * 10, [1.0] * 11 + [0.0] * 9, [0.0] * 10 + [1.0] * 10)
    assert near is not None and near.low is None and near.high is None  # unbounded ratio


def test_skill_of_images_that_answer_alike_is_that_of_one_answer_an_image() -> None:
    """Five copies of every answer are no more evidence, invented ones included."""
    dense, blind = [1.0] * 36 + [0.0] * 4, [0.0] * 32 + [1.0] * 8
    ours = [1.0] * 26 + [0.0] * 14
    alone = joint.skill(ours, dense, blind)
    copies = [np.repeat(row, 5).tolist() for row in (ours, dense, blind)]
    together = joint.skill(*copies, [i // 5 for i in range(200)])
    assert alone is not None and together is not None and alone.low is not None
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


def test_skill_interval_agrees_with_the_delta_method() -> None:
    rng = np.random.default_rng(4)
    base = rng.random(3000)
    rows = [(base + 0.2 * rng.random(3000) < level).astype(float) for level in (0.75, 0.85, 0.3)]
    kept = joint.skill(*(row.tolist() for row in rows))
    assert kept is not None and kept.low is not None and kept.high is not None
    ours, dense, blind = rows
    lead = dense.mean() - blind.mean()
    spread = ((ours - blind) - kept.value * (dense - blind)).std() / lead / math.sqrt(3000)
    assert (kept.high - kept.low) / 2 == pytest.approx(1.96 * spread, rel=0.1)


def subject(method: str, bench: str, right: int, cost: float, n: int = 40) -> Subject:
    about = {"cell_id": f"{method}-{bench}", "model": "m", "method": method, "params": "{}"}
    docs = [str(i) for i in range(n)]
    scores = {doc: float(i < right) for i, doc in enumerate(docs)}
    cell = {**about, "label": method, "bench": bench}
    return Subject(cell, "exact_match", scores, True, dict.fromkeys(docs, cost), {})


def test_rows_of_the_fronts() -> None:
    cells = [
        subject(*one)
        for one in (
            ("dense", "a", 30, 2.0), ("fast", "a", 28, 1.0), ("bad", "a", 10, 1.5),
            ("blind", "a", 5, 0.1), ("dense", "b", 20, 2.0), ("fast", "b", 20, 1.0),
        )
    ]  # fmt: skip
    rows = {(r["bench"], r["label"]): r for r in Fronts(0).rows(cells)}
    assert not any(label == "blind" for _, label in rows)
    assert rows["a", "bad"]["on_front"] == 0 and rows["a", "bad"]["front_probability"] == 0.0
    assert rows["b", "dense"]["on_front"] == 0  # as good and dearer
    assert rows["b", "fast"]["front_probability"] == 1.0
    # Two more documents right make dense's place: lost only where a draw misses both.
    missed = (38 / 40) ** 40
    assert rows["a", "dense"]["front_probability"] == pytest.approx(1 - missed, abs=0.03)
    assert set(rows) >= {(AVERAGE, "dense"), (AVERAGE, "fast")}
    assert (AVERAGE, "bad") not in rows  # it has no answers on b
    assert rows[AVERAGE, "dense"]["score"] == pytest.approx((0.75 + 0.5) / 2)


def test_a_bench_is_drawn_again_only_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = joint.resampled_means
    monkeypatch.setattr(joint, "resampled_means", lambda *a: calls.append(a) or real(*a))
    fronts = Fronts(0)
    cells = [subject("dense", "a", 30, 2.0), subject("dense", "b", 30, 2.0)]
    assert fronts.rows(cells) == fronts.rows(cells)
    assert len(calls) == 2
    fronts.rows([*cells, subject("fast", "b", 30, 1.0)])
    assert len(calls) == 3


# --- through a run --------------------------------------------------------------------------------


def headlines(out: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(out / "accuracy.csv") if row["headline"] == "1"]


def test_columns_of_a_run_agree_with_its_samples(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out, methods=("fastv", "blind")) == 0
    rows = headlines(out)
    dense = {r["bench"]: r for r in rows if r["method"] == "dense"}
    fastv = [r for r in rows if r["method"] == "fastv"]
    assert [r["n_paired"] for r in dense.values()] == ["", ""]
    for row in fastv:
        ours, theirs = (
            {r["doc_id"]: float(r["score"]) for r in read_rows(out / "samples" / f"{one}.csv")}
            for one in (row["cell_id"], dense[row["bench"]]["cell_id"])
        )
        fell = sum(ours[doc] < theirs[doc] for doc in ours)
        rose = sum(ours[doc] > theirs[doc] for doc in ours)
        assert (int(row["right_to_wrong"]), int(row["wrong_to_right"])) == (fell, rose)
        assert float(row["right_to_wrong_share"]) == fell / len(ours)
        assert float(row["margin"]) == 0.01
    fronts = read_rows(out / "fronts.csv")
    assert {r["bench"] for r in fronts} == {*dense, AVERAGE}
    assert {r["method"] for r in fronts} == {"dense", "fastv"}


def test_margin_is_recorded_and_another_one_derives_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    parts = FakeRun()
    assert run(out, parts) == 0
    computed = len(parts.computed)
    before = headlines(out)
    for asked, kept in ((30.0, 30.0), (None, 30.0), (2.5, 2.5)):
        assert run(out, parts, margin=asked) == 0
        assert len(parts.computed) == computed  # nothing was answered again
        assert json.loads((out / "run.json").read_text(encoding="utf-8"))["margin"] == kept
        after = headlines(out)
        assert {r["margin"] for r in after if r["margin"]} == {repr(kept / 100)}
        for old, new in zip(before, after, strict=True):
            if not new["delta"]:
                continue
            if old["verdict"] in ("better", "worse"):
                assert new["verdict"] == old["verdict"]
            else:
                inside = float(new["delta_ci_low"]) > -kept / 100
                assert new["verdict"] == ("non-inferior" if inside else "inconclusive")
