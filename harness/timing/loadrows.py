"""Rows of load.csv from rounds and recorded routing. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.families.shapes import ModelShape
from harness.options.gpus import find_gpu
from harness.options.workload import Workload, pictures
from harness.statistics.bounds import GIB, ROOM, largest_batch
from harness.store.record import IMAGE, RoutingRecord
from harness.timing import loadmaths
from harness.timing.fit import need, weight_count
from harness.timing.loadmaths import Floats, Round, Served
from harness.timing.rows import PHASES

MIB = 1024.0**2
BACKEND = "batches"


@dataclass(frozen=True)
class Counted:
    """What the records of one batch say; sums over its rows.

    ``kv``: bytes held at each row's own last token; ``held``: bytes of the cache tensors.
    ``real``, ``padded``: positions of the prompt over all layers, and what pads shorter rows.
    ``widest``: tokens of a row in the layer that processes most. ``kept``: image tokens that
    layers process, as a share, summed over the rows that have images (``pictured``).
    """

    rows: int
    n_text: int
    n_image: int
    kv: int
    held: int
    real: int
    padded: int
    widest: int
    kept: float
    pictured: int


def counted(
    records: Sequence[RoutingRecord], shape: ModelShape, itemsize: int, held: int
) -> Counted:
    """One batch's records summed up. The engine pads the rows of every layer to its longest."""
    layers = np.array([record.processed_per_layer() for record in records])  # [rows, L]
    real, whole = int(layers.sum()), int(layers.max(0).sum()) * len(records)
    seen = [record for record in records if record.n_image]
    entry = shape.kv_bytes_per_entry(itemsize)
    return Counted(
        rows=len(records),
        n_text=sum(record.n_text for record in records),
        n_image=sum(record.n_image for record in records),
        kv=sum(int(record.kv_tokens.sum()) for record in records) * entry,
        held=held,
        real=real,
        padded=whole - real,
        widest=int(layers.max(1).sum()),
        kept=float(sum(r.processed_per_layer(IMAGE).mean() / r.n_image for r in seen)),
        pictured=len(seen),
    )


def total(batches: Sequence[Counted], name: str) -> float:
    """A field summed over batches."""
    return float(sum(getattr(one, name) for one in batches))


def padding(batches: Sequence[Counted]) -> float:
    """The share of the prompt's positions, over all layers, that are padding."""
    padded, real = total(batches, "padded"), total(batches, "real")
    return padded / (padded + real) if padded + real else 0.0


@dataclass(frozen=True)
class Memory:
    """What ``--gpu`` holds, and what a request takes of it beside its cache."""

    name: str
    usable: float
    weights: float
    activations: float

    def fits(self, kv: Floats) -> Floats:
        """Requests in flight, from the cache bytes of one."""
        each = kv + self.activations
        return np.array([largest_batch(self.usable, self.weights, one) for one in each], float)


def memory(
    gpu: str | None, batches: Sequence[Counted], shape: ModelShape, itemsize: int, attn: str
) -> Memory | None:
    """Predicted as in capacity.csv, for a mean request; None where no memory is named."""
    if gpu is None:
        return None
    rows, found = total(batches, "rows"), find_gpu(gpu)
    n_text, widest = (round(total(batches, name) / rows) for name in ("n_text", "widest"))
    held = replace(pictures(shape, None), tokens=max(0, widest - n_text))
    wanted = need(shape, Workload(n_text=n_text, batch=1), held, itemsize, attn)
    weights = float(weight_count(shape) * itemsize)
    return Memory(found.name, found.gib * ROOM * GIB, weights, wanted.activations)


@dataclass(frozen=True)
class Loaded:
    """One method's side of a row: its rounds, what its records say, and its draws."""

    rounds: Sequence[Round]
    counted: Sequence[Counted]
    served: Served
    steps: Mapping[str, Floats]
    memory: Memory | None

    def kv(self, counts: NDArray[np.int64]) -> Floats:
        """[draws] cache bytes of a request, over draws of batches."""
        kv, rows = (np.array([getattr(b, name) for b in self.counted]) for name in ("kv", "rows"))
        return np.asarray((counts @ kv) / (counts @ rows))


def loaded(
    rounds: Sequence[Round],
    batches: Sequence[Counted],
    selection: Sequence[float],
    keep: NDArray[np.bool_],
    seed: int,
    room: Memory | None,
) -> Loaded:
    """A method's side, with the draws of rounds that all methods share."""
    counts = loadmaths.draws(keep, seed)
    served = loadmaths.served(rounds, counts)
    steps = loadmaths.steps(rounds, selection, padding(batches), counts, seed)
    return Loaded(rounds, batches, served, steps, room)


def row(
    about: Mapping[str, Any], ours: Loaded, dense: Loaded | None, keep: NDArray[np.bool_], seed: int
) -> dict[str, Any]:
    """The row of load.csv; ``dense`` is None for the row that the others are compared with."""
    kept = [one for one, good in zip(ours.rounds, keep, strict=True) if good]
    tokens = float(np.mean([one.lengths.mean() for one in kept]))
    rows = total(ours.counted, "rows")
    found: dict[str, Any] = {
        **about,
        "requests": sum(len(one.lengths) for one in kept),
        "repeats": len(kept),
        "rejected": int((~keep).sum()),
        "n_text": total(ours.counted, "n_text") / rows,
        "n_image": total(ours.counted, "n_image") / rows,
        "n_out": tokens,
        "tokens_per_s": float(ours.served.per_s[0]) * tokens,
        "kv_held_mib": total(ours.counted, "held") / len(ours.counted) / MIB,
        **_measured("requests_per_s", ours.served.per_s, dense.served.per_s if dense else None),
    }
    rate = loadmaths.interval(ours.served.per_s)
    if rate is not None:
        found |= {"requests_per_s_low": rate.low, "requests_per_s_high": rate.high}
    for name, values in ours.served.times.items():
        for i, p in enumerate(loadmaths.PERCENTILES):
            other = dense.served.times[name][:, i] if dense else None
            found |= _measured(f"{name}_p{p}", values[:, i], other, "_ms")
    batches = loadmaths.draws(np.ones(len(ours.counted), bool), seed)
    kv, theirs = ours.kv(batches), dense.kv(batches) if dense else None
    found |= _measured("kv", kv, theirs)
    found |= {"kv_mib": found.pop("kv") * rows / len(ours.counted) / MIB}
    if ours.memory is not None:
        other = dense.memory.fits(theirs) if dense and dense.memory and theirs is not None else None
        found |= {"gpu": ours.memory.name, **_measured("fits", ours.memory.fits(kv), other)}
    return found | _steps(ours, dense)


def raw_rows(
    cell_id: str, label: str, rounds: Sequence[Round], keep: NDArray[np.bool_]
) -> Iterator[dict[str, Any]]:
    """The raw times of `rounds/`, a line a round and phase."""
    for number, one in enumerate(rounds):
        head = {"cell_id": cell_id, "label": label, "round": number, "kept": int(keep[number])}
        for phase, ms in one.phases.items():
            if phase in PHASES:
                yield {**head, "phase": phase, "ms": ms}


def _measured(name: str, values: Floats, dense: Floats | None, unit: str = "") -> dict[str, Any]:
    """A value and its ratio to dense, over the same draws of both."""
    first = float(values[0])
    found: dict[str, Any] = {f"{name}{unit}": None if np.isnan(first) else first}
    if dense is None or not dense[0] > 0:
        return found
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = loadmaths.interval(np.where(dense > 0, values / dense, np.nan))
    if ratio is not None:
        found |= {f"{name}_ratio": ratio.value, f"{name}_ratio_low": ratio.low}
        found |= {f"{name}_ratio_high": ratio.high}
    return found


def _steps(ours: Loaded, dense: Loaded | None) -> dict[str, Any]:
    """Where a request's share of the engine's time goes, and what each step adds to dense's."""
    first = {name: float(values[0]) for name, values in ours.steps.items()}
    request, pictured = sum(first.values()), total(ours.counted, "pictured")
    found = {
        "padding_share": padding(ours.counted),
        "waiting_share": first["waiting"] / request,
        "selection_share": first["selection"] / request,
        "kept_share": total(ours.counted, "kept") / pictured if pictured else None,
        "request_ms": request,
        **{f"{name}_ms": value for name, value in first.items()},
    }
    base = dense.steps if dense is not None else {}
    for name in base:
        added = loadmaths.interval(ours.steps[name] - base[name])
        if added is not None:
            found |= {f"{name}_added_ms": added.value, f"{name}_added_low": added.low}
            found |= {f"{name}_added_high": added.high}
    return found
