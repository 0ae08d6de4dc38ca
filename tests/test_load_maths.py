"""Requests in flight as plain numbers: what is drawn, waiting, percentiles, steps. No model."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.families.catalog import shape_of
from harness.options.load import Load, concurrency
from harness.options.workload import is_workload, parse_workload
from harness.store.columns.load import STEPS
from harness.store.record import DROPPED, IMAGE, dense_record
from harness.timing import loadmaths, loadrows
from harness.timing.loadmaths import Observed, Round
from harness.timing.requests import draw

LLAVA = shape_of("llava-hf/llava-1.5-7b-hf")
NEXT = shape_of("llava-hf/llava-v1.6-vicuna-7b-hf")


def load(text: str = "n_out=32", in_flight: int = 4) -> Load:
    return Load(parse_workload(text), in_flight)


@pytest.mark.parametrize("text", ["0", "a", "8,8", "1,,8", "-1", "1.5", "2000", ""])
def test_what_is_no_number_of_requests_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        concurrency(text)


def test_numbers_in_flight_are_read_in_order() -> None:
    assert concurrency("32, 1,8") == (1, 8, 32)


def test_a_load_says_its_ranges_and_passes_for_no_bench() -> None:
    assert load().spec == "n_text=29-116:n_image=any:n_out=16-64:in_flight=4"
    assert load("bench=gqa:n_out=8").spec == "bench=gqa:n_out=4-16:in_flight=4"
    assert is_workload(load().spec) and is_workload(load("bench=gqa").spec)
    assert load().largest.spec == "n_text=116:n_out=64:batch=4"


def test_requests_are_drawn_within_their_ranges_and_do_not_depend_on_the_load() -> None:
    found = [draw(load(), LLAVA, 3, i) for i in range(400)]
    for values, low, high in (
        ([one.n_text for one in found], 29, 116),
        ([one.n_out for one in found], 16, 64),
    ):
        assert min(values) >= low and max(values) <= high
        # Uniform in the logarithm: the median is the middle of the range.
        assert np.median(values) == pytest.approx((low * high) ** 0.5, rel=0.1)
    assert {one.pics.tokens for one in found if one.pics} == {576, 1152}  # one or two images
    assert found[:9] == [draw(load(in_flight=32), LLAVA, 3, i) for i in range(9)]
    assert found[:9] != [draw(load(), LLAVA, 4, i) for i in range(9)]
    assert len({draw(load(), NEXT, 0, i).pics.tokens for i in range(50)}) > 1  # type: ignore[union-attr]
    fixed = draw(load("n_image=1152:n_out=2"), LLAVA, 0, 0).pics
    assert fixed is not None and fixed.tokens == 1152


def rounds_of(draws: Any, count: int = 9, rows: int = 5) -> list[Round]:
    """Batches of random lengths whose tokens come at random times."""
    made = []
    for _ in range(count):
        lengths = draws.integers(1, 12, rows)
        stamps = np.cumsum(draws.uniform(0.5, 2.0, lengths.max())) + 10.0
        phases = {"end_to_end": stamps[-1] + 1.5, "vision": 3.0, "prefill": stamps[0] - 3.5}
        made.append(Round(stamps, lengths, phases))
    return made


def simulated(rounds: list[Round]) -> dict[str, list[float]]:
    """The closed loop played through: a queue of clients, and a server that takes all of it."""
    now, queue = 0.0, [0.0] * len(rounds[0].lengths)  # moments at which requests were sent
    seen: dict[str, list[float]] = {"ttft": [], "between": [], "latency": []}
    for number, one in enumerate(rounds):
        sent, queue = sorted(queue), []
        for row, length in enumerate(one.lengths):
            tokens = [now + stamp for stamp in one.stamps[:length]]
            if number:
                seen["ttft"].append(tokens[0] - sent[row])
                seen["latency"].append(tokens[-1] - sent[row])
            seen["between"] += [b - a for a, b in pairwise(tokens)]
            queue.append(tokens[-1])
        now += one.total
    return seen


def test_waiting_is_that_of_a_loop_that_is_played_through() -> None:
    rounds = rounds_of(np.random.default_rng(0))
    found, whole = loadmaths.observed(rounds), simulated(rounds)
    for name, one in found.items():
        values = np.repeat(one.values, one.weights.astype(int))
        assert np.sort(values) == pytest.approx(np.sort(whole[name]))
        both = loadmaths.percentiles(one, np.ones((1, len(rounds)), np.int64))[0]
        wanted = [np.quantile(whole[name], p, method="inverted_cdf") for p in (0.5, 0.95)]
        assert both == pytest.approx(wanted)
    keep = np.ones(len(rounds), bool)
    (rate, *_) = loadmaths.rates(rounds, loadmaths.draws(keep, 0))
    assert rate == pytest.approx(1e3 * 9 * 5 / sum(one.total for one in rounds))


def test_a_draw_counts_whole_rounds_as_often_as_it_holds_them() -> None:
    draws = np.random.default_rng(1)
    one = Observed(draws.normal(size=60), draws.integers(0, 4, 60) * 1.0, np.arange(60) // 10)
    counts = draws.integers(0, 3, (20, 6)) + (np.arange(6) == 0)
    for drawn, found in zip(counts, loadmaths.percentiles(one, counts), strict=True):
        times = (one.weights * drawn[one.rounds]).astype(int)
        values = np.repeat(one.values, times)
        assert found[0] == np.quantile(values, 0.5, method="inverted_cdf")
        assert found[1] == np.quantile(values, 0.95, method="inverted_cdf")


def test_a_round_at_a_low_clock_counts_for_nothing_but_was_waited_for() -> None:
    rounds = rounds_of(np.random.default_rng(2))
    keep = np.ones(9, bool)
    keep[4] = False
    found = loadmaths.served(rounds, loadmaths.draws(keep, 0))
    kept = [one for one, good in zip(rounds, keep, strict=True) if good]
    assert found.per_s[0] == pytest.approx(1e3 * 40 / sum(one.total for one in kept))
    first = loadmaths.observed(rounds)["ttft"]
    assert found.times["ttft"][0, 0] == np.quantile(
        first.values[first.rounds != 4], 0.5, method="inverted_cdf"
    )


def test_steps_add_up_to_a_request_s_share_of_the_time() -> None:
    rounds = rounds_of(np.random.default_rng(3))
    counts = loadmaths.draws(np.ones(9, bool), 0)
    found = loadmaths.steps(rounds, [1.0, 3.0], padded=0.25, counts=counts, seed=0)
    assert sum(found.values()) == pytest.approx(1e3 / loadmaths.rates(rounds, counts))  # each draw
    steps = {name: values[0] for name, values in found.items()}
    total = sum(one.total for one in rounds) / (9 * 5)
    assert sum(steps.values()) == pytest.approx(total)
    assert steps["selection"] == pytest.approx(2.0 / 5)
    assert steps["padding"] == pytest.approx(steps["prefill"] / 3)
    idle = [one.stamps[-1] - one.stamps[n - 1] for one in rounds for n in one.lengths]
    assert steps["waiting"] == pytest.approx(np.mean(idle) / 5)
    assert steps["rest"] == pytest.approx(2.0 / 5)  # 0.5 before and 1.5 behind the tokens


def record_of(n_text: int, keep: float, n_out: int) -> Any:
    """A prompt of one image of which layers from 2 on process a share."""
    record = dense_record(n_text, 100, 4, n_out=n_out, prefix=2)
    image = (record.kinds == IMAGE).nonzero()[0]
    record.route[2:, image[int(100 * keep) :]] = DROPPED
    return record


def test_padding_and_cache_bytes_come_from_the_record() -> None:
    shape = LLAVA
    found = loadrows.counted([record_of(10, 1, 1), record_of(40, 0.5, 5)], shape, 2, held=7)
    # Layers 0 and 1 pad 110 to 140; in the others the first row is the longer one: 110 and 90.
    assert (found.real, found.padded) == (4 * 110 + 2 * 140 + 2 * 90, 2 * 30 + 2 * 20)
    entries = 4 * 110 + 2 * 140 + 2 * 90 + 4 * (1 + 5)
    assert found.kv == entries * shape.kv_bytes_per_entry(2)
    assert found.kept == pytest.approx(1.0 + 0.75)
    assert (found.widest, found.rows, found.pictured, found.held) == (250, 2, 2, 7)


def row_of(speed: float, kv: int) -> dict[str, Any]:
    """The row of a method whose rounds take ``speed`` of dense's time, on a 24 GiB GPU."""
    dense = rounds_of(np.random.default_rng(5))
    ours = [
        Round(one.stamps * speed, one.lengths, {k: v * speed for k, v in one.phases.items()})
        for one in dense
    ]
    keep, sides = np.ones(9, bool), []
    for rounds, size in ((dense, 100), (ours, kv)):
        batches = [loadrows.counted([record_of(10, size / 100, 3)] * 5, LLAVA, 2, 9)] * 6
        room = loadrows.memory("24GiB", batches, LLAVA, 2, "sdpa")
        sides.append(loadrows.loaded(rounds, batches, [], keep, 0, room))
    return loadrows.row({}, sides[1], sides[0], keep, 0)


def test_ratios_are_the_method_s_over_dense_s_of_the_same_rounds() -> None:
    row = row_of(0.5, kv=50)
    assert row["requests_per_s_ratio"] == pytest.approx(2.0)
    assert row["requests_per_s_ratio_low"] == pytest.approx(2.0)  # every round was twice as fast
    for name in ("ttft_p50", "ttft_p95", "between_p50", "between_p95", "latency_p95"):
        assert row[f"{name}_ratio"] == pytest.approx(0.5)
        assert row[f"{name}_ratio_high"] == pytest.approx(0.5)
    half = (2 * 110 + 2 * 60 + 4 * 3) / (4 * 110 + 4 * 3)
    assert row["kv_ratio"] == pytest.approx(half)
    assert row["tokens_per_s"] == pytest.approx(row["requests_per_s"] * row["n_out"])
    assert row["request_ms"] == pytest.approx(1e3 / row["requests_per_s"])
    added = sum(row[f"{name}_added_ms"] for name in STEPS)
    assert added == pytest.approx(-row["request_ms"])  # half of dense's
    assert row["decode_added_low"] < row["decode_added_ms"] < row["decode_added_high"] < 0
    usable, weights = 24 * 2**30 * 0.95, 7.06e9 * 2
    most = (usable - weights) / (row["kv_mib"] / 5 * 2**20)  # activations are left out here
    assert 0.1 * most < row["fits"] < most
    assert 1 < row["fits_ratio"] < 1 / half
