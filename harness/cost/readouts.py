"""From a routing record to numbers: the columns of a sample's row, and routing totals. Torch-free.

Whatever is read out here can be read out again from the stored record, without a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.cost.findings import TOLERANCE, RefereeError
from harness.cost.ledger import Counts, sample_cost
from harness.families.shapes import ModelShape
from harness.store.columns import COUNTED, COUNTERS
from harness.store.record import ANSWER, KINDS, RoutingRecord

ROUTING = "routing"


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
        ROUTING: _kept_by_kind(record, by_kind),
    }
    if referees is not None:
        counted = referees.sample(record, vision_runs, by_kind.sum(1))
        columns |= agreed(columns, counter_columns(counted))
    return columns


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
    """Rows of `routing.csv` without the cell: tokens and kept tokens summed over samples.

    Kinds that never occurred have no row.
    """
    tokens: dict[str, int] = {}
    kept: dict[str, list[int]] = {}
    for one in readouts:
        for kind, counts in one[ROUTING].items():
            tokens[kind] = tokens.get(kind, 0) + counts["tokens"]
            before = kept.get(kind) or [0] * len(counts["kept"])
            kept[kind] = [a + b for a, b in zip(before, counts["kept"], strict=True)]
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
        for layer, count in enumerate(kept[kind])
    ]
