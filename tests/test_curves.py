"""curves.csv: areas between curves of accuracy against budget, against closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.readouts.controls import Contender
from harness.readouts.curves import Curves
from harness.readouts.fronts import Subject
from harness.statistics.areas import weights
from harness.store.csvfile import read_rows
from harness.store.curves import place_of
from tests.fakes import FakeRun, run

DOCS = 60
KV = (0.5, 0.25, 0.125)
Scores = list[float]


def row(
    method: str,
    kv: float | None,
    scores: Scores,
    bench: str = "gqa",
    met: float | None = None,
    numbering: str = "original",
    better: bool = True,
    per: int = 1,
    **params: Any,
) -> Contender:
    given = {"kv": kv, "ratio": None, "tokens": None, **params} if method != "dense" else {}
    words = [f"{k}={v}" for k, v in given.items() if v is not None]
    label = " ".join([method, *words])
    about = {
        "model": "m", "method": method, "params": json.dumps(given), "label": label,
        "bench": bench, "cell_id": f"{label} {bench}",
    }  # fmt: skip
    values = {str(i): s for i, s in enumerate(scores)}
    shown = {str(i): f"image-{i // per}" for i in range(len(scores))}
    subject = Subject(about, "exact_match", values, better, {}, shown)
    return Contender(subject, kv if met is None else met, numbering)


def coins(seed: int, share: float = 0.5, n: int = DOCS) -> Scores:
    return [float(x) for x in np.random.default_rng(seed).random(n) < share]


def areas(*rows: Contender) -> list[dict[str, Any]]:
    return Curves(0).rows(rows)


def only(*rows: Contender) -> dict[str, Any]:
    (found,) = areas(*rows)
    return found


def test_weights_are_the_trapezoid() -> None:
    assert weights([0.1, 0.9]).tolist() == [0.5, 0.5]
    x = [0.11, 0.22, 0.33, 0.5]
    y = np.array([0.3, 0.9, -0.2, 0.4])
    found = weights(x)
    assert found.sum() == pytest.approx(1)
    assert found @ y == pytest.approx(np.trapezoid(y, x) / (0.5 - 0.11))
    assert weights([0.5]) is None
    assert weights([0.5, 0.5]) is None


def test_a_constant_difference_is_the_area() -> None:
    """All documents score 0.25 less than dense at every budget, however the budgets lie."""
    dense = [0.75] * DOCS
    found = only(row("dense", None, dense), *(row("fastv", kv, [0.5] * DOCS) for kv in KV))
    assert found["area"] == -0.25
    assert found["ci_low"] < -0.25 < found["ci_high"]  # two invented images, as everywhere
    assert found["p_value"] == pytest.approx(2 / 50_000, abs=1e-4)  # one sign pattern of 2^60
    expected = {"method": "fastv", "curve": "fastv", "against": "dense", "n": DOCS, "images": DOCS}
    assert expected.items() <= found.items()
    assert found["budgets"] == "0.5+0.25+0.125"


def test_two_budgets_are_the_mean_of_the_two() -> None:
    dense, one, two = coins(1, 0.8), coins(2, 0.6), coins(3, 0.3)
    found = only(row("dense", None, dense), row("fastv", 0.5, one), row("fastv", 0.2, two))
    mean = [np.mean(s) - np.mean(dense) for s in (one, two)]
    assert found["area"] == pytest.approx(sum(mean) / 2)


def test_the_width_is_of_the_budgets_met() -> None:
    dense, scores = [1.0] * DOCS, [coins(i, p) for i, p in enumerate((0.9, 0.5, 0.2))]
    met = (0.51, 0.24, 0.125)
    rows = [row("fastv", kv, s, met=m) for kv, s, m in zip(KV, scores, met, strict=True)]
    y = [np.mean(s) - 1 for s in scores]
    area = ((y[0] + y[1]) * (met[0] - met[1]) + (y[1] + y[2]) * (met[1] - met[2])) / 2
    found = only(row("dense", None, dense), *rows)
    assert found["area"] == pytest.approx(area / (met[0] - met[2]))


def test_equal_curves_and_the_exact_p_value_of_a_few_images() -> None:
    both = [row(m, kv, coins(5)) for m in ("fastv", "divprune") for kv in KV[:2]]
    found = only(*both)
    assert (found["area"], found["p_value"], found["p_adjusted"]) == (0, 1, 1)
    # Eight images, all better: 2 of 2^8 sign patterns are as far out.
    better = [1.0] * 8 + [0.0] * (DOCS - 8)
    found = only(
        *(row("divprune", kv, [0.0] * DOCS) for kv in KV[:2]),
        *(row("fastv", kv, better) for kv in KV[:2]),
    )
    assert found["area"] == pytest.approx(8 / DOCS)
    assert found["p_value"] == pytest.approx(2 / 2**8, rel=0.2)


def test_which_curves_meet() -> None:
    rows = [row("dense", None, coins(0))]
    for seed, (method, positions, more) in enumerate([
        ("fastv", "original", {}), ("divprune", "compact", {}), ("fastv", "original", {"k": 1}),
        ("random", "original", {"seed": 0}), ("random", "original", {"seed": 1}),
        ("random", "compact", {"positions": "compact"}), ("pool", "compact", {}),
    ]):  # fmt: skip
        rows += [row(method, kv, coins(seed), numbering=positions, **more) for kv in KV[:2]]
    rows.append(row("mmtok", 0.5, coins(9)))  # one budget is no curve
    found = areas(*rows)
    assert [(r["curve"], r["against"]) for r in found] == [
        ("fastv", "dense"), ("fastv", "random"),
        ("divprune", "dense"), ("divprune", "random positions=compact"), ("divprune", "pool"),
        ("divprune", "fastv"),
        ("fastv k=1", "dense"), ("fastv k=1", "random"), ("fastv k=1", "fastv"),
        ("fastv k=1", "divprune"),
    ]  # fmt: skip


def test_seeds_of_random_are_averaged() -> None:
    seeds = [row("random", kv, coins(i, 0.4), seed=i) for i in range(3) for kv in KV[:2]]
    found = only(*(row("fastv", kv, coins(9)) for kv in KV[:2]), *seeds)
    mean = np.mean([np.mean(coins(i, 0.4)) for i in range(3)])
    assert found["area"] == pytest.approx(np.mean(coins(9)) - mean)


def test_budgets_that_one_curve_lacks_or_missed_are_left_out() -> None:
    one = [row("fastv", kv, coins(1)) for kv in KV]
    assert only(*one, *(row("mmtok", kv, coins(2)) for kv in KV[:2]))["budgets"] == "0.5+0.25"
    missed = [
        row("mmtok", kv, coins(2), met=met) for kv, met in zip(KV, (0.5, 0.3, 0.13), strict=True)
    ]
    assert only(*one, *missed)["budgets"] == "0.5+0.125"
    assert areas(*one, *missed[:2]) == []


def test_curves_meet_by_what_was_kept() -> None:
    """Tokens of one, shares of the other; a control that stands where the method came out."""
    one = [row("fastv", None, coins(1), met=m, tokens=t) for m, t in ((0.5, 72), (0.25, 36))]
    other = [row("mmtok", kv, coins(2), met=m) for kv, m in ((0.49, 0.491), (0.255, 0.25))]
    extra = row("mmtok", 0.5, coins(3))  # nearer to 0.5 than 0.491 is
    assert only(*one, *other)["area"] == pytest.approx(np.mean(coins(2)) - np.mean(coins(1)))
    found = only(*one, *other, extra)
    assert found["area"] == pytest.approx(
        (np.mean(coins(2)) + np.mean(coins(3))) / 2 - np.mean(coins(1))
    )
    assert found["budgets"] == "0.5+0.255"


def test_the_average_of_two_benches_and_holm_in_each_family() -> None:
    rows = []
    for bench, n, scale in (("gqa", 60, 1), ("mmvet", 30, 100)):
        rows.append(row("dense", None, [scale * 1.0] * n, bench))
        rows += [row("fastv", kv, [scale * s for s in coins(4, 0.7, n)], bench) for kv in KV]
        rows += [row("scope", kv, [scale * s for s in coins(6, 0.6, n)], bench) for kv in KV]
    found = areas(*rows)
    assert [r["bench"] for r in found] == ["gqa"] * 3 + ["mmvet"] * 3 + ["(average)"] * 3
    by = {(r["bench"], r["curve"], r["against"]): r for r in found}
    for who in (("fastv", "dense"), ("scope", "fastv")):
        parts = by["gqa", *who], by["mmvet", *who]
        whole = by["(average)", *who]
        assert whole["area"] == pytest.approx((parts[0]["area"] + parts[1]["area"] / 100) / 2)
        assert whole["ci_low"] <= whole["area"] <= whole["ci_high"]
        assert (whole["n"], whole["images"]) == (90, 90)
        assert whole["metric"] == "mean of 2 benches"
    for family in (found[:6], found[6:]):
        ordered = sorted(family, key=lambda r: r["p_value"])
        assert ordered[0]["p_adjusted"] == pytest.approx(
            min(1, len(family) * ordered[0]["p_value"])
        )


def test_what_has_no_place_in_an_average() -> None:
    rows = [row("fastv", kv, coins(1), bench) for kv in KV for bench in ("gqa", "pope")]
    rows += [row("dense", None, coins(2), bench) for bench in ("gqa", "pope")]
    rows += [row("scope", kv, coins(3), "gqa") for kv in KV]  # not on pope
    errors = [row("fastv", kv, coins(4), "errors", better=False) for kv in KV]
    errors.append(row("dense", None, coins(5), "errors", better=False))
    found = areas(*rows, *errors)
    assert {(r["curve"], r["against"]) for r in found if r["bench"] == "(average)"} == {
        ("fastv", "dense")
    }
    assert next(r for r in found if r["bench"] == "(average)")["metric"] == "mean of 2 benches"


def test_whole_images_are_drawn() -> None:
    grouped = [s for s in coins(1, 0.6, 20) for _ in range(4)]  # four documents an image, all alike
    wide, narrow = (
        only(
            row("dense", None, [1.0] * 80, per=per),
            *(row("fastv", kv, grouped, per=per) for kv in KV),
        )
        for per in (4, 1)
    )
    assert (wide["images"], narrow["images"]) == (20, 80)
    ratio = (wide["ci_high"] - wide["ci_low"]) / (narrow["ci_high"] - narrow["ci_low"])
    assert ratio == pytest.approx(2, rel=0.25)  # the square root of four


def test_one_image_has_no_interval() -> None:
    dense = row("dense", None, coins(2), per=DOCS)
    found = only(dense, *(row("fastv", kv, coins(1), per=DOCS) for kv in KV))
    assert found["ci_low"] is None


def test_places() -> None:
    pmod = json.dumps({"kv": 0.5, "ratio": None, "beta": 0.5})
    assert place_of("pmod", pmod, "pmod kv=0.5").label == "pmod"
    assert place_of("gamma", json.dumps({"ratio": 0.4}), "gamma ratio=0.4") is None
    assert place_of("dense", "{}", "dense") is None
    tokens = json.dumps({"kv": None, "ratio": None, "tokens": 64, "k": 1})
    assert place_of("fastv", tokens, "fastv tokens=64 k=1").label == "fastv k=1"
    assert place_of("fastv", tokens, "").budget == ("tokens", 64)


def test_a_run_writes_the_file_only_where_there_are_curves(tmp_path: Path) -> None:
    out = tmp_path / "one"
    assert run(out, methods=("fastv:kv=0.5", "uniform:kv=0.5"), bench=("gqa",)) == 0
    assert not (out / "curves.csv").exists()
    out = tmp_path / "run"
    # The stand-in keeps 62.5 % whatever it is asked for: met at no two budgets.
    assert run(out, FakeRun(), methods=("fastv",), bench=("gqa",), budgets=("0.7", "0.6")) == 0
    assert not (out / "curves.csv").exists()


def test_a_real_budget_in_a_run(tmp_path: Path) -> None:
    class Keeps(FakeRun):
        def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
            from tests.fakes import fake_record

            result = super().evaluate(session, method, bench, **options)
            if getattr(method, "kv", None):
                kept = (method.kv * 4 - 1) / 3  # the first of four layers keeps all
                result.records.update({d: fake_record(kept, int(d)) for d in result.records})
            return result

    out = tmp_path / "run"
    how: dict[str, Any] = {"methods": ("fastv",), "controls": True, "budgets": ("0.8125", "0.625")}
    assert run(out, Keeps(), bench=("gqa", "pope"), **how) == 0
    rows = read_rows(out / "curves.csv")
    assert {r["against"] for r in rows} >= {"dense", "random", "uniform"}
    assert {r["bench"] for r in rows} == {"gqa", "pope", "(average)"}
    assert all(math.isfinite(float(r["area"])) and float(r["p_adjusted"]) <= 1 for r in rows)
    before = (out / "curves.csv").read_bytes()
    assert run(out, Keeps(), bench=("gqa", "pope"), **how) == 0
    assert (out / "curves.csv").read_bytes() == before
