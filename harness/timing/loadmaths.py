"""What a closed loop served, from when its tokens came. numpy only, no torch.

The engine answers in batches. Round k answers batch k: all requests in flight start together, each
ends at its own last token, and its successor is sent at that moment and waits for the batch's end.
Round k + 1 then begins at once, on the method's own time line; what other methods do in between is
not on it. So a request of round k + 1 has waited as long as the slot before it had been empty, the
longest first, and round 0, which nobody waited for, is left out of the waiting times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.statistics.draws import RESAMPLES
from harness.statistics.stats import ALPHA, Interval

Floats = NDArray[np.float64]
TIMES = ("ttft", "between", "latency")
PERCENTILES = (50, 95)


@dataclass(frozen=True)
class Round:
    """One batch of one method. ``stamps``: ms from its start to each token of the longest answer,
    ``lengths``: tokens of each row, ``phases``: ms of end_to_end, and of vision and prefill where
    there is such a phase."""

    stamps: Floats
    lengths: NDArray[np.int64]
    phases: Mapping[str, float]

    @property
    def total(self) -> float:
        return self.phases["end_to_end"]

    @property
    def ends(self) -> Floats:
        """[rows] ms from the start to each row's last token."""
        return np.asarray(self.stamps[self.lengths - 1])


@dataclass(frozen=True)
class Observed:
    """Values of one kind with the round each belongs to; ``weights``: how many requests saw it."""

    values: Floats
    weights: Floats
    rounds: NDArray[np.int64]


def observed(rounds: Sequence[Round]) -> dict[str, Observed]:
    """Times to first token, between tokens, and to the last one, in ms."""
    found: dict[str, list[tuple[Floats, Floats, int]]] = {name: [] for name in TIMES}
    before: Round | None = None
    for number, one in enumerate(rounds):
        gaps = np.diff(one.stamps)
        alive = (one.lengths[:, None] > np.arange(1, len(gaps) + 1)).sum(0).astype(float)
        found["between"].append((gaps, alive, number))
        if before is not None:
            # Who was sent first stands first in the queue, and rows are filled in its order.
            waited = np.sort(before.total - before.ends)[::-1]
            each = np.ones(len(waited))
            found["ttft"].append((waited + one.stamps[0], each, number))
            found["latency"].append((waited + one.ends, each, number))
        before = one
    return {name: _together(parts) for name, parts in found.items()}


def _together(parts: Sequence[tuple[Floats, Floats, int]]) -> Observed:
    if not parts:
        return Observed(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    values = np.concatenate([part[0] for part in parts])
    weights = np.concatenate([part[1] for part in parts])
    numbers = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
    return Observed(values, weights, numbers)


def percentiles(one: Observed, counts: NDArray[np.int64]) -> Floats:
    """[draws, percentiles] of the values when round r counts ``counts[:, r]`` times; nan of none.

    The smallest value that so many per cent do not exceed (``inverted_cdf``).
    """
    kept = one.weights > 0
    values, rounds, weights = one.values[kept], one.rounds[kept], one.weights[kept]
    result = np.full((len(counts), len(PERCENTILES)), np.nan)
    if not len(values):
        return result
    order = np.argsort(values, kind="stable")
    values, rounds, weights = values[order], rounds[order], weights[order]
    for line, drawn in enumerate(counts):  # not at once: that would be draws by tokens
        upto = np.cumsum(weights * drawn[rounds])
        if upto[-1] > 0:
            wanted = np.asarray(PERCENTILES) / 100 * upto[-1]
            # Sums of whole numbers are exact; the share of them is not, so allow its rounding.
            result[line] = values[np.searchsorted(upto, wanted * (1 - 1e-12))]
    return result


def draws(keep: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """[draws + 1, rounds] how often each round counts: once first, then drawn again.

    A round that is not kept never counts; it has passed, so the next one's requests have waited.
    """
    kept = int(keep.sum())
    random = np.random.default_rng([seed, kept])
    again = random.multinomial(kept, keep / kept, size=RESAMPLES)
    return np.concatenate([keep[None].astype(np.int64), again])


def interval(values: Floats) -> Interval | None:
    """The first value with the 95 % interval of the others; None where there is no first.

    A draw that holds nothing of the kind (round 0 alone has no waiting times) says nothing.
    """
    value = float(values[0])
    if np.isnan(value):
        return None
    low, high = np.nanquantile(values[1:], [ALPHA / 2, 1 - ALPHA / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def rates(rounds: Sequence[Round], counts: NDArray[np.int64]) -> Floats:
    """[draws] requests a second, served in the time of all rounds."""
    sizes = np.array([len(one.lengths) for one in rounds])
    totals = np.array([one.total for one in rounds])
    return np.asarray(1e3 * (counts @ sizes) / (counts @ totals))


@dataclass(frozen=True)
class Served:
    """Everything of one method under one load, over the same draws of rounds as dense's."""

    per_s: Floats
    times: Mapping[str, Floats]  # name -> [draws, percentiles]


def served(rounds: Sequence[Round], counts: NDArray[np.int64]) -> Served:
    """Rates and percentiles under every draw."""
    found = {name: percentiles(one, counts) for name, one in observed(rounds).items()}
    return Served(rates(rounds, counts), found)


# --- where the time goes ------------------------------------------------------------------------
def steps(
    rounds: Sequence[Round],
    selection: Sequence[float],
    padded: float,
    counts: NDArray[np.int64],
    seed: int,
) -> dict[str, Floats]:
    """[draws] milliseconds of the engine's time that a request takes, by step; they add up to it.

    ``selection``: ms of different batches, from a pass of their own, drawn by themselves.
    ``padded``: the share of the prompt's positions that are padding; the rest of the prompt is
    divided by it. A batch's decoding is its rows' mean time between first and last token, and its
    waiting the mean time after that.
    """
    size = len(rounds[0].lengths)

    def mean(values: Sequence[float]) -> Floats:
        return np.asarray(counts @ np.array(values) / counts.sum(1) / size)

    prompt = mean([one.phases["prefill"] for one in rounds])
    chosen = np.zeros(len(counts))
    if len(selection):
        drawn = draws(np.ones(len(selection), bool), seed)
        chosen = np.minimum(drawn @ np.array(selection) / len(selection) / size, prompt)
    found = {
        "vision": mean([one.phases.get("vision", 0.0) for one in rounds]),
        "selection": chosen,
        "prefill": (prompt - chosen) * (1 - padded),
        "padding": (prompt - chosen) * padded,
        "decode": mean([float((one.ends - one.stamps[0]).mean()) for one in rounds]),
        "waiting": mean([float((one.stamps[-1] - one.ends).mean()) for one in rounds]),
    }
    total = mean([one.total for one in rounds])
    return {**found, "rest": np.asarray(total - sum(found.values()))}
