"""A run in several real processes that takes no time: the loop's model class, a stand-in model.

Batches, dealing, logs, merging and the whole run around them are real; the prompts are words and
the answers follow from the document's number and its companions in the batch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.bench.loop import CellResult, Sample
from harness.bench.scores import Metric
from harness.common import ranks
from harness.common.torchvision_ops import declare_missing_ops
from tests.fakes import FakeReferees, FakeRun, chance, fake_record, settings

declare_missing_ops()

DOCUMENTS = 23
BATCH = 4
SMALL: dict[str, Any] = {"methods": ("fastv",), "bench": ("gqa",), "batch_size": BATCH}
Before = Callable[[str, list[int]], None]  # label of the method, documents of a batch about to be


class Words:
    """A tokenizer: a token a word."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * len(text.split()) for text in texts]}


@dataclass
class FakePrompter:
    has_template: bool = True
    boxes: str = "frame01"
    family: Any = field(default_factory=lambda: SimpleNamespace(boxes_in_frame=True))
    processor: Any = field(default_factory=lambda: SimpleNamespace(tokenizer=Words()))
    model: Any = field(default_factory=lambda: SimpleNamespace(device="cpu"))

    def images(self, request: Any) -> list[Any]:
        return []


@dataclass
class FakeGenerator:
    """``before`` is called with every batch: to kill, to hang, to fail."""

    label: str
    kept: float
    before: Before | None = None
    context: int | None = None
    loaded: Any = field(default_factory=lambda: SimpleNamespace(dtype="float32"))

    def answer(self, batch: list[Any]) -> list[Any]:
        documents = [int(request.doc_id) for request in batch]
        if self.before is not None:
            self.before(self.label, documents)
        return [
            SimpleNamespace(
                text=f"{self.label} {doc} beside {documents}",
                n_out=3,
                image_id="",
                record=fake_record(self.kept, doc),
                prompt_ids=(),
                images=(),
                over_length=doc == 7,
                truncated=0,
                told=None,
            )
            for doc in documents
        ]

    def forget_features(self) -> None:
        pass


class Loop(FakeRun):
    """The main job with a stand-in model behind the loop's real model class."""

    def __init__(
        self, before: Before | None = None, engine: str = "ee", loading: float = 0.0
    ) -> None:
        super().__init__()
        self.before, self.code, self.loading = before, engine, loading

    def engine(self) -> str:
        return self.code

    def load(self, show: Any) -> Any:
        time.sleep(self.loading)
        return super().load(show)

    def counters(self) -> Any:
        return FakeReferees()

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        from harness.bench.lmms import RoutedModel
        from harness.store.held import PackedRecords
        from harness.store.response_log import ResponseLog

        kept = 1.0 if method.name == "dense" else 0.5
        dealer = options.get("dealer")
        number = dealer.number if dealer is not None else 0
        log = options["response_log"]
        lm = RoutedModel(
            FakePrompter(),  # type: ignore[arg-type]
            FakeGenerator(method.label, kept, self.before),  # type: ignore[arg-type]
            batch_size=options["batch_size"],
            seed=options["seed"],
            open_log=lambda print_: ResponseLog(log, print_, number),
            on_batch=options.get("on_batch"),
            pictured=lambda position: False,
            dealer=dealer,
        )
        lm.task_dict = {bench.task: {"test": list(range(DOCUMENTS))}}
        asked = [("word " * (doc % 5 + 1), doc) for doc in range(DOCUMENTS)]
        texts = lm.generate_until(
            [
                SimpleNamespace(args=(text, {"max_new_tokens": 4}, None, doc, bench.task, "test"))
                for text, doc in asked
            ]
        )
        records = PackedRecords()
        samples = []
        for doc, text in enumerate(texts):
            answer = lm.answers[bench.task, str(doc)]
            records.add(str(doc), answer.packed)
            score = float(chance(bench.name, text) < 0.6)
            samples.append(Sample(str(doc), score, answer.text, "yes", answer.n_out, f"i{doc}"))
        scores = {s.doc_id: s.score or 0.0 for s in samples}
        mean = sum(scores.values()) / len(scores)
        return CellResult(
            bench=bench.name,
            task=bench.task,
            task_version=bench.task_version,
            data=bench.data,
            n=len(samples),
            seconds=lm.seconds,
            metrics=(Metric(bench.task, "exact_match", mean, True, scores),),
            samples=tuple(samples),
            records=records,
            batch_size=lm.batch_size,
            notes=(*lm.notes, *lm.answer_notes),
            over_length=lm.tally.over_length,
        )


def together(out: Path, count: int, **how: Any) -> list[int]:
    """A run in ``count`` processes; returns their exit codes, negative for a signal.

    As a launcher does, ends the others when one has failed. ``how``: `before`, `engine` and
    `loading` of `Loop`, by rank where they are dicts; `rank_timeout`.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    processes = [
        fork.Process(target=_one, args=(out, number, count, port, how)) for number in range(count)
    ]
    for process in processes:
        process.start()
    until = time.monotonic() + 60
    while any(p.is_alive() for p in processes) and time.monotonic() < until:
        if any(p.exitcode for p in processes):
            time.sleep(0.2)  # what they say of it
            for process in processes:
                _end(process)
        time.sleep(0.02)
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
    return [process.exitcode or 0 for process in processes]


def _end(process: Any) -> None:
    if process.is_alive():
        process.terminate()
        process.join(2)
        if process.is_alive():
            process.kill()


def _one(out: Path, number: int, count: int, port: int, how: Any) -> None:
    """The life of one process, to its end."""
    from harness.common.errors import HarnessError, SaidElsewhere
    from harness.common.stops import PROGRAM, catch, tell
    from harness.jobs.exchange import join
    from harness.jobs.together import Leading, follow, lead

    class FirstLoop(Leading, Loop):
        pass

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_DFL)
    catch(lambda *_: os._exit(130))
    sys.stderr = open(out.parent / f"{out.name}.err.{number}", "w")  # noqa: SIM115
    mine = {k: v.get(number) if isinstance(v, dict) else v for k, v in how.items()}
    timeout = mine.pop("rank_timeout", None)
    rank = ranks.Rank(number, count, number, count, "127.0.0.1", port)
    ranks._claimed[:] = [rank]
    mine = {name: value for name, value in mine.items() if value is not None}
    job = (FirstLoop if rank.leads else Loop)(**mine)
    job.settings, job.argv = settings(out, **SMALL), ["--out", str(out)]
    try:
        with join(rank, timeout) as exchange:
            code = (lead if rank.leads else follow)(job, exchange)  # type: ignore[operator]
    except SaidElsewhere as error:
        code = error.exit_code
    except HarnessError as error:
        tell(f"{PROGRAM}: {error}")
        code = error.exit_code
    sys.stderr.flush()
    os._exit(code)


def said(out: Path, number: int = 0) -> str:
    """What a process wrote on standard error."""
    return (out.parent / f"{out.name}.err.{number}").read_text()
