"""Do batch size and threads change answers? Every shipped method on the mini documents.

    python benchmarks/same.py [--methods dense,pmod] [--limit 200] [--out same.csv]

Each method answers the same documents at batch 1 with one thread, at batch 8 with one thread and
at batch 8 with two. Counted are documents whose answer, and whose routing record, are the same as
at batch 8 with one thread. A row is written when its method is done.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.threads import prepare  # noqa: E402

prepare()

import torch  # noqa: E402

from harness.bench.loop import evaluate  # noqa: E402
from harness.common.errors import HarnessError, one_line  # noqa: E402
from harness.jobs.resolve import (  # noqa: E402
    find_checkpoints,
    named_methods,
    with_dense,
    with_trained_parameters,
)
from harness.model.catalog import load_model  # noqa: E402
from harness.options.settings import Settings  # noqa: E402
from harness.timing.device import cpu_name  # noqa: E402
from methods.params import MethodError  # noqa: E402

COLUMNS = ("bench", "method", "n", "same_answers_batch_1", "same_records_batch_1") + (
    "same_answers_threads_2",
    "same_records_threads_2",
    "score_batch_1",
    "score_batch_8",
    "device",
    "notes",
)
RUNS = {"batch_1": (1, 1), "base": (8, 1), "threads_2": (8, 2)}  # batch, threads


def compared(session: Any, method: Any, checkpoint: Path | None, bench: str, limit: int) -> Any:
    """One row of the table."""
    found = {}
    for name, (batch, threads) in RUNS.items():
        torch.set_num_threads(threads)
        found[name] = evaluate(
            session, method, bench, checkpoint=checkpoint, limit=limit, batch_size=batch,
            progress=False, pictured=lambda position: False,
        )  # fmt: skip
    base = found.pop("base")
    row: dict[str, Any] = {"bench": bench, "method": method.spec, "n": base.n}
    for name, other in found.items():
        pairs = list(zip(base.samples, other.samples, strict=True))
        same = [a.prediction == b.prediction and a.n_out == b.n_out for a, b in pairs]
        row[f"same_answers_{name}"] = sum(same)
        row[f"same_records_{name}"] = sum(
            base.records[a.doc_id].route.tobytes() == other.records[a.doc_id].route.tobytes()
            for a, _ in pairs
        )
    row["score_batch_8"] = round(base.headline.value, 6)
    row["score_batch_1"] = round(found["batch_1"].headline.value, 6)
    return row | {"device": cpu_name()}


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print, write the CSV row by row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny-llava")
    parser.add_argument("--methods", default="")
    parser.add_argument("--bench", default="gqa")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/same.csv"))
    asked = parser.parse_args(argv)
    import methods as registry

    session = load_model(asked.model, device="cpu")
    names = asked.methods.split(",") if asked.methods else list(registry.REGISTRY)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    with asked.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for name in names:
            try:
                every = with_dense(named_methods([name]))
                weights = find_checkpoints(Settings(), every, session.source)
                method = with_trained_parameters(every, weights)[-1]
                session.check(method, weights.get(method.name))
                path = weights.get(method.name)
                row = compared(session, method, path, asked.bench, asked.limit)
            except (HarnessError, MethodError) as error:  # needs what this model has not
                row = {"bench": asked.bench, "method": name, "notes": one_line(error, 120)}
            print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
            writer.writerow(row)
            file.flush()


if __name__ == "__main__":
    main()
