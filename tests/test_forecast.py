"""What a run says it still takes, against sums done by hand."""

from __future__ import annotations

import pytest

from harness.common.forecast import Forecast, Part, spoken, time_left

METHODS = {"dense": 1.0, "fastv": 0.6, "pmod": 1.5}  # seconds a document on gqa
BENCHES = {"gqa": 1.0, "pope": 0.5, "chartqa": 3.0}  # times as many on each bench
DOCUMENTS = 100


def product(measured: set[tuple[str, str]]) -> Forecast:
    """Every method on every bench; of the measured ones all documents are done."""
    parts = []
    for bench, scale in BENCHES.items():
        for method, seconds in METHODS.items():
            part = Part("answers", method, bench, DOCUMENTS)
            if (method, bench) in measured:
                part.done = part.measured = DOCUMENTS
                part.seconds, part.finished = DOCUMENTS * seconds * scale, True
            parts.append(part)
    return Forecast(parts)


def truth(measured: set[tuple[str, str]]) -> float:
    return sum(
        DOCUMENTS * seconds * scale
        for method, seconds in METHODS.items()
        for bench, scale in BENCHES.items()
        if (method, bench) not in measured
    )


def test_one_rate_gives_units_times_rate() -> None:
    parts = [Part("answers", "dense", "gqa", 40, done=10, measured=10, seconds=20.0)]
    parts += [Part("answers", "fastv", "gqa", 40), Part("answers", "fastv", "pope", 10)]
    forecast = Forecast(parts)
    assert forecast.left == pytest.approx(2.0 * (30 + 40 + 10))
    assert forecast.share == pytest.approx(10 / 90)


def test_a_product_of_method_and_bench_is_told_exactly_from_one_row_and_one_column() -> None:
    measured = {(m, "gqa") for m in METHODS} | {("dense", b) for b in BENCHES}
    forecast = product(measured)
    assert forecast.left == pytest.approx(truth(measured))
    total = truth(set())
    assert forecast.share == pytest.approx((total - truth(measured)) / total)


def test_documents_that_were_there_before_count_as_done_and_give_no_rate() -> None:
    """A resumed cell: 30 of 40 were answered in another life, 5 of the rest took 10 seconds."""
    part = Part("answers", "dense", "gqa", 40, done=35, measured=5, seconds=10.0)
    assert Forecast([part]).left == pytest.approx(5 * 2.0)


def test_a_number_of_documents_that_is_not_known_is_taken_from_the_same_bench() -> None:
    known = Part("answers", "dense", "gqa", 40, done=40, measured=40, seconds=40.0, finished=True)
    assert Forecast([known, Part("answers", "fastv", "gqa")]).left == pytest.approx(40.0)


def test_what_a_part_takes_beside_its_documents_is_added_to_the_ones_to_come() -> None:
    forecast = product({("dense", "gqa"), ("fastv", "gqa")})
    plain = forecast.left
    assert plain is not None
    forecast.parts[0].overhead, forecast.parts[1].overhead = 4.0, 2.0
    assert forecast.left == pytest.approx(plain + 7 * 3.0)


def test_what_cannot_be_known_is_named_and_not_counted() -> None:
    forecast = product({("dense", "gqa")})
    alone = forecast.left
    forecast.part("arank", units=1)
    forecast.part("times", "", "gqa", 30)
    assert forecast.left == alone
    assert forecast.unknown == ["arank", "times"]
    assert time_left(forecast) == f"about {spoken(forecast.left or 0)} left, then arank, times"
    assert Forecast([Part("answers", "dense", "gqa", 40)]).left is None
    assert Forecast([Part("answers", "dense", "gqa", 40)]).share is None


def test_a_finished_run_is_done() -> None:
    every = {(m, b) for m in METHODS for b in BENCHES}
    assert product(every).left == 0
    assert product(every).share == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3569, "59 min"), (3571, "1 h 00 min"),
     (12000, "3 h 20 min")],
)  # fmt: skip
def test_spans_are_said_in_two_units_at_most(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
