"""The evaluation loop: one method on one bench, through lmms-eval, to metrics and samples.

lmms-eval makes the prompts, scores and aggregates, unmodified; our model class answers; its
response cache stays off (it would key on neither method nor parameters). Importing this module
is cheap: torch and lmms-eval come in when :func:`evaluate` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.bench.benches import Bench, resolve_bench
from harness.bench.scores import Metric, doc_key, lacks_answer, target_text
from harness.common.conditions import AUTO_BATCH
from harness.common.errors import CellError

if TYPE_CHECKING:
    from harness.bench.batches import OnBatch
    from harness.bench.dealing import Dealer
    from harness.bench.keeping import OnImage
    from harness.model.session import Session
    from harness.store.record import RoutingRecord


@dataclass(frozen=True)
class Sample:
    """One document's row: ``score`` under the headline metric, None if that leaves it out.

    ``image_id`` is a content hash of the document's images ("" without any). ``cluster``: what it
    belongs to where that is not its image. ``picture``: what a picture of it needs, where one was
    asked for.
    """

    doc_id: str
    score: float | None
    prediction: str
    target: str
    n_out: int
    image_id: str = ""
    cluster: str = ""
    picture: dict[str, Any] | None = None


@dataclass(frozen=True)
class CellResult:
    """Everything a finished cell knows.

    ``metrics[0]`` is the headline. ``seconds`` is the time spent answering, over all attempts of
    a resumed cell. ``batch_size`` is the one that ran last: smaller than asked for after memory
    ran out. ``notes`` are lines for the report's conditions. ``attention``: see ``evaluate``.
    ``over_length``: samples longer than the model's context. ``truncated_images``: images from
    files that end too early, counted in every sample that shows them. ``files``: what is to be
    handed in to a server or a judge, by name.
    """

    bench: str
    task: str
    task_version: str
    data: str
    n: int
    seconds: float
    metrics: tuple[Metric, ...]
    samples: tuple[Sample, ...]
    records: Mapping[str, RoutingRecord] = field(repr=False)
    batch_size: int = 1
    max_new_tokens: int = 0
    notes: tuple[str, ...] = ()
    attention: dict[str, Any] | None = field(default=None, repr=False)
    over_length: int = 0
    truncated_images: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def headline(self) -> Metric:
        """The metric the bench is known by."""
        return self.metrics[0]


def evaluate(
    loaded: Session,
    method: Any,
    bench: Bench | str,
    *,
    checkpoint: Path | str | None = None,
    limit: int | None = None,
    batch_size: int | str = 1,
    seed: int = 0,
    progress: bool = True,
    response_log: Path | str | None = None,
    on_batch: OnBatch | None = None,
    pictured: Callable[[int], bool] | None = None,
    on_image: OnImage | None = None,
    attention: bool = False,
    sample: bool = False,
    share_features: bool = True,
    max_new_tokens: int | None = None,
    verbose: bool = False,
    allow: Sequence[str] = (),
    dealer: Dealer | None = None,
) -> CellResult:
    """Run one cell.

    ``checkpoint``: folder of the method's trained weights on this model. ``limit``: the first N
    documents. ``batch_size``: a number, or ``auto``. ``response_log``: file that lets a killed cell
    go on. ``on_batch(answered, all)`` is called while it runs. ``pictured(position)`` chooses the
    documents that are pictured (all): ``on_image(image_id, image)`` gets their images.
    ``attention``: also the attention maps of the first of them, of the model without any method.
    ``progress`` shows a bar of our own. ``sample`` allows sampling where a task asks for it.
    ``max_new_tokens``: for tasks that set none. ``allow``: ``over-length`` answers samples longer
    than the model's context. ``dealer``: several processes answer the cell together, see
    `harness.bench.dealing`.

    Raises UsageError and CellError, one line each; other exceptions are faults.
    """
    if isinstance(bench, str):
        bench = resolve_bench(bench, mini_model=loaded.mini)
    bench.require(limit)
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from harness.bench.generation import Generator
    from harness.bench.guard import Scoring
    from harness.bench.lmms import RoutedModel
    from harness.bench.outcome import outcome
    from harness.bench.quiet import quiet
    from harness.bench.request import MAX_NEW_TOKENS
    from harness.bench.upstream import run_lmms_eval
    from harness.store.held import LoggedRecords
    from harness.store.response_log import ResponseLog

    path = Path(response_log) if response_log is not None else None
    number = dealer.number if dealer is not None else 0
    if isinstance(batch_size, str):
        batch_size = AUTO_BATCH[loaded.model.device.type]
    scoring = Scoring()
    with (
        quiet(verbose),
        scoring.guarded(),
        TemporaryDirectory() as output,
        loaded.under(method, checkpoint, share_features) as (run, sharing),
        _display(progress, on_batch, f"{method.label} on {bench.name}") as shown,
    ):
        generator = Generator(loaded, run, sharing, method.label, allow, seed)
        lm = RoutedModel(
            generator.prompter,
            generator,
            batch_size=batch_size,
            seed=seed,
            sample=sample,
            max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
            open_log=lambda print_: ResponseLog(path, f"{method.spec} {print_}", number),
            on_batch=shown,
            pictured=pictured,
            on_image=on_image,
            dealer=dealer,
        )
        results, tasks = run_lmms_eval(lm, bench, limit, seed, Path(output), scoring)
        found = outcome(results, tasks, bench, scoring, Path(output), lm.answers)
        found = replace(found, metrics=tuple(_named(list(found.metrics), bench)))
    maps = _attention(loaded, method, checkpoint, lm, bench) if attention else None
    records = LoggedRecords(lm.answers)
    samples = tuple(_samples(results, tasks, found.metrics[0], lm.answers, records, bench))
    return CellResult(
        bench=bench.name,
        task=bench.task,
        task_version=bench.task_version,
        data=bench.data,
        n=len(samples),
        seconds=lm.seconds,
        metrics=found.metrics,
        samples=samples,
        records=records,
        batch_size=lm.batch_size,
        max_new_tokens=lm.max_new_tokens,
        notes=(*bench.notes, *loaded.notes, *lm.notes, *lm.answer_notes, *found.notes),
        attention=maps,
        over_length=lm.tally.over_length,
        truncated_images=lm.tally.truncated,
        files=found.files,
    )


def _attention(
    loaded: Session, method: Any, checkpoint: Path | str | None, lm: Any, bench: Bench
) -> dict[str, Any] | None:
    """Maps of the first shown sample, with the cell's weights; None where there is no sample."""
    from harness.engine.attention import head_mean_maps

    if lm.first is None:
        return None
    with loaded.tuned(method, checkpoint):
        maps = head_mean_maps(loaded.model, lm.prompter.inputs_of(lm.first))
    name = bench.names.get(lm.first.doc_id, lm.first.doc_id)
    return None if maps is None else {"doc_id": name, **maps}


def _named(metrics: Sequence[Metric], bench: Bench) -> list[Metric]:
    """Metrics whose scores go by the names that the bench has for its documents."""
    names = bench.names
    return [replace(m, scores={names.get(k, k): v for k, v in m.scores.items()}) for m in metrics]


def _samples(
    results: Mapping[str, Any],
    tasks: Mapping[str, Any],
    headline: Metric,
    answers: Mapping[tuple[str, str], Any],
    records: Any,
    bench: Bench,
) -> Iterator[Sample]:
    """One row a document, in lmms-eval's order; ``records`` learns where their records are."""
    grouped, names, clusters = len(tasks) > 1, bench.names, bench.clusters
    for name, task in tasks.items():
        seen = set()
        for row in results["samples"].get(name, []):
            key = doc_key(row["doc_id"], name if grouped else "")
            key = names.get(key, key)
            if key in seen:
                continue  # the same document under another answer filter
            seen.add(key)
            asked = name, str(row["doc_id"])
            answer = answers[asked]
            if headline.scores.get(key) is not None and lacks_answer(row, task):
                raise CellError(f"{name}: document {row['doc_id']} has no answer to score against")
            records.find(key, asked)
            yield Sample(
                doc_id=key,
                score=headline.scores.get(key),
                prediction=answer.text,
                target=target_text(row, task),
                n_out=answer.n_out,
                image_id=answer.image_id,
                cluster=clusters.get(key, ""),
                picture=answer.picture,
            )


@contextmanager
def _display(progress: bool, on_batch: OnBatch | None, title: str) -> Iterator[OnBatch]:
    """What to call after each batch: our bar, the caller's function, or both."""
    import sys

    from harness.bench.quiet import Bar, audible

    bar = Bar(desc=title, unit="sample", file=sys.stderr, dynamic_ncols=True) if progress else None

    def shown(answered: int, everything: int) -> None:
        if bar is not None:
            bar.total = everything
            bar.update(answered - bar.n)
        if on_batch is not None:
            with audible(sys.__stdout__):
                on_batch(answered, everything)

    try:
        yield shown
    finally:
        if bar is not None:
            bar.close()
