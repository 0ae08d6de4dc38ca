"""The made-up cells of `benchmarks.large_runs`, through the real commit path, in one process.

    python -m benchmarks.large_cells RUN METHODS BENCHES DOCUMENTS TOKENS LAYERS DISTINCT
    python -m benchmarks.large_cells view RUN

Prints seconds of processor by step as one JSON object. Every third bench scores in tenths as VQA
does, every second one shows an image to three questions.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.bench.loop import CellResult, Sample
from harness.bench.scores import Metric
from harness.families.catalog import shape_from_config
from harness.families.shapes import ModelShape
from harness.jobs import benchmarks as job
from harness.readouts.derive import Derived
from harness.readouts.stored import referees_of
from harness.store.held import PackedRecords
from harness.store.packing import pack
from harness.store.record import DROPPED, IMAGE, SKIPPED, RoutingRecord, dense_record
from harness.store.records import Basis
from reports.samples.index import Index
from tests.fakes import FakeBench, FakeRun, FakeSession, FakeSource
from tests.fakes import run as run_job

SPENT: dict[str, float] = defaultdict(float)
VQA = (0.0, 0.3, 0.6, 0.9, 1.0)


def config_of(tokens: int, layers: int) -> dict[str, Any]:
    """A LLaVA-1.5 of the 7B's sizes, with so many image tokens and layers."""
    side = round(tokens**0.5)
    tower = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
    tower |= {"patch_size": 14, "image_size": 14 * side, "num_attention_heads": 16}
    text = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008}
    text |= {"num_hidden_layers": layers, "num_attention_heads": 32, "vocab_size": 32064}
    vision = {"model_type": "clip_vision_model", **tower}
    return {"model_type": "llava", "text_config": text, "vision_config": vision}


def specs(count: int) -> tuple[str, ...]:
    """That many rows beside dense: methods at several budgets, so that controls match."""
    found = [f"fastv:r={r}" for r in (0.5, 0.75, 0.9, 0.25)]
    found += [f"{name}:ratio={r}" for name in ("random", "uniform") for r in (0.5, 0.25, 0.1)]
    found += [f"fastv:k={k}:r={r}" for k in (3, 5, 8, 12) for r in (0.5, 0.75, 0.9)]
    return tuple(found[:count])


def _away(params: dict[str, Any]) -> float:
    """The share of image tokens that such a row leaves out."""
    kept = params.get("ratio")
    return float(params.get("r") or 0.0) if kept is None else 1.0 - float(kept)


class Made(FakeRun):
    """The main job on records of a real model's sizes."""

    def __init__(self, tokens: int, layers: int, distinct: int) -> None:
        super().__init__()
        self.config = config_of(tokens, layers)
        self.tokens, self.distinct = tokens, distinct
        self.shape: ModelShape = shape_from_config(self.config, "made")
        self.model = FakeSource(model_id="made", info=self.shape)
        self.pools: dict[str, list[bytes]] = {}

    def bench(self, name: str, source: Any) -> Any:
        return FakeBench(name, documents=None)

    def load(self, show: Any) -> Any:
        return FakeSession(info=self.shape, config=self.config)

    def counters(self) -> Any:
        return referees_of(Basis("made", self.config, 2, True))

    def report(self, out: Path) -> Path:
        from reports.build import build_report

        return timed("report", lambda: Path(build_report(out)))

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        return timed("make", lambda: self._result(method, bench, **options))

    def _result(self, method: Any, bench: Any, **options: Any) -> Any:
        count = options["limit"]
        records = PackedRecords()
        pool = self._pool(method.spec, _away(method.params()))
        for doc in range(count):
            records.add(str(doc), pool[doc % len(pool)])
        number = int(bench.name.removeprefix("bench"))
        rng = np.random.default_rng([number, len(method.spec), *method.spec.encode()])
        hard = np.random.default_rng(number).random(count)
        right = hard + 0.15 * rng.standard_normal(count) < (0.62 if method.name == "dense" else 0.6)
        scores = right.astype(float)
        if number % 3 == 2:
            scores = np.where(right, rng.choice(VQA[1:], count), 0.0).astype(float)
        shown = 3 if number % 2 else 1
        samples = [
            Sample(
                doc_id=str(doc),
                score=score,
                prediction=f"answer {doc % 97 if score else 'none'}",
                target=f"answer {doc % 97}",
                n_out=4,
                image_id=f"{number:04x}{doc // shown:012x}",
                picture={"images": [], "words": []} if options["pictured"](doc) else None,
            )
            for doc, score in enumerate(scores.tolist())
        ]
        by_doc = {sample.doc_id: float(sample.score or 0.0) for sample in samples}
        value = sum(by_doc.values()) / count
        return CellResult(
            bench=bench.name, task=bench.task, task_version="1", data="mini", n=count,
            seconds=0.5, metrics=(Metric(bench.task, "exact_match", value, True, by_doc),),
            samples=tuple(samples), records=records, batch_size=options["batch_size"],
        )  # fmt: skip

    def _pool(self, spec: str, share: float) -> list[bytes]:
        if spec not in self.pools:
            rng = np.random.default_rng([*spec.encode()])
            self.pools[spec] = [pack(self._record(spec, share, rng)) for _ in range(self.distinct)]
        return self.pools[spec]

    def _record(self, spec: str, share: float, rng: np.random.Generator) -> RoutingRecord:
        """Dense; one choice from a layer on; or, every fourth spec, a choice a layer."""
        n_text, n_out = int(rng.integers(40, 70)), int(rng.integers(2, 8))
        record = dense_record(n_text, self.tokens, self.shape.layers, n_out, prefix=35)
        record.scoring = [{"phase": "prompt", "kind": "last_row", "tokens": record.n, "calls": 1}]
        if not share:
            record.scoring = []
            return record
        image = np.flatnonzero(record.kinds == IMAGE)
        away = int(share * image.size)
        if sum(spec.encode()) % 4 == 0:
            for layer in range(2, record.layers):
                record.route[layer, rng.permutation(image)[:away]] = SKIPPED
        else:
            record.route[3:, rng.permutation(image)[:away]] = DROPPED
        record.mod_layers[3:] = True
        return record


def timed(name: str, call: Callable[[], Any]) -> Any:
    begun = time.process_time()
    try:
        return call()
    finally:
        SPENT[name] += time.process_time() - begun
        SPENT[f"last_{name}"] = time.process_time() - begun


class Timed(Derived):
    def write(self, *words: Any, **named: Any) -> None:
        timed("tables", lambda: super(Timed, self).write(*words, **named))


def make(run: Path, methods: int, benches: int, documents: int, *records: int) -> None:
    """The run, or what is missing of it; prints seconds by step."""
    commit = job.run_cell
    job.run_cell = lambda *w, **n: timed("commit", lambda: commit(*w, **n))
    job.Derived = Timed  # type: ignore[misc]
    made = Made(*records)
    names = tuple(f"bench{number}" for number in range(benches))
    code = run_job(run, made, methods=specs(methods - 1), bench=names, limit=documents)
    SPENT["commit"] -= SPENT.pop("make", 0.0)
    SPENT["last_commit"] -= SPENT.pop("last_make", 0.0)
    print(json.dumps(SPENT))
    raise SystemExit(code)


def view(run: Path) -> None:
    """The index that `modsuite view` builds."""
    with tempfile.TemporaryDirectory() as folder:
        Index(run, Path(folder)).build()


if __name__ == "__main__":
    if sys.argv[1] == "view":
        view(Path(sys.argv[2]))
    else:
        make(Path(sys.argv[1]), *map(int, sys.argv[2:]))
