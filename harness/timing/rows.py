"""Rows of throughput.csv and rounds/ from measured times and recorded routing. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.cost.ledger import TERA, sample_cost
from harness.cost.ownwork import by_phase, projected_again
from harness.families.shapes import ModelShape
from harness.store.record import RoutingRecord
from harness.timing import ratios
from harness.timing.device import Reading

MIB = 1024.0**2
PHASES = ("vision", "prefill", "decode", "end_to_end")
SELECTION, PREPROCESS = "selection", "preprocess"


@dataclass(frozen=True)
class TimedRow:
    """One method of a workload, everything its rows need besides the times.

    ``about``: identifying columns and conditions. ``tflops``: phase -> mean TFLOP of a sample,
    empty where not all of it is known.
    """

    about: Mapping[str, Any]
    tflops: Mapping[str, float]
    batch: int
    n_out: int
    kv_mib: float
    agreement: float | None = None
    notes: tuple[str, ...] = ()


def phase_tflops(
    records: Sequence[RoutingRecord], shape: ModelShape, itemsize: int, vision_runs: bool
) -> dict[str, float]:
    """Mean TFLOP of a sample by phase, under the one rule ``causal``; {} where a part is not known.

    What a method computes of its own is timed, so it counts in the phase in which it runs.
    """
    found: dict[str, list[float]] = {"vision": [], "prefill": [], "decode": []}
    for record in records:
        cost = sample_cost(record, shape, itemsize, vision_runs)
        own = by_phase(shape, record.scoring)
        if cost.vision is None or own is None:
            return {}
        again = (
            projected_again(shape, record.scoring) / TERA
        )  # runs in the prefill, as ``own`` says
        sight = cost.vision + cost.projector - again
        parts = {"vision": sight, "prefill": cost.prefill["causal"], "decode": cost.decode}
        for phase, tflops in parts.items():
            found[phase].append(tflops + own[phase] / TERA)
    means = {phase: float(np.mean(values)) for phase, values in found.items()}
    return {**means, "end_to_end": sum(means.values())}


def throughput_rows(
    row: TimedRow,
    times: Any,
    dense: Any,
    dense_tflops: Mapping[str, float],
    readings: Sequence[Reading],
    seed: int,
    best: Any = None,
) -> Iterator[dict[str, Any]]:
    """One row a phase. ``times``, ``dense`` and ``best`` are `harness.timing.measure.Times`.

    ``best``: dense on the best backend, where the run's own is another one.
    """
    keep = ratios.kept_rounds([r.sm_mhz for r in readings])
    state = _state(readings, keep)
    for phase in PHASES:
        if phase not in times.rounds:
            continue
        ours = np.asarray(times.rounds[phase])[keep]
        reference = np.asarray(dense.rounds[phase])[keep] if phase in dense.rounds else None
        gain = None
        if times is not dense and reference is not None:
            gain = ratios.speedup(reference, ours, seed)
        less = ratios.flops_ratio(dense_tflops.get(phase), row.tflops.get(phase))
        realised = ratios.realisation(gain, less)
        against_best = None
        if best is not None and phase in best.rounds:
            against_best = ratios.speedup(np.asarray(best.rounds[phase])[keep], ours, seed)
        yield {
            **row.about,
            **_spread(ours),
            **_rates(phase, float(np.median(ours)), row.batch, row.n_out),
            **state,
            "phase": phase,
            "speedup_vs_dense": gain.value if gain else None,
            "speedup_ci_low": gain.low if gain else None,
            "speedup_ci_high": gain.high if gain else None,
            "flops_ratio": less,
            "realisation": realised.value if realised else None,
            "realisation_ci_low": realised.low if realised else None,
            "realisation_ci_high": realised.high if realised else None,
            "speedup_vs_best": against_best.value if against_best else None,
            "tflops": row.tflops.get(phase),
            "peak_mib": times.peak_mib.get(phase),
            "kv_mib": row.kv_mib,
            "repeats": int(keep.sum()),
            "rejected": int((~keep).sum()),
            "first_ms": times.first_ms if phase == "end_to_end" else None,
            "joules_per_sample": times.joules if phase == "end_to_end" else None,
            "agreement": row.agreement,
            "notes": "; ".join(row.notes),
        }
    if times.selection:
        yield extra_row(row, SELECTION, times.selection)


def extra_row(row: TimedRow, phase: str, values: Sequence[float]) -> dict[str, Any]:
    """A row of times alone: selection, or preprocessing."""
    own = {"phase": phase, "repeats": len(values), "notes": "; ".join(row.notes)}
    return {**row.about, **_spread(np.asarray(values)), **own}


def _spread(values: Any) -> dict[str, float]:
    found = ratios.spread(values)
    return {"median_ms": found.median, "p10_ms": found.p10, "p90_ms": found.p90}


def _rates(phase: str, median: float, batch: int, n_out: int) -> dict[str, float | None]:
    """Samples a second; generated tokens a second where the phase generates any."""
    per_second = 1e3 * batch / median if median > 0 else None
    made = {"decode": n_out - 1, "end_to_end": n_out}.get(phase)
    tokens = None if made is None or per_second is None else per_second * made
    return {"samples_per_s": per_second, "tokens_per_s": tokens}


def _state(readings: Sequence[Reading], keep: Any) -> dict[str, float | None]:
    kept = [reading for reading, one in zip(readings, keep, strict=True) if one]

    def median(name: str) -> float | None:
        values = [v for v in (getattr(r, name) for r in kept) if v is not None]
        return float(np.median(values)) if values else None

    return {name: median(name) for name in ("sm_mhz", "memory_mhz", "watt", "celsius")}


def round_rows(about: Mapping[str, Any], times: Any, readings: Sequence[Reading]) -> Any:
    """The raw times of `rounds/`, a line a round and phase."""
    keep = ratios.kept_rounds([r.sm_mhz for r in readings])
    for phase, values in times.rounds.items():
        for number, value in enumerate(values):
            yield {
                "cell_id": about["cell_id"],
                "label": about["label"],
                "round": number,
                "phase": phase,
                "ms": value,
                "kept": int(keep[number]),
            }
