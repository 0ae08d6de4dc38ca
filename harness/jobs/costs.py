"""`--costs-only`: the FLOPs and KV ledger at a model's true sizes. No weights, no benchmarks.

The closed form fills every convention; fvcore and torch count the same samples again under the
convention `full` and must agree with it (`harness.cost.referees`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from harness.common.errors import UsageError, one_line
from harness.common.progress import Progressing
from harness.cost.readouts import read_out, routing_table
from harness.cost.rows import cost_rows
from harness.families.catalog import shape_from_config
from harness.families.shapes import ModelShape
from harness.jobs.budgets import with_budgets
from harness.jobs.resolve import check_methods, named_methods, with_dense
from harness.jobs.runner import Job
from harness.model.convert.use import config_behind
from harness.options.gpus import find_gpu
from harness.options.settings import Settings
from harness.options.workload import Workload, pictures
from harness.readouts.ending import Ending
from harness.statistics.bounds import Gpu, Sample, capacity_row
from harness.store import columns
from harness.store.cells import ID_LENGTH, params_json
from harness.store.csvfile import write_csv
from harness.store.folder import read_run_json
from harness.store.record import RoutingRecord
from harness.store.rundir import Store
from harness.timing.fit import need

NOT_COUNTED = "not counted"
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "auto": 2}


@dataclass(frozen=True)
class Costed:
    """A method's predicted routing, read out at the model's true sizes."""

    about: dict[str, str]  # identifying columns
    readout: dict[str, Any]
    widest: int = 0  # tokens of a sample in the layer that processes most


class Costs(Job):
    """Methods in the ledger, from a config."""

    asks_for_table = True

    def resolve(self, out: Path) -> dict[str, Any]:
        settings = self.settings
        self.batch = fixed_batch(settings)
        self.config = config_behind(settings.model)
        self.shape = shape_from_config(self.config, settings.model)
        asked = with_dense(named_methods(settings.methods))
        check_methods(asked, self.shape)
        self.methods, self.notes = with_budgets(asked, settings.budgets, self.shape)
        specs = [method.spec for method in self.methods]
        self.recorded = {**settings.recorded(), "methods": specs}
        return self.recorded

    def resume(self, out: Path) -> None:
        if read_run_json(out).get("config") not in (None, self.config):
            raise UsageError(
                f"--out: the config of {self.shape.name} changed since '{out}' was made: "
                "choose another --out"
            )

    def open(self, out: Path, show: Progressing) -> dict[str, Any]:
        """All of it is computed here: where the counters disagree, nothing is written."""
        from harness.cost.referees import referees_for

        show.phase("checking the counters of FLOPs", soon=True)
        referees = referees_for(self.shape)
        checked = referees.described()
        how = self.config, self.shape, self.settings, referees
        self.found, self.left_out = predict(show.each("counting", self.methods), *how)
        return {"settings": self.recorded, "referees": checked, "config": self.config}

    def work(self, store: Store, show: Progressing) -> bool:
        seed, batch = self.settings.seed, self.batch
        rows = [r for one in self.found for r in cost_rows(one.about, [one.readout], seed, batch)]
        write_csv(store.path / "cost.csv", columns.COST, rows)
        write_csv(store.path / "routing.csv", columns.ROUTING, routing_rows(self.found))
        fits = list(capacity_rows(self.shape, self.found, self.settings))
        write_csv(store.path / "capacity.csv", columns.CAPACITY, fits)
        return False

    def ending(self, out: Path) -> Ending:
        from reports.capacity import choose
        from reports.rundata import load_run
        from reports.summary import summarise

        table = ledger_table(self.shape, self.found, self.batch)
        choices = choose(summarise(load_run(out)))
        return Ending(lambda width: table, notes=[*self.notes, *self.left_out, *choices])


def fixed_batch(settings: Settings) -> int:
    """The batch whose cache is counted; UsageError for one that a device would have to choose."""
    if isinstance(settings.batch, str):
        raise UsageError("--batch-size: --costs-only runs on no device, so give a number")
    return settings.batch


def predict(
    methods: Iterable[Any],
    config: Mapping[str, Any],
    shape: ModelShape,
    settings: Settings,
    referees: Any,
) -> tuple[list[Costed], list[str]]:
    """What can be costed without weights, and a line on each method that cannot."""
    from harness.cost.replica import DependsOnWeights, predicted_record
    from methods.base import MethodError

    found, left_out = [], []
    for method in methods:
        try:
            record = predicted_record(method, config, settings.n_text, settings.n_out)
        except DependsOnWeights:
            left_out.append(
                f"{method.label}: left out, how many tokens it keeps depends on its weights "
                "and the picture"
            )
            continue
        except MethodError as error:
            raise UsageError(f"--methods: {one_line(error)}") from None
        found.append(_cost(method, record, config, shape, settings, referees))
    return found, left_out


def _cost(
    method: Any,
    record: RoutingRecord,
    config: Mapping[str, Any],
    shape: ModelShape,
    settings: Settings,
    referees: Any,
) -> Costed:
    workload = f"{record.n_text} text, {record.n_image} image, {settings.n_out} new"
    key = [shape.name, config, method.spec, method.source_hash(), workload, settings.dtype]
    key.append(settings.batch)
    about = {
        "cell_id": hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:ID_LENGTH],
        "model": shape.name,
        "method": method.name,
        "params": params_json(method.params()),
        "label": method.label,
        "bench": workload,
    }
    itemsize = ITEMSIZE[settings.dtype]
    found = read_out(record, shape, itemsize, method.needs_images, referees)
    return Costed(about, found, int(record.processed_per_layer().max()))


def capacity_rows(
    shape: ModelShape, found: Sequence[Costed], settings: Settings
) -> Iterator[dict[str, Any]]:
    """Rows of `capacity.csv`: what the asked batch takes, and what the named GPU holds."""
    itemsize, batch = ITEMSIZE[settings.dtype], fixed_batch(settings)
    gpu = find_gpu(settings.gpu) if settings.gpu else None
    if gpu is not None and itemsize != 2:  # the peaks are of 16-bit arithmetic
        gpu = Gpu(gpu.name, gpu.gib)
    image = pictures(shape, None)
    work = Workload(n_text=settings.n_text, n_out=settings.n_out, batch=1)
    for one in found:
        held = replace(image, tokens=max(0, one.widest - settings.n_text))
        wanted = need(shape, work, held, itemsize, "sdpa")
        sample = Sample.of(one.readout, settings.n_out, wanted.activations)
        row = capacity_row(sample, wanted.weights, batch, settings.n_out, gpu)
        dtype = "bfloat16" if settings.dtype == "auto" else settings.dtype
        yield {**one.about, "dtype": dtype, **row}


def routing_rows(found: Sequence[Costed]) -> Iterator[dict[str, Any]]:
    """Rows of `routing.csv`."""
    for one in found:
        for row in routing_table([one.readout]):
            yield {"cell_id": one.about["cell_id"], "bench": one.about["bench"], **row}


def ledger_table(shape: ModelShape, found: Sequence[Costed], batch: int) -> Table:
    """One row a method: TFLOP of one sample by part and rule, and the KV cache of the batch."""
    dense = found[0].readout
    title = f"{shape.name}: {found[0].about['bench']} tokens; TFLOP of one sample, KV cache of "
    title += "one sample" if batch == 1 else f"the whole batch of {batch}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("method")
    titles = ("prefill", "of dense", "full n²", "paper-pmod", "paper-gamma", "paper-fastv")
    caches = ("KV image", "KV all", "KV MiB after prompt", "after last token")
    for title in (*titles, "vision", "decode", "router", *caches):
        table.add_column(title, justify="right")
    for one in found:
        cost = one.readout
        share = cost["tflops_prefill"] / dense["tflops_prefill"]
        vision, router = cost["tflops_vision"], cost["tflops_router"]
        kv_image = cost["kv_ratio_vision"]
        table.add_row(
            one.about["label"],
            f"{cost['tflops_prefill']:.4g}",
            f"{share:.1%}",
            f"{cost['tflops_prefill_full']:.4g}",
            f"{cost['tflops_prefill_paper_pmod']:.4g}",
            f"{cost['tflops_prefill_paper_gamma']:.4g}",
            f"{cost['tflops_prefill_paper_fastv']:.4g}",
            NOT_COUNTED if vision is None else f"{vision + cost['tflops_projector']:.3g}",
            f"{cost['tflops_decode']:.3g}",
            NOT_COUNTED if router is None else f"{router:.2g}",
            "" if kv_image is None else f"{kv_image:.2%}",
            f"{cost['kv_ratio']:.2%}",
            f"{batch * cost['kv_mib']:.4g}",
            f"{batch * cost['kv_mib_end']:.4g}",
        )
    return table
