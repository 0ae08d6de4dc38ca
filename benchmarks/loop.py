"""Samples per second of the evaluation loop against lmms-eval's own ``llava_hf``.

    python benchmarks/loop.py --out results/cpu-.../loop.csv

The same documents of the same benches by the same weights in the same dtype on the same machine,
the turns interleaved: once through lmms-eval's unmodified ``llava_hf`` model class (which allows
batch size 1 only), then through this project's loop with the method ``dense``, at batch size 1 and
larger. Both go through the same lmms-eval evaluator. Timed is each model class's whole
``generate_until``, and beside it (``whole_s``) the evaluation from task building to scores; model
loading is not. Every run of ours starts with an empty store of vision features and keeps the record
of four documents, as a cell does. Answers are compared document by document.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.threads import prepare  # noqa: E402

prepare()  # both loops wait as a run does

import torch  # noqa: E402

import methods  # noqa: E402
from harness.bench.benches import resolve_bench  # noqa: E402
from harness.bench.loop import evaluate  # noqa: E402
from harness.bench.quiet import quiet  # noqa: E402
from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402
from harness.model.catalog import load_model  # noqa: E402
from harness.statistics import stats  # noqa: E402
from harness.timing.device import busy_host, cpu_name  # noqa: E402

Answers = dict[str, str]  # document -> answer
Turn = Callable[[str], tuple[float, float, Answers]]  # bench -> seconds answering, whole; answers
KEPT = 4  # documents whose record a cell keeps
COLUMNS = ("bench", "n", "loop", "batch", "repeats", "samples_per_s", "slowest", "fastest") + (
    "whole_s",
    "ratio",
    "ratio_ci_low",
    "ratio_ci_high",
    "same_answers",
    "device",
    "threads",
    "dtype",
    "attn",
    "notes",
)


@contextmanager
def clocked(model_class: type) -> Iterator[list[float]]:
    """Collects the seconds of every ``generate_until`` of a model class."""
    answer, spent = model_class.generate_until, []  # type: ignore[attr-defined]

    def timed(model: Any, requests: Any) -> Any:
        began = time.perf_counter()
        found = answer(model, requests)
        spent.append(time.perf_counter() - began)
        return found

    with patch.object(model_class, "generate_until", timed):
        yield spent


def stock(folder: Path, limit: int) -> Turn:
    """lmms-eval's ``llava_hf`` as it stands.

    It imports a video reader that images never use; where that library is missing, an empty
    module of its name lets the import pass.
    """
    try:
        import decord  # noqa: F401
    except ImportError:
        empty = types.ModuleType("decord")
        empty.__dict__.update(VideoReader=None, cpu=None)
        sys.modules["decord"] = empty
    from lmms_eval.models.simple.llava_hf import LlavaHf

    with quiet():
        lm = LlavaHf(
            pretrained=str(folder),
            device="cpu",
            device_map="cpu",  # its default, "", is refused by transformers 5
            dtype="float32",
            attn_implementation="sdpa",
        )

    lm.__dict__["clean"] = lambda: None  # it would free the model of the next turn

    def turn(name: str) -> tuple[float, float, Answers]:
        from harness.bench.upstream import run_lmms_eval

        began = time.perf_counter()
        with quiet(), clocked(LlavaHf) as spent:
            results, _ = run_lmms_eval(lm, resolve_bench(name, mini_model=True), limit, 0)
        whole = time.perf_counter() - began
        rows = [row for rows in results["samples"].values() for row in rows]
        answers = {str(row["doc_id"]): str(row["resps"][0][0]).strip() for row in rows}
        return sum(spent), whole, answers

    return turn


def ours(folder: Path, limit: int, batch: int) -> Turn:
    """This project's loop."""
    loaded = load_model(str(folder), device="cpu")
    dense = methods.parse("dense")

    def turn(name: str) -> tuple[float, float, Answers]:
        from harness.bench.lmms import RoutedModel

        if loaded.features is not None:
            loaded.features.clear()
        began = time.perf_counter()
        with clocked(RoutedModel) as spent:
            found = evaluate(
                loaded,
                dense,
                resolve_bench(name, mini_model=True),
                limit=limit,
                batch_size=batch,
                progress=False,
                pictured=lambda position: position < KEPT,
            )
        whole = time.perf_counter() - began
        return sum(spent), whole, {s.doc_id: s.prediction for s in found.samples}

    return turn


def measure(turns: dict[tuple[str, int], Turn], bench: str, repeats: int) -> list[dict[str, Any]]:
    """Rows of one bench; all loops take turns, forwards and backwards."""
    times: dict[tuple[str, int], list[float]] = {key: [] for key in turns}
    wholes: dict[tuple[str, int], list[float]] = {key: [] for key in turns}
    answers: dict[tuple[str, int], Answers] = {}
    for number in range(-1, repeats):  # the first turn warms up
        for key in list(turns) if number % 2 == 0 else reversed(list(turns)):
            seconds, whole, answers[key] = turns[key](bench)
            if number >= 0:
                times[key].append(seconds)
                wholes[key].append(whole)
    first = next(iter(turns))
    rows = [row(bench, key, times, answers, first) for key in turns]
    for one, key in zip(rows, turns, strict=True):
        one["whole_s"] = round(float(np.median(wholes[key])), 2)
    return rows


def row(bench: str, key: Any, times: Any, answers: Any, first: Any) -> dict[str, Any]:
    mine, base = np.array(times[key]), np.array(times[first])
    ratio = stats.ratio_of_medians(base, mine)
    n = len(answers[key])
    same = sum(answers[first].get(doc) == text for doc, text in answers[key].items()) / n
    return {
        "bench": bench,
        "n": n,
        "loop": key[0],
        "batch": key[1],
        "repeats": mine.size,
        "samples_per_s": round(n / float(np.median(mine)), 2),
        "slowest": round(n / mine.max(), 2),
        "fastest": round(n / mine.min(), 2),
        "ratio": round(ratio.value, 3),
        "ratio_ci_low": None if ratio.low is None else round(ratio.low, 3),
        "ratio_ci_high": None if ratio.high is None else round(ratio.high, 3),
        "same_answers": round(same, 4),
        "device": cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": "float32",
        "attn": "sdpa",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=ROOT / "assets" / "tiny-llava")
    parser.add_argument("--bench", nargs="*", default=["gqa", "textvqa"])
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 16])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/loop.csv"))
    options = parser.parse_args(argv)
    declare_missing_ops()
    note = busy_host() or ""
    turns = {("llava_hf", 1): stock(options.model, options.limit)}
    turns |= {("ours", b): ours(options.model, options.limit, b) for b in options.batches}
    rows = []
    for bench in options.bench:
        for line in measure(turns, bench, options.repeats):
            rows.append(line | {"notes": note})
            print("  ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
