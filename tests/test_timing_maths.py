"""Workloads, ratios, prediction of memory and rows of throughput.csv: plain numbers, no model."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.cost.ledger import sample_cost
from harness.families.catalog import shape_of
from harness.options.workload import (
    Workload,
    fewest,
    is_workload,
    parse_workload,
    parse_workloads,
    pictures,
)
from harness.statistics.stats import Interval
from harness.store import columns
from harness.store.record import dense_record
from harness.timing import ratios
from harness.timing.device import Reading, Watch
from harness.timing.fit import need, require_fit
from harness.timing.measure import Times
from harness.timing.rows import TimedRow, phase_tflops, round_rows, throughput_rows
from harness.timing.shape import random_config, random_name

LLAVA = "llava-hf/llava-1.5-7b-hf"
NEXT = "llava-hf/llava-v1.6-vicuna-7b-hf"


# --- workloads ------------------------------------------------------------------------------
def test_a_workload_reads_back_as_it_was_written() -> None:
    for text in ("n_text=5:n_image=576:n_out=3:batch=2", "n_text=58:n_out=32:batch=1"):
        assert parse_workload(text).spec == text
    assert parse_workload("batch=4") == Workload(batch=4)
    assert parse_workload("bench=gqa:n_out=2").spec == "bench=gqa:n_out=2:batch=1"
    assert parse_workloads("batch=2, n_text=9") == (
        "n_text=58:n_out=32:batch=2",
        "n_text=9:n_out=32:batch=1",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("n_txt=5", "did you mean 'n_text'"),
        ("n_text", "not key=value"),
        ("n_text=0", "at least 2"),
        ("batch=two", "at least 1"),
        ("n_out=1:n_out=2", "stands twice"),
        ("bench=gqa:n_image=5", "the documents decide n_image"),
        ("batch=2,batch=2", "stands twice"),
    ],
)
def test_a_wrong_workload_is_one_line(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_workloads(text)


def test_image_tokens_are_those_the_model_makes() -> None:
    one = shape_of(LLAVA)
    assert pictures(one, None).tokens == 576
    assert pictures(one, 1152).count == 2
    square = pictures(one, 144)
    assert (square.size, square.native) == ((168, 168), False)
    assert pictures(one, 0).count == 0
    tiled = shape_of(NEXT)
    assert pictures(tiled, None).tokens == 2928
    assert pictures(tiled, None).crops == 5
    assert pictures(tiled, 2 * 1752).count == 2
    with pytest.raises(UsageError, match="the nearest is 2928"):
        pictures(tiled, 3000)
    with pytest.raises(UsageError, match="the nearest is 576"):
        pictures(one, 580)


def test_a_reduced_model_says_so_and_keeps_its_image_tokens() -> None:
    from harness.families.catalog import config_for, shape_from_config

    config = random_config(config_for(NEXT), NEXT, 4, 256)
    shape = shape_from_config(config, "reduced")
    assert (shape.layers, shape.hidden, shape.heads, shape.head_dim) == (4, 256, 2, 128)
    assert shape.vision.layers == 3
    assert pictures(shape, None).tokens == 2928
    true = shape_from_config(random_config(config_for(NEXT), "full", None, None), "full")
    assert true.layer_weights == shape_of(NEXT).layer_weights
    name = random_name(NEXT, 4, 256)
    assert name == "llava-v1.6-vicuna-7b-hf, random weights, 4 layers, width 256"
    with pytest.raises(UsageError, match="multiple of 64"):
        random_config(config_for(NEXT), NEXT, None, 100)


# --- ratios ---------------------------------------------------------------------------------
def test_ratios_are_of_medians_and_drawn_by_pairs() -> None:
    rng = np.random.default_rng(3)
    drift = rng.lognormal(0, 0.5, 40)  # the machine, the same for both of a round
    dense, method = 3.0 * drift, 2.0 * drift
    gain = ratios.speedup(dense, method, seed=0)
    assert gain is not None
    assert gain.value == pytest.approx(np.median(dense) / np.median(method))
    assert gain.low == pytest.approx(1.5)  # no noise within a pair: no width
    assert gain.high == pytest.approx(1.5)
    apart = ratios.speedup(dense, rng.permutation(method), seed=0)
    assert apart is not None
    assert apart.low is not None
    assert apart.low < 1.4


def test_dense_against_dense_contains_one() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(60):
        both = rng.lognormal(0, 0.05, (2, 30))
        gain = ratios.speedup(both[0], both[1], seed)
        assert gain is not None
        inside += gain.low <= 1 <= gain.high  # type: ignore[operator]
    assert inside >= 54


def test_realisation_and_its_gaps() -> None:
    assert ratios.flops_ratio(9.0, 5.0) == pytest.approx(1.8)
    assert ratios.flops_ratio(9.0, 0.0) is None
    found = ratios.realisation(Interval(1.41, 1.35, 1.5), 1.8)
    assert found is not None and found.value == pytest.approx(0.7833, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((0.75, 0.8333), abs=1e-4)
    assert ratios.realisation(Interval(1.41, None, None), 1.8) == Interval(found.value, None, None)
    assert ratios.realisation(None, 1.8) is None
    assert ratios.speedup([1.0, 2.0], [0.0, 0.0], 0) is None


def test_spread_settling_and_slow_clocks() -> None:
    values = np.arange(1.0, 12.0)
    found = ratios.spread(values)
    assert (found.p10, found.median, found.p90) == (2.0, 6.0, 10.0)
    assert ratios.settled([9, 5, 5, 5, 5, 5, 5, 5, 5, 5])
    assert not ratios.settled([5] * 8)
    assert not ratios.settled([9, 9, 9, 7, 7, 7, 5, 5, 5])
    assert ratios.kept_rounds([1000, 1000, 900, None]).tolist() == [True, True, False, True]
    assert ratios.kept_rounds([None, None]).all()


# --- memory ---------------------------------------------------------------------------------
def test_memory_is_predicted_and_the_line_says_what_fits() -> None:
    shape, work = shape_of(LLAVA), Workload(batch=8)
    pics = pictures(shape, None)
    wanted = need(shape, work, pics, 2, "sdpa")
    assert wanted.weights / 2 == pytest.approx(7.06e9, rel=0.01)  # parameters of LLaVA-1.5-7B
    assert wanted.cache == 8 * (58 + 576 + 32) * 32 * 2 * 4096 * 2
    require_fit(shape, work, pics, 2, "sdpa", None, "anything")
    require_fit(shape, work, pics, 2, "sdpa", 80 * 2**30, "big")
    with pytest.raises(UsageError, match=r"weights 13\.2, KV cache 2\.6.*batch=\d would fit"):
        require_fit(shape, work, pics, 2, "sdpa", 16 * 2**30, "small")
    with pytest.raises(UsageError, match="the weights alone do not fit; try --dtype bfloat16"):
        require_fit(shape, work, pics, 4, "sdpa", 8 * 2**30, "tiny")


def test_the_largest_batch_named_is_the_largest_that_fits() -> None:
    shape, pics = shape_of(NEXT), pictures(shape_of(NEXT), 2928)
    with pytest.raises(UsageError) as caught:
        require_fit(shape, Workload(n_out=8, batch=512), pics, 2, "sdpa", 78 * 2**30, "one GPU")
    batch = int(str(caught.value).rpartition(": batch=")[2].partition(" ")[0])
    require_fit(shape, Workload(n_out=8, batch=batch), pics, 2, "sdpa", 78 * 2**30, "one GPU")
    with pytest.raises(UsageError):
        require_fit(
            shape, Workload(n_out=8, batch=batch + 1), pics, 2, "sdpa", 78 * 2**30, "one GPU"
        )


def test_documents_are_predicted_by_the_least_they_can_be() -> None:
    assert fewest(shape_of(LLAVA)).tokens == 576
    assert fewest(shape_of(NEXT)).tokens == 1752
    assert is_workload(Workload(bench="gqa").spec)
    assert is_workload(Workload(n_image=4).spec)
    assert not is_workload("gqa")


# --- rows -----------------------------------------------------------------------------------
def times_of(**phases: list[float]) -> Times:
    times = Times()
    times.rounds = dict(phases)
    return times


def test_a_timing_counts_what_it_times() -> None:
    """What a method computes of its own stands in the phase in which it runs."""
    shape = shape_of(LLAVA)
    record = dense_record(58, 576, shape.layers, n_out=31, prefix=35)
    dense = phase_tflops([record], shape, 2, True)
    record.scoring = [
        {"phase": "prompt", "kind": "tower_rows", "tokens": 577, "calls": 2},
        {"phase": "prompt", "kind": "projector", "tokens": 11, "calls": 1},
        {"phase": "decode", "kind": "linear", "tokens": 1, "calls": 31, "out": 2},
    ]
    found = phase_tflops([record], shape, 2, True)
    more = {phase: (found[phase] - dense[phase]) * 1e12 for phase in found}
    assert more["vision"] == pytest.approx(2 * 2 * 577**2 * 1024, rel=1e-6)
    assert more["prefill"] == pytest.approx(2 * 11 * (1024 * 4096 + 4096**2), rel=1e-6)
    assert more["decode"] == pytest.approx(31 * 2 * 4096 * 2, rel=1e-3)
    assert found["end_to_end"] == pytest.approx(sum(list(found.values())[:3]), rel=1e-12)
    whole = sample_cost(record, shape, itemsize=2)
    total = whole.whole - whole.prefill["full"] + whole.prefill["causal"]
    assert found["end_to_end"] == pytest.approx(total, rel=1e-12)
    record.scoring = None  # a record without notes: nothing is known, which is not zero
    assert phase_tflops([record], shape, 2, True) == {}


def test_rows_follow_the_schema_and_the_arithmetic() -> None:
    shape = shape_of(LLAVA)
    record = dense_record(58, 576, shape.layers, n_out=31, prefix=35)
    tflops = phase_tflops([record], shape, 2, True)
    cost = sample_cost(record, shape, 2)
    assert tflops["prefill"] == cost.prefill["causal"]
    assert tflops["end_to_end"] == pytest.approx(
        cost.vision + cost.projector + cost.prefill["causal"] + cost.decode
    )
    half = {name: value / 2 for name, value in tflops.items()}
    rng = np.random.default_rng(1)
    dense = times_of(prefill=list(rng.normal(20, 1, 12)), end_to_end=list(rng.normal(60, 1, 12)))
    method = times_of(prefill=list(rng.normal(12, 1, 12)), end_to_end=list(rng.normal(40, 1, 12)))
    method.selection = [1.0, 2.0, 3.0]
    row = TimedRow(
        {"cell_id": "a", "label": "m"}, half, batch=4, n_out=32, kv_mib=7.0, agreement=1.0
    )
    readings = [Reading(sm_mhz=1000.0)] * 11 + [Reading(sm_mhz=600.0)]
    found = list(throughput_rows(row, method, dense, tflops, readings, seed=0))
    assert [one["phase"] for one in found] == ["prefill", "end_to_end", "selection"]
    assert all(set(one) <= set(columns.THROUGHPUT) for one in found)
    prefill, whole, selection = found
    ours, theirs = method.rounds["prefill"][:11], dense.rounds["prefill"][:11]
    assert prefill["median_ms"] == np.median(ours)
    assert prefill["speedup_vs_dense"] == pytest.approx(np.median(theirs) / np.median(ours))
    assert prefill["flops_ratio"] == pytest.approx(2.0)
    assert prefill["realisation"] == pytest.approx(prefill["speedup_vs_dense"] / 2)
    for end in ("low", "high"):  # from draws of both rows' rounds over the same count of FLOPs
        bound = prefill[f"realisation_ci_{end}"]
        assert bound == pytest.approx(prefill[f"speedup_ci_{end}"] / 2)
    assert prefill["realisation_ci_low"] < prefill["realisation"] < prefill["realisation_ci_high"]
    assert (prefill["repeats"], prefill["rejected"], prefill["sm_mhz"]) == (11, 1, 1000.0)
    assert prefill["peak_mib"] is None  # not measured is empty, never 0
    assert whole["samples_per_s"] == pytest.approx(4e3 / whole["median_ms"])
    assert whole["tokens_per_s"] == pytest.approx(32 * whole["samples_per_s"])
    assert selection["median_ms"] == 2.0
    raw = list(round_rows(row.about, method, readings))
    assert len(raw) == 24
    assert sum(one["kept"] for one in raw) == 22
    assert set(raw[0]) == set(columns.ROUNDS)


def test_dense_has_no_speedup_over_itself() -> None:
    dense = times_of(end_to_end=[3.0] * 6)
    tflops = dict.fromkeys(("vision", "prefill", "decode", "end_to_end"), 1.0)
    row = TimedRow({"cell_id": "a", "label": "dense"}, tflops, 1, 1, 1.0)
    (one,) = throughput_rows(row, dense, dense, tflops, [Reading()] * 6, 0)
    assert one["speedup_vs_dense"] is None
    assert one["realisation"] is one["realisation_ci_low"] is one["realisation_ci_high"] is None


# --- the device -----------------------------------------------------------------------------
def test_nvml_is_read_where_it_is_and_missed_where_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: Any) -> None:
        raise RuntimeError("not supported")

    fake = types.SimpleNamespace(
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlClocksThrottleReasonSwPowerCap=4,
        nvmlClocksThrottleReasonHwThermalSlowdown=64,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByPciBusId=lambda bus: bus,
        nvmlDeviceGetPowerUsage=lambda handle: 250_000,
        nvmlDeviceGetClockInfo=lambda handle, kind: {1: 1400, 2: 2600}[kind],
        nvmlDeviceGetTemperature=lambda handle, kind: 55,
        nvmlDeviceGetTotalEnergyConsumption=refuse,
        nvmlDeviceGetCurrentClocksThrottleReasons=lambda handle: 4,
        nvmlDeviceGetComputeRunningProcesses=lambda handle: ["ours", "theirs"],
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    watch = Watch("00000000:01:00.0")
    assert watch.read() == Reading(1400, 2600, 250.0, 55, ("power cap",), None)
    assert watch.others() == 1
    assert Watch(None).read() == Reading()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert not Watch("00000000:01:00.0").there
