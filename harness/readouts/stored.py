"""Readouts of a finished cell from its stored records: computed after the answers, and again.

Torch-free, but where the counters have to count again. A readout stays as it is while its key
(`harness.readouts.keys`) is the one it was taken under; the others are taken from ``records/``. No
answer is repeated.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from harness.common.errors import StoreError
from harness.common.jsonfile import read_json
from harness.cost.readouts import KEPT, ROUTING, Readouts, RoutingTotals, agreed
from harness.families.catalog import shape_from_config
from harness.readouts.evidence import counts
from harness.readouts.keys import COST, COUNTERS, EVIDENCE, readout_keys
from harness.store import columns
from harness.store.csvfile import cell_text, write_json, written
from harness.store.records import AGAIN, Basis, Records
from harness.store.rundir import Store
from harness.store.samples import Samples, read
from harness.store.tables import each_row

ANSWERS = ("doc_id", "score", "prediction", "target", "n_out", "image_id", "cluster")
COUNTED = tuple(f"{name}_{c}" for c in columns.COUNTERS for name in columns.COUNTED.values())
NO_EVIDENCE = b'"evidence":[]'  # stands so in a record's plain form
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
    counters = (referees or referees_of)(found.basis) if COUNTERS in old else None
    taken = _Taken(store, cell_id, found, counters, EVIDENCE in wanted)
    if wanted == {EVIDENCE}:
        deque(taken.pairs(), 0)
    else:
        with written(store.samples_csv(cell_id), taken.lines()) as replace:
            store.stamp_json(cell_id).unlink(missing_ok=True)  # half-way, all count as stale
            store.write_routing(cell_id, taken.routing.rows())
            replace()
    store.stamp_json(cell_id).unlink(missing_ok=True)
    if EVIDENCE in wanted:
        store.write_evidence(cell_id, taken.evidence)
    write_json(store.stamp_json(cell_id), readout_keys())


class _Taken:
    """Readouts of the samples of a cell, one after the other; what is small of them is kept."""

    def __init__(
        self, store: Store, cell_id: str, found: Records, counters: Any, evidence: bool
    ) -> None:
        self.store, self.cell_id, self.records = store, cell_id, found
        self.counters = counters
        self.wants_evidence = evidence
        self.evidence: list[dict[str, Any]] = []
        self.routing = RoutingTotals()
        basis = found.basis
        shape = shape_from_config(basis.config, basis.model)
        self.costs = Readouts(shape, basis.itemsize, basis.vision_runs, counters)
        self._texts: dict[int, tuple[Any, dict[str, str]]] = {}  # of readouts that samples share

    def pairs(self) -> Iterator[tuple[dict[str, str], bytes]]:
        """Samples with their records in plain form; StoreError where they are not theirs."""
        samples = each_row(self.store.samples_csv(self.cell_id))
        for doc_id, data in self.records.plain():
            sample = next(samples, None)
            if sample is None or sample["doc_id"] != doc_id:
                raise _foreign(self.store, self.cell_id)
            if self.wants_evidence and NO_EVIDENCE not in data:
                self.evidence += counts([(doc_id, self.records.record(data))])
            yield sample, data
        if next(samples, None) is not None:
            raise _foreign(self.store, self.cell_id)

    def lines(self) -> Iterator[Sequence[str]]:
        """The samples file with its cost columns."""
        names = list(columns.SAMPLES)
        yield names
        for sample, data in self.pairs():
            cost = self.costs.of(data, self.records.record)
            self.routing.add(cost)
            row = self._text(cost) | {name: sample.get(name) or "" for name in ANSWERS}
            if self.counters is None:  # theirs stay
                said = {name: sample.get(name) for name in COUNTED}
                numbers = {name: float(text) if text else None for name, text in said.items()}
                row |= {name: cell_text(v) for name, v in agreed(cost, numbers).items()}
            yield [row.get(name, "") for name in names]

    def _text(self, cost: Mapping[str, Any]) -> dict[str, str]:
        if id(cost) not in self._texts:
            if len(self._texts) >= KEPT:
                self._texts.clear()
            texts = {name: cell_text(v) for name, v in cost.items() if name != ROUTING}
            self._texts[id(cost)] = cost, texts  # its identity is its own as long as it is kept
        return self._texts[id(cost)][1]


def read_samples(store: Store, row: Mapping[str, str]) -> Samples:
    """The samples of a finished cell by its row. Raises StoreError, also where some are missing."""
    path = store.samples_csv(row["cell_id"])
    try:
        samples = read(path)
    except StoreError as error:
        raise StoreError(f"{error}; {AGAIN}") from None
    if str(samples.count) != row["n"]:
        raise StoreError(f"{path}: {samples.count} samples, {row['n']} expected; {AGAIN}")
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
    if found != samples.texts("doc_id").to_pylist():
        raise _foreign(store, cell_id)


def _foreign(store: Store, cell_id: str) -> StoreError:
    samples, records = store.samples_csv(cell_id), store.records_gz(cell_id)
    return StoreError(f"{records}: not the records of {samples}; {AGAIN}")


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
