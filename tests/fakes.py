"""Stand-ins for model, benches and evaluation: the orchestration runs for real around them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.bench.loop import CellResult, Sample
from harness.bench.scores import Metric
from harness.families.catalog import shape_from_config
from harness.families.shapes import ModelShape
from harness.jobs.benchmarks import Benchmarks
from harness.jobs.runner import run as run_job
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.store.record import DROPPED, IMAGE, RoutingRecord, dense_record

if TYPE_CHECKING:  # processes that tests start need no pytest
    import pytest

TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "patch_size": 14}
DECODER = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
CONFIG = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", **DECODER},
    "vision_config": {"model_type": "clip_vision_model", **TOWER, "image_size": 56},
}
SHAPE = shape_from_config(CONFIG, "fake")
DOCUMENTS = 24


class FakeReferees:
    """No counters: they take a second to examine a model."""

    def described(self) -> dict[str, Any]:
        return {}

    def sample(self, *args: Any) -> dict[str, Any]:
        return {}


def without_counters(patch: pytest.MonkeyPatch) -> None:
    """From here on runs have no counters of FLOPs; the fixture `uncounted` does so for a test."""
    patch.setattr("harness.cost.referees.referees_for", lambda *_: FakeReferees())


def without_report(patch: pytest.MonkeyPatch) -> None:
    """From here on no report is drawn; the fixture `undrawn` does so for a test."""
    patch.setattr("reports.build.build_report", lambda run, *_: run / "report.html")


@dataclass
class FakeSource:
    model_id: str = "fake-model"
    revision: str | None = None
    weight_hashes: dict[str, str] = field(default_factory=lambda: {"model.safetensors": "aa"})
    setting_hashes: dict[str, str] = field(default_factory=lambda: {"config.json": "cc"})
    processor_hash: str = "pp"
    mini: bool = True
    info: ModelShape = SHAPE

    @property
    def file_hashes(self) -> dict[str, str]:
        return {**self.weight_hashes, **self.setting_hashes}


@dataclass
class FakeBench:
    name: str
    data: str = "mini"
    task_version: str = "1"
    content: str = "ff"
    documents: int | None = DOCUMENTS
    data_source: str = "documents@ff"

    def fingerprint(self, limit: int | None = None) -> str:
        return self.content

    @property
    def task(self) -> str:
        return f"{self.name}_task"

    def require(self, limit: int | None = None) -> None:
        pass


@dataclass
class FakeSession:
    """The interface of `harness.model.session.Session` that a run needs, without a model."""

    info: ModelShape = SHAPE
    device_name: str = "cpu"
    config: dict[str, Any] = field(default_factory=lambda: CONFIG)
    image_processor: dict[str, Any] = field(default_factory=dict)

    def check(self, method: Any, checkpoint: Path | None) -> None:
        pass


def chance(*words: Any) -> float:
    """A number in 0..1 that depends on the words only."""
    digest = hashlib.sha256(json.dumps([str(w) for w in words]).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def fake_record(kept: float, doc: int, n_out: int = 3) -> RoutingRecord:
    """9 text and 16 image tokens, of which a share is kept from layer 1 on."""
    record = dense_record(9 + doc % 3, 16, SHAPE.layers, n_out=n_out, prefix=4)
    image = (record.kinds == IMAGE).nonzero()[0]
    record.scoring = [{"phase": "prompt", "kind": "last_row", "tokens": record.n, "calls": 1}]
    if kept < 1:
        record.route[1:, image[int(16 * kept) :]] = DROPPED
        record.mod_layers[1:] = True
    return record


class FakeRun(Benchmarks):
    """The main job on a made-up model and benches.

    `fail`: method name -> exception to raise; `pause`: seconds per answer; `on_answer` is
    called after each one (to interrupt). `computed` lists the cells that were evaluated."""

    def __init__(
        self,
        fail: dict[str, Exception] | None = None,
        pause: float = 0.0,
        on_answer: Callable[[str, int], None] | None = None,
        batch_that_fits: int | None = None,
        prediction: str = 'a "quoted", answer\nof two lines',
    ) -> None:
        super().__init__(Settings(), [])
        self.prediction = prediction
        self.fail = fail or {}
        self.pause = pause
        self.on_answer = on_answer
        self.batch_that_fits = batch_that_fits
        self.model = FakeSource()
        self.computed: list[str] = []
        self.answered = 0
        self.loads = 0

    def engine(self) -> str:
        return "ee"

    def source(self) -> Any:
        return self.model

    def runtime(self, source: Any) -> Runtime:
        return Runtime("cpu", "float32", "sdpa")

    def bench(self, name: str, source: Any) -> Any:
        return FakeBench(name)

    def load(self, show: Any) -> Any:
        self.loads += 1
        return FakeSession()

    def counters(self) -> Any:
        return FakeReferees()

    def report(self, out: Path) -> Path:
        (out / "report.html").write_text("<p>a report</p>")
        return out / "report.html"

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        self.computed.append(f"{method.spec} {bench.name}")
        if method.name in self.fail:
            raise self.fail[method.name]
        kept = 1.0 if method.name == "dense" else 0.5
        samples = list(self._samples(method, bench, **options))
        scores = {s.doc_id: s.score or 0.0 for s in samples}
        value = sum(scores.values()) / len(scores)
        batch = min(options["batch_size"], self.batch_that_fits or options["batch_size"])
        return CellResult(
            bench=bench.name,
            task=bench.task,
            task_version=bench.task_version,
            data=bench.data,
            n=len(samples),
            seconds=0.5,
            metrics=(
                Metric(bench.task, "exact_match", value, True, scores),
                Metric(bench.task, "f1", value / 2, True, {}, is_mean=False),
            ),
            samples=tuple(samples),
            records={s.doc_id: fake_record(kept, int(s.doc_id)) for s in samples},
            batch_size=batch,
        )

    def _samples(self, method: Any, bench: Any, **options: Any) -> Sequence[Sample]:
        """Answers, written down one by one and taken up again, like the real loop's."""
        log = Path(options["response_log"])
        log.parent.mkdir(parents=True, exist_ok=True)
        text = log.read_text() if log.exists() else ""
        known = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        samples = [Sample(**row) for row in known]
        for doc in range(len(samples), options["limit"] or DOCUMENTS):
            if self.pause:
                time.sleep(self.pause)
            level = 0.8 if method.name == "dense" else 0.55
            sample = Sample(
                doc_id=str(doc),
                score=float(chance(bench.name, doc) < level),
                prediction=self.prediction,
                target="yes",
                n_out=4,
                image_id=f"image-{doc // 2}",
                picture={"images": [], "words": []} if options["pictured"](doc) else None,
            )
            samples.append(sample)
            with log.open("a") as file:
                file.write(json.dumps(sample.__dict__) + "\n")
            self.answered += 1
            if options["on_batch"]:
                options["on_batch"](doc, DOCUMENTS)
            if self.on_answer:
                self.on_answer(method.name, doc)
        return samples


DERIVED = tuple(
    f"{name}.csv"
    for name in ("accuracy", "averages", "comparisons", "controls", "cost", "fronts", "routing")
)


def settings(out: Path, **changes: Any) -> Settings:
    base = Settings(methods=("fastv", "random"), bench=("gqa", "pope"), out=str(out), quiet=True)
    return dataclasses.replace(base, **changes)


def run(out: Path, job: Benchmarks | None = None, **changes: Any) -> int:
    job = job or FakeRun()
    job.settings, job.argv = settings(out, **changes), ["--out", str(out)]
    return run_job(job)


def derived(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in DERIVED}
