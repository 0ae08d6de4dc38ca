"""From a routing record to numbers: the columns of a sample's row, and routing totals. Torch-free.

Whatever is read out here can be read out again from the stored record, without a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from harness.cost.findings import TOLERANCE, RefereeError
from harness.cost.ledger import Counts, sample_cost
from harness.families.shapes import ModelShape
from harness.store.columns import COUNTED, COUNTERS
from harness.store.images import of_images
from harness.store.outline import Outline, outline
from harness.store.record import ANSWER, KINDS, RoutingRecord

ROUTING = "routing"
KEPT = 4096  # readouts held at once


def read_out(
    record: RoutingRecord, shape: ModelShape, itemsize: int, vision_runs: bool, referees: Any = None
) -> dict[str, Any]:
    """Token and cost columns of `samples/<cell_id>.csv`, and counts by token kind.

    With `referees` (`harness.cost.referees.Referees`) the columns of both counters as well; raises
    RefereeError where one disagrees with the closed form.

    The entry `routing` maps a kind to {"tokens": prompt tokens (for answers: tokens fed back),
    "kept": [L] processed tokens a layer}.
    """
    by_kind = record.processed_by_kind()
    cost = sample_cost(record, shape, itemsize, vision_runs, by_kind)
    columns = {
        "n_text": record.n_text,
        "n_image": record.n_image,
        "n_images": record.n_images,
        "skip_mod_layers": cost.skip_mod_layers,
        "skip_all_layers": cost.skip_all_layers,
        "kv_ratio": cost.kv_ratio_all,
        "kv_ratio_vision": cost.kv_ratio_vision,
        "kv_mib": cost.kv_mib,
        "kv_mib_end": cost.kv_mib_end,
        "tflops_vision": cost.vision,
        "tflops_projector": cost.projector,
        "tflops_prefill": cost.prefill["causal"],
        "tflops_prefill_full": cost.prefill["full"],
        "tflops_prefill_paper_pmod": cost.prefill["paper-pmod"],
        "tflops_prefill_paper_gamma": cost.prefill["paper-gamma"],
        "tflops_prefill_paper_fastv": cost.prefill["paper-fastv"],
        "tflops_decode": cost.decode,
        "tflops_router": cost.router,
        "tflops_lm_head": cost.lm_head,
        **of_images(record),
        ROUTING: _kept_by_kind(record, by_kind),
    }
    if referees is not None:
        counted = referees.sample(record, vision_runs, by_kind.sum(1))
        columns |= agreed(columns, counter_columns(counted))
    return columns


class Readouts:
    """`read_out` for sample after sample of a cell; equal outlines are computed once."""

    def __init__(
        self, shape: ModelShape, itemsize: int, vision_runs: bool, referees: Any = None
    ) -> None:
        self.how = shape, itemsize, vision_runs, referees
        self._known: dict[Outline, dict[str, Any]] = {}

    def of(self, data: bytes, record: Callable[[bytes], RoutingRecord]) -> dict[str, Any]:
        """Of a record in the form of `packing.plain`, which `record` makes of it.

        The answer is shared by samples and not to be changed.
        """
        seen = outline(data)
        found = self._known.get(seen) if seen is not None else None
        if found is None:
            found = read_out(record(data), *self.how)
            if seen is not None:
                if len(self._known) >= KEPT:
                    self._known.clear()
                self._known[seen] = found
        return found


class RoutingTotals:
    """`routing_table` of samples that come one by one."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._kept: dict[str, list[int]] = {}
        self._times: dict[int, tuple[Mapping[str, Any], int]] = {}  # shared readouts by identity

    def add(self, readout: Mapping[str, Any]) -> None:
        """Take the counts of one sample."""
        kept, times = self._times.get(id(readout), (readout, 0))
        self._times[id(readout)] = kept, times + 1
        if len(self._times) >= KEPT:
            self._sum()

    def _sum(self) -> None:
        for readout, times in self._times.values():
            for kind, counts in readout[ROUTING].items():
                self._tokens[kind] = self._tokens.get(kind, 0) + times * counts["tokens"]
                before = self._kept.get(kind) or [0] * len(counts["kept"])
                pairs = zip(before, counts["kept"], strict=True)
                self._kept[kind] = [a + times * b for a, b in pairs]
        self._times.clear()

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `routing.csv` without the cell; kinds that never occurred have none."""
        self._sum()
        tokens = self._tokens
        return [
            {
                "layer": layer,
                "kind": kind,
                "tokens": tokens[kind],
                "kept": count,
                "kept_fraction": count / tokens[kind],
            }
            for kind in KINDS
            if tokens.get(kind)
            for layer, count in enumerate(self._kept[kind])
        ]


def counter_columns(
    counted: Mapping[str, Mapping[str, float | None]],
) -> dict[str, float | None]:
    """Columns of `counter -> scope -> TFLOP`."""
    return {
        f"{COUNTED[scope]}_{counter}": value
        for counter, scopes in counted.items()
        for scope, value in scopes.items()
    }


def agreed(
    closed: Mapping[str, Any], counted: Mapping[str, float | None]
) -> Mapping[str, float | None]:
    """The counters' columns, each within the tolerance of the closed form's; else RefereeError."""
    for counter in COUNTERS:
        for scope, name in COUNTED.items():
            value, ours = counted.get(f"{name}_{counter}"), closed[name]
            if value is None or ours is None:
                continue
            if abs(value - ours) > TOLERANCE * ours:
                raise RefereeError(
                    f"FLOPs of {scope} disagree by more than {TOLERANCE:.1%}: closed form "
                    f"{ours:.6g}, {counter} {value:.6g} TFLOP"
                )
    return counted


def _kept_by_kind(record: RoutingRecord, by_kind: Counts) -> dict[str, dict[str, Any]]:
    counts = {}
    totals = np.bincount(record.kinds, minlength=len(KINDS)).tolist()
    for kind, name in enumerate(KINDS):
        tokens, kept = totals[kind], by_kind[:, kind]
        if kind == ANSWER:  # those of a teacher-forced prompt and those generated
            tokens += record.n_out
            kept = kept + record.decode.sum(1)
        counts[name] = {"tokens": tokens, "kept": kept.tolist()}
    return counts


def routing_table(readouts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `routing.csv` without the cell: tokens and kept tokens summed over samples."""
    totals = RoutingTotals()
    for one in readouts:
        totals.add(one)
    return totals.rows()
