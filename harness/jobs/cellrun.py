"""One cell: evaluate it, turn the result into rows, write it down whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import functools
import traceback
from typing import TYPE_CHECKING, Any

from harness.common.conditions import ITEMSIZE
from harness.common.errors import CellError, HarnessError, StoreError, one_line
from harness.common.ranks import this
from harness.common.threads import in_use
from harness.options.runtime import DENSE
from harness.readouts.stored import ANSWERS, read_out_cell
from harness.store.cells import params_json
from harness.store.pictures import PICTURED, save_image, write_pictures
from harness.store.records import Basis, write_records
from harness.store.rundir import DONE, FAILED, Store
from harness.store.runinfo import now
from harness.store.submissions import write_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.common.progress import OnBatch
    from harness.jobs.grid import Cell

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
    try:
        result = evaluate(
            loaded,
            cell.method,
            cell.bench,
            **asked(cell, store, verbose),
            on_batch=on_batch,
            on_image=functools.partial(save_image, store.path / "routing"),
            attention=cell.method.name == DENSE,
        )
        if not result.samples:
            raise CellError(f"{cell.bench.name}: no documents")
        vision_runs = cell.method.needs_images
        basis = Basis(key.model, loaded.config, ITEMSIZE[key.dtype], vision_runs)
        _commit(cell, result, store, basis, referees)
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


def asked(cell: Cell, store: Store, verbose: bool) -> dict[str, Any]:
    """What every process that answers a cell asks of `evaluate`."""
    key = cell.key
    return {
        "checkpoint": cell.checkpoint,
        "limit": key.limit,
        "batch_size": key.batch_size,
        "seed": key.seed,
        "sample": key.sample,
        "progress": False,
        "response_log": store.partial_dir(key.cell_id) / "answers.jsonl",
        "pictured": lambda position: position < PICTURED,
        "verbose": verbose,
        "allow": key.allow,
    }


def _commit(cell: Cell, result: Any, store: Store, basis: Basis, referees: Any) -> None:
    """Answers first, then what is read out of their records, the row last.

    A cell without its row does not count.
    """
    key = cell.key.ran_at(result.batch_size)
    shown = {s.doc_id: s for s in result.samples if s.picture}
    pictured = {doc_id: result.records[doc_id] for doc_id in shown}
    write_pictures(store.routing_dir(key.cell_id), pictured, shown, result.attention)
    metrics = [m.entry(headline=m is result.headline) for m in result.metrics]
    store.write_metrics(key.cell_id, metrics)
    if result.files or store.submissions_dir(key.cell_id).is_dir():
        write_files(store.submissions_dir(key.cell_id), result.files)
    write_records(store.records_gz(key.cell_id), basis, result.records)
    answers = ({name: getattr(sample, name) for name in ANSWERS} for sample in result.samples)
    store.write_answers(key.cell_id, answers)
    read_out_cell(store, key.cell_id, referees=lambda basis: referees)
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
            "rank_count": this().count,
            "notes": "; ".join([*result.notes, *weights_notes(cell)]),
            "finished_at": now(),
        }
    )
    store.drop_partial(cell.key.cell_id)


def told(result: Any) -> str:
    """What a line of progress says of a finished cell."""
    first = result.headline
    if first.not_scored:
        return f"not scored: {first.not_scored} ({result.n} samples, {result.seconds:.1f} s)"
    return f"{first.metric} {first.value:.4g} ({result.n} samples, {result.seconds:.1f} s)"


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
        "protocol": key.protocol,
        "threads": in_use() if key.device == "cpu" else None,
    }


def log_fault(store: Store, cell_id: str) -> None:
    """Keep the traceback of an unexpected error for whoever has to mend it."""
    folder = store.path / "logs"
    with contextlib.suppress(OSError):  # the error itself is still reported
        folder.mkdir(exist_ok=True)
        (folder / f"{cell_id}.txt").write_text(traceback.format_exc(), encoding="utf-8")
