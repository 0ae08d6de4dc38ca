"""Readouts of a finished cell from its stored records: computed after the answers, and again.

Torch-free, but where the counters have to count again. A readout stays as it is while its key
(`harness.readouts.keys`) is the one it was taken under; the others are taken from ``records/``. No
answer is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from harness.common.errors import StoreError
from harness.common.jsonfile import read_json
from harness.cost.readouts import ROUTING, agreed, read_out, routing_table
from harness.families.catalog import shape_from_config
from harness.readouts.evidence import counts
from harness.readouts.keys import COST, COUNTERS, EVIDENCE, readout_keys
from harness.store import columns
from harness.store.csvfile import write_json
from harness.store.record import RoutingRecord
from harness.store.records import AGAIN, Basis, Records
from harness.store.rundir import Store
from harness.store.tables import read_rows

ANSWERS = ("doc_id", "score", "prediction", "target", "n_out", "image_id")
COUNTED = tuple(f"{name}_{c}" for c in columns.COUNTERS for name in columns.COUNTED.values())
MakeReferees = Callable[[Basis], Any]


def stale(store: Store, cell_id: str) -> set[str]:
    """The readouts of a finished cell that other code has taken, or none."""
    try:
        known = read_json(store.stamp_json(cell_id))
    except (OSError, ValueError):
        known = None
    known = known if isinstance(known, dict) else {}
    return {name for name, key in readout_keys().items() if known.get(name) != key}


def read_out_cell(
    store: Store,
    cell_id: str,
    which: Iterable[str] = (COST, EVIDENCE),
    referees: MakeReferees | None = None,
) -> None:
    """Take the readouts `which` of a cell from its records, and those that are stale.

    `referees` makes the counters of FLOPs, which count only where their readout is stale. Raises
    RefereeError where they disagree with the closed form, and StoreError for records that are
    gone, damaged, or not those of the cell's samples; nothing is written then.
    """
    old = stale(store, cell_id)
    wanted = old.union(which)
    if not wanted:
        return
    found = Records(store.records_gz(cell_id))
    samples = read_rows(store.samples_csv(cell_id))
    costs: list[dict[str, Any]] = []
    evidence: list[dict[str, Any]] = []
    counters = (referees or referees_of)(found.basis) if COUNTERS in old else None
    cost = _Cost(found.basis, counters)
    for number, (doc_id, record) in enumerate(found):
        if number >= len(samples) or samples[number]["doc_id"] != doc_id:
            raise _foreign(store, cell_id)
        if wanted != {EVIDENCE}:
            costs.append(cost.of(record, samples[number]))
        if EVIDENCE in wanted:
            evidence += counts([(doc_id, record)])
    if wanted != {EVIDENCE} and len(costs) != len(samples):
        raise _foreign(store, cell_id)
    store.stamp_json(cell_id).unlink(missing_ok=True)  # stopped half-way, all count as stale
    if costs:
        store.write_routing(cell_id, routing_table(costs))
        rows = [_row(sample, one) for sample, one in zip(samples, costs, strict=True)]
        store.write_samples(cell_id, rows)
    if EVIDENCE in wanted:
        store.write_evidence(cell_id, evidence)
    write_json(store.stamp_json(cell_id), readout_keys())


def read_samples(store: Store, row: Mapping[str, str]) -> list[dict[str, str]]:
    """The samples of a finished cell by its row. Raises StoreError, also where some are missing."""
    path = store.samples_csv(row["cell_id"])
    try:
        samples = read_rows(path)
    except StoreError as error:
        raise StoreError(f"{error}; {AGAIN}") from None
    if str(len(samples)) != row["n"]:
        raise StoreError(f"{path}: {len(samples)} samples, {row['n']} expected; {AGAIN}")
    return samples


def require_readable(store: Store, row: Mapping[str, str]) -> None:
    """Raise StoreError, one line, for files of a finished cell that a repeated run must read.

    Records are read only where a readout is stale, as `read_out_cell` does.
    """
    samples, cell_id = read_samples(store, row), row["cell_id"]
    store.read_metrics(cell_id)
    if not stale(store, cell_id):
        store.read_routing(cell_id)
        store.read_evidence(cell_id)
        return
    found = [doc_id for doc_id, _ in Records(store.records_gz(cell_id))]
    if found != [sample["doc_id"] for sample in samples]:
        raise _foreign(store, cell_id)


def _foreign(store: Store, cell_id: str) -> StoreError:
    samples, records = store.samples_csv(cell_id), store.records_gz(cell_id)
    return StoreError(f"{records}: not the records of {samples}; {AGAIN}")


class _Cost:
    """Token and cost columns of one sample after the other; without `counters` theirs stay."""

    def __init__(self, basis: Basis, counters: Any) -> None:
        self.basis, self.counters = basis, counters
        self.shape = shape_from_config(basis.config, basis.model)

    def of(self, record: RoutingRecord, sample: Mapping[str, str]) -> dict[str, Any]:
        how = (self.shape, self.basis.itemsize, self.basis.vision_runs, self.counters)
        found = read_out(record, *how)
        if self.counters is None:
            texts = {name: sample.get(name) for name in COUNTED}
            found |= agreed(found, {n: float(text) if text else None for n, text in texts.items()})
        return found


def _row(sample: Mapping[str, str], cost: Mapping[str, Any]) -> dict[str, Any]:
    numbers = {name: value for name, value in cost.items() if name != ROUTING}
    return {**{name: sample[name] for name in ANSWERS}, **numbers}


def referees_of(basis: Basis) -> Any:
    """The counters on a model of this config, the same for all its cells: torch, no weights."""
    return _referees(json.dumps(basis.config, sort_keys=True), basis.model)


@cache
def _referees(config: str, model: str) -> Any:
    import torch

    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from transformers import AutoConfig, AutoModel

    from harness.cost.modules import decoder_like
    from harness.cost.referees import referees_for

    sizes = json.loads(config)
    text = AutoConfig.for_model(**sizes["text_config"])
    with torch.device("meta"):
        decoder = AutoModel.from_config(text, trust_remote_code=False)
    return referees_for(shape_from_config(sizes, model), decoder_like(decoder.layers[0], text))
