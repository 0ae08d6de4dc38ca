"""One cell: evaluate it, turn the result into rows, write it down whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import traceback
from typing import TYPE_CHECKING, Any

from harness.common.errors import CellError, HarnessError, StoreError, one_line
from harness.cost.readouts import ROUTING, read_out, routing_table
from harness.options.runtime import DENSE
from harness.readouts.evidence import EVIDENCE, counts
from harness.store.cells import params_json
from harness.store.pictures import save_image, write_pictures
from harness.store.rundir import DONE, FAILED, Store
from harness.store.runinfo import now

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.common.progress import OnBatch
    from harness.jobs.grid import Cell

PICTURED = 4  # samples whose full routing is kept for pictures
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


def run_cell(
    cell: Cell,
    loaded: Any,
    store: Store,
    evaluate: Callable[..., Any],
    referees: Any,
    on_batch: OnBatch | None = None,
    verbose: bool = False,
) -> Any:
    """Compute one cell and commit it; returns its `CellResult`.

    `evaluate` is `harness.bench.loop.evaluate`, or a stand-in;
    `referees` count every sample's FLOPs again (`harness.cost.referees.Referees`).

    Raises CellError with the reason when it cannot be computed (nothing is committed then), and
    StoreError when the disk does not take it. What was answered so far stays for the next try.
    """
    key = cell.key
    count = functools.partial(
        _read_out,
        shape=loaded.info,
        itemsize=ITEMSIZE[key.dtype],
        vision_runs=cell.method.needs_images,
        referees=referees,
    )
    try:
        result = evaluate(
            loaded,
            cell.method,
            cell.bench,
            checkpoint=cell.checkpoint,
            limit=key.limit,
            batch_size=key.batch_size,
            seed=key.seed,
            progress=False,
            response_log=store.partial_dir(key.cell_id) / "answers.jsonl",
            on_batch=on_batch,
            on_sample=count,
            keep_record=lambda position: position < PICTURED,
            on_image=functools.partial(save_image, store.path / "routing"),
            attention=cell.method.name == DENSE,
            verbose=verbose,
            allow=key.allow,
        )
        if not result.samples:
            raise CellError(f"{cell.bench.name}: no documents")
        _commit(cell, result, store)
    except (StoreError, KeyboardInterrupt):
        raise
    except HarnessError as error:  # said in one line already
        raise CellError(one_line(error)) from error
    except BaseException as error:  # SystemExit too: a cell may not end the run
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise StoreError(f"{cell.name}: {error.strerror}") from error
        log_fault(store, key.cell_id)
        raise CellError(one_line(error)) from error
    return result


def _read_out(doc_id: Any, record: Any, **how: Any) -> dict[str, Any]:
    return read_out(record, **how)


def _commit(cell: Cell, result: Any, store: Store) -> None:
    """Files first, the row last: a cell without its row does not count."""
    key = cell.key.ran_at(result.batch_size)
    samples = [sample_row(sample) for sample in result.samples]
    readouts = [s.readout for s in result.samples if s.readout]
    metrics = [metric_entry(m, headline=m is result.headline) for m in result.metrics]
    shown = {str(sample.doc_id): sample for sample in result.samples}
    folder = store.routing_dir(key.cell_id)
    write_pictures(folder, result.records, shown, result.attention, PICTURED)
    tables = routing_table(readouts), counts(result.samples)
    store.write_cell_files(key.cell_id, samples, metrics, *tables)
    store.record(
        {
            **identity(cell),
            "cell_id": key.cell_id,
            "status": DONE,
            "n": result.n,
            "seconds": round(result.seconds, 3),
            "batch_size": result.batch_size,
            "over_length": result.over_length,
            "truncated_images": result.truncated_images,
            "notes": "; ".join([*result.notes, *weights_notes(cell)]),
            "finished_at": now(),
        }
    )
    store.drop_partial(cell.key.cell_id)


def weights_notes(cell: Cell) -> list[str]:
    """What must be said of a training-free method that runs with weights tuned for it."""
    from harness.model.checkpoints import read_meta

    method, path = cell.method, cell.checkpoint
    if path is None or method.trained or method.name == DENSE:
        return []
    if read_meta(path)["method"] != method.name:
        return []  # dense's weights
    return [f"weights tuned for it; --checkpoint {method.name}=none runs it training-free"]


def record_failure(cell: Cell, error: CellError, store: Store) -> None:
    """The row of a cell that could not be computed."""
    store.record(
        {**identity(cell), "status": FAILED, "error": one_line(error), "finished_at": now()}
    )


def identity(cell: Cell) -> dict[str, Any]:
    """The columns of cells.csv that are known before a cell is computed."""
    key = cell.key
    return {
        "cell_id": key.cell_id,
        "model": key.model,
        "method": key.method,
        "params": params_json(key.params),
        "label": cell.method.label,
        "bench": key.bench,
        "data": key.data,
        "data_source": cell.bench.data_source,
        "requested_id": key.cell_id,
        "batch_size": key.batch_size,
        "device": key.device,
        "dtype": key.dtype,
        "attn": key.attn,
        "positions": cell.method.numbering,
    }


def sample_row(sample: Any) -> dict[str, Any]:
    """One row of `samples/<cell_id>.csv`; cost columns stay empty without a routing record."""
    numbers = {k: v for k, v in (sample.readout or {}).items() if k not in (ROUTING, EVIDENCE)}
    return {
        "doc_id": sample.doc_id,
        "score": sample.score,
        "prediction": sample.prediction,
        "target": sample.target,
        "n_out": sample.n_out,
        "image_id": sample.image_id,
        **numbers,
    }


def metric_entry(metric: Any, headline: bool) -> dict[str, Any]:
    """One metric as it is stored beside the samples (JSON-able)."""
    return {
        "task": metric.task,
        "metric": metric.metric,
        "value": metric.value,
        "headline": headline,
        "higher_is_better": metric.higher_is_better,
        "is_mean": metric.is_mean,
        "scores": dict(metric.scores),
    }


def log_fault(store: Store, cell_id: str) -> None:
    """Keep the traceback of an unexpected error for whoever has to mend it."""
    folder = store.path / "logs"
    with contextlib.suppress(OSError):  # the error itself is still reported
        folder.mkdir(exist_ok=True)
        (folder / f"{cell_id}.txt").write_text(traceback.format_exc(), encoding="utf-8")
