"""What a run was asked to do: every option of the command line, declared once.

Torch-free. A field of `Settings` is a flag and a key of suite files; a new option is a new field.
Every value goes through its check whether it came from a flag or from a suite; a bad one is a
`UsageError` of one line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from harness.common import conditions
from harness.common.errors import UsageError
from harness.common.protocol import ASPECTS, BOXES, LMMS_EVAL, TEMPLATES, Protocol, asked_for
from harness.common.roots import DATA
from harness.options import option, validators
from harness.options.gpus import parse_gpu
from harness.options.option import (
    MEASURING,
    ON_BENCHES,
    RUNS,
    WRITING,
    JobKind,
    Option,
    Record,
    checked,
    flag,
    setting,
)
from harness.options.validators import natural, non_empty, one_of, positive, seconds, share

SUITES = DATA / "suites"
LIST_KINDS = ("methods", "benches", "models", "suites", "protocols")

_do = partial(setting, group=option.DO)
_analysis = partial(setting, group=option.LAYERS, jobs=ON_BENCHES, record=Record.SET)
_timing = partial(setting, group=option.TIMES, jobs=MEASURING, record=Record.USED)
_shape = partial(setting, group=option.TIMES, jobs=JobKind.THROUGHPUT, record=Record.USED)
COSTS = JobKind.COSTS_ONLY | JobKind.PUBLISHED
_asking = partial(setting, jobs=ON_BENCHES, record=Record.SET)
ASKING = ("protocol", "image_aspect", "template", "ocr", "boxes")  # recorded as one protocol
_free = partial(setting, jobs=~JobKind(0), record=Record.NEVER)
_workers = partial(  # who computes which cells changes no number
    setting, group=option.DO, jobs=ON_BENCHES, record=Record.NEVER, in_suites=False
)


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; `out`, `quiet`, `verbose`, and who computes which cells
    (`shard`, `jobs`, `cluster`), are the only ones that cannot change a number; `margin` changes
    verdicts only, `against` what is shown first."""

    methods: tuple[str, ...] = _do(
        (),
        validators.comma_list,
        "LIST",
        help="comma list of name[:key=value]..., see --list methods; a name may be the path of a "
        "FILE.py that defines a method",
    )
    budgets: tuple[str, ...] = _do(
        (),
        validators.budgets,
        "LIST",
        help="one row a budget for every method that takes one: shares of the image's KV cache "
        "(0.5,0.33,0.22) or tokens of one image (192,128,64)",
        record=Record.NEVER,  # the rows stand among the methods then
    )
    controls: bool = _do(
        False,
        help="add random, uniform, pool and downsample at the budget of every method, and blind",
        jobs=ON_BENCHES,
        record=Record.NEVER,  # they stand among the methods then
    )
    slice: str | None = _do(
        None,
        one_of("slice", ("hard",)),
        "hard",
        help="hard: an extra table on the documents that dense answers rightly, and wrongly at a "
        "quarter of the pixels (one more cell a bench)",
        jobs=ON_BENCHES,
        record=Record.NEVER,  # it adds cells and tables, and changes none
    )
    bench: tuple[str, ...] = _do(
        (),
        validators.benches,
        "LIST",
        help="comma list from --list benches, any lmms-eval task name as it stands, or own data: "
        "FILE.json|.jsonl|.csv|.parquet, FOLDER/ or TASK.yaml (docs/own-data.md)",
        jobs=ON_BENCHES | JobKind.THROUGHPUT | JobKind.STUDY,
    )
    reuse: tuple[str, ...] = _do(
        (),
        validators.places,
        "RUN",
        help="take the answers of finished cells with the same id from this run, which is only "
        "read; repeatable",
        jobs=ON_BENCHES,
        record=Record.NEVER,
        repeats=True,
    )
    shard: str | None = _workers(
        None,
        validators.shard,
        "i/N",
        help="the i-th of N shares of the cells, from 1, into a run directory of its own; "
        "python -m modsuite merge makes one run of them",
        record=Record.SET,
    )
    jobs: int = _workers(
        1,
        positive,
        "N",
        help="N processes on this machine take the cells from one queue: one a GPU, or of the "
        "processors a share each",
    )
    cluster: str | None = _workers(
        None,
        validators.cluster,
        "SPEC",
        help="submit the shares, wait, merge: slurm:partition=gpu:gpus=1:time=4h:8 (8 tasks), or "
        "local:2; needs the extra 'cluster'",
    )
    model: str = setting(
        "tiny-llava",
        validators.place,
        "MODEL",
        help="from --list models, a hub id or a local folder",
    )
    checkpoint: Mapping[str, str] = setting(
        {},
        validators.checkpoint,
        "METHOD=PATH_OR_ID",
        help="trained weights of a trained method on this model; repeatable",
        repeats=True,
    )
    data: str = setting(
        "auto",
        validators.data,
        "|".join([*validators.DATA, "DIR"]),
        help="auto: mini for the shipped model, else hub; or a folder with copies of the datasets",
        jobs=RUNS | JobKind.JUDGE,
    )
    limit: int | None = setting(
        None,
        positive,
        "N",
        help="only the first N documents of each bench",
        jobs=RUNS | JobKind.STUDY,
    )
    batch_size: int | str | None = setting(
        None,
        validators.batch_size,
        "N|auto",
        help=f"samples per batch, at most {validators.MAX_BATCH} (default auto for answers: 8, on "
        "CUDA 32; 1 for times and costs)",
        jobs=RUNS | JobKind.STUDY,
    )
    threads: int | str = setting(
        "auto",
        validators.threads,
        "N|auto",
        help="of the model on a CPU; auto: OMP_NUM_THREADS, else the cores, at most one for every "
        "128 of the hidden size; a resumed run keeps its number",
        jobs=ON_BENCHES | JobKind.THROUGHPUT,
        record=Record.USED,
    )
    protocol: str | None = _asking(
        None,
        validators.protocol,
        "NAME",
        help="how questions are put, from --list protocols (default lmms-eval); its parts by "
        "themselves follow",
    )
    image_aspect: str | None = _asking(
        None,
        one_of("image aspect", ASPECTS),
        "|".join(ASPECTS),
        help="make an image square by padding it with the mean colour, or by cutting out its "
        "centre (default: as the image processor does)",
    )
    template: str | None = _asking(
        None,
        one_of("template", TEMPLATES),
        "|".join(TEMPLATES),
        help="the conversation around a question (default: the checkpoint's own)",
    )
    ocr: bool = _asking(False, help="TextVQA's questions name the words that OCR read")
    boxes: str | None = _asking(
        None,
        one_of("reading of boxes", BOXES),
        "|".join(BOXES),
        help="RefCOCO's boxes are answered in shares of the image, in shares of the square that "
        "the model sees, or in pixels of the resized image (default: as the family is known to)",
    )
    device: str = setting(
        "auto", validators.device, "DEVICE", help="auto, cpu, cuda, cuda:N or mps"
    )
    device_map: str | None = setting(
        None,
        one_of("device map", conditions.DEVICE_MAPS),
        "|".join(conditions.DEVICE_MAPS),
        help="spread a model larger than a device over all of them, then the host, then disk, as "
        "transformers does",
        jobs=ON_BENCHES,
        record=Record.SET,
    )
    dtype: str = setting(
        "auto",
        one_of("dtype", conditions.DTYPES, conditions.DTYPE_ALIASES),
        "|".join(conditions.DTYPES),
        help="precision of the model",
    )
    attn: str = setting(
        "auto",
        one_of("attention backend", conditions.ATTENTION, conditions.ATTENTION_ALIASES),
        "|".join(conditions.ATTENTION),
        help="attention backend",
    )
    seed: int = setting(0, natural, "N", help="of all that is drawn")
    sample: bool = setting(
        False,
        help="draw answers where a task asks for sampling, each document from a seed of its own; "
        "without it such tasks are answered greedily",
        jobs=ON_BENCHES,
        record=Record.SET,
    )
    allow: tuple[str, ...] = setting(
        (),
        validators.allowed,
        "LIST",
        help="over-length: answer and count samples longer than the model's context instead of "
        "failing the cell; bad-rows: leave out and count rows of own data that cannot be asked or "
        "scored",
        jobs=ON_BENCHES | JobKind.THROUGHPUT,
        record=Record.SET,
    )
    margin: float | None = setting(  # None: the run directory's, else 1 point
        None,
        validators.points,
        "POINTS",
        help="loss up to which a method is non-inferior to dense (default 1); another one on a "
        "finished run derives its tables again",
        jobs=ON_BENCHES,
        record=Record.NEVER,
    )
    against: tuple[str, ...] = setting(
        (),
        validators.comma_list,
        "LIST",
        help="rows that the first table's differences are to (default dense): names or labels",
        jobs=ON_BENCHES | JobKind.PLOTS_ONLY | JobKind.DERIVE | JobKind.DIFF | JobKind.JUDGE,
        record=Record.NEVER,  # beside the settings, for the next drawing
    )
    n_text: int = setting(
        58,
        positive,
        "N",
        help="text tokens of a cost or time",
        jobs=JobKind.COSTS_ONLY | JobKind.THROUGHPUT,
        record=Record.USED,
    )
    n_out: int = setting(
        32,
        positive,
        "N",
        help="new tokens of a cost or time",
        jobs=JobKind.COSTS_ONLY | MEASURING,
        record=Record.USED,
    )
    gpu: str | None = setting(
        None,
        parse_gpu,
        "NAME|24GiB",
        help="with --costs-only: the largest batch that fits this GPU, and bounds of its times; "
        "with --concurrency: the requests that fit",
        jobs=JobKind.COSTS_ONLY | JobKind.THROUGHPUT,
        record=Record.SET,
    )
    costs_only: bool = _do(
        False,
        help="FLOPs and KV ledger at the model's true sizes: no weights, no benchmarks",
        jobs=JobKind.COSTS_ONLY | JobKind.PUBLISHED,
    )
    published: str | None = _do(
        None,
        non_empty,
        "TABLE",
        help="--costs-only: a paper's cost table beside ours, e.g. pmod-table5",
        jobs=JobKind.PUBLISHED,
        record=Record.SET,
    )
    study: str | None = _do(  # the suite file that holds it
        None,
        help="what `harness.study` reads of a suite",
        jobs=JobKind.STUDY,
        record=Record.SET,
        is_flag=False,
    )
    printed: str | None = _do(  # a table of `harness/readouts/reference.yaml`
        None,
        non_empty,
        help="the published table that a suite repeats",
        jobs=ON_BENCHES,
        record=Record.SET,
        is_flag=False,
    )
    analyse: tuple[str, ...] = _analysis(
        (),
        validators.analyses,
        "LIST",
        help="after the cells, of dense: arank (rank of every layer's attention), damage (each "
        "layer skipped, whole and for half of the image tokens), plan (retention plans from them); "
        "of every method: regret (a second question on the cache kept after the first)",
    )
    analyse_samples: int = _analysis(
        50,
        positive,
        "N",
        help="the first N documents of each bench (regret: those whose image has another question)",
        needs="analyse",
    )
    analyse_kv: float = _analysis(  # the mean of p-MoD's released schedule
        0.5375,
        share,
        "SHARE",
        help="image-token cache of the plans",
        needs="analyse",
    )
    throughput: bool = _do(
        False,
        help="measured time by phase, interleaved with dense: of --workload, or of --bench",
        jobs=JobKind.THROUGHPUT,
        record=Record.USED,
    )
    with_throughput: bool = _do(
        False,
        help="a run on benchmarks: time its methods as well, when the answers are done",
        jobs=JobKind.TIMED_RUN,
        record=Record.USED,
    )
    workload: tuple[str, ...] = _timing(
        (),
        validators.workloads,
        "SPEC",
        help="n_text=58:n_image=576:n_out=32:batch=8 (n_image as the model makes it when left "
        "out, 0 for none) or bench=gqa:n_out=32:batch=8; repeatable",
        repeats=True,
    )
    concurrency: tuple[int, ...] = setting(
        (),
        validators.concurrency,
        "LIST",
        help="--throughput under load instead: closed loops of so many requests of unequal "
        "lengths (1,8,32), drawn around --workload, --bench or --n-text and --n-out",
        group=option.TIMES,
        jobs=JobKind.THROUGHPUT,
        record=Record.SET,
    )
    random_weights: bool = _shape(
        False, help="the model's shapes with random weights, built on the device: needs no files"
    )
    layers: int | None = _shape(
        None,
        positive,
        "N",
        help="--random-weights: fewer decoder layers",
        needs="random_weights",
    )
    width: int | None = _shape(
        None, positive, "N", help="--random-weights: another hidden size", needs="random_weights"
    )
    repeats: int = _timing(30, positive, "N", help="rounds at least")
    warmup: int = _timing(10, positive, "N", help="runs before, a method and shape")
    min_seconds: float = _timing(10.0, seconds, "S", help="of dense's time, at least")
    max_seconds: float | None = _timing(
        None, seconds, "S", help="stop the rounds of a workload then"
    )
    judge_url: str | None = _free(
        None,
        validators.endpoint,
        "URL",
        help="OpenAI-compatible endpoint of the language model that scores free answers, like "
        "http://127.0.0.1:8000/v1; its key in OPENAI_API_KEY",
        jobs=ON_BENCHES | JobKind.JUDGE,
        needs="judge_model",
        in_suites=False,
    )
    judge_model: str | None = _free(
        None,
        non_empty,
        "NAME",
        help="the judge's name there",
        jobs=ON_BENCHES | JobKind.JUDGE,
        needs="judge_url",
        in_suites=False,
    )
    rank_timeout: float | None = _free(
        None,
        validators.patience,
        "S",
        help="under torchrun: a process without progress for so long ends the run (default 600, or "
        "20 times the slowest batch)",
        jobs=ON_BENCHES,
    )
    out: str | None = _free(
        None,
        validators.target,
        "DIR",
        help="run directory, resumed if it exists (default runs/<time>)",
        jobs=WRITING,
    )
    table: str | None = _free(
        None,
        one_of("form", ("md",)),
        "md",
        help="print the final table as Markdown on standard output, and nothing else there",
        jobs=ON_BENCHES | JobKind.DERIVE | JobKind.JUDGE | JobKind.PLOTS_ONLY | COSTS,
    )
    quiet: bool = _free(False, help="no progress, errors only")
    verbose: bool = _free(False, help="more detail, library messages")

    @property
    def job(self) -> JobKind:
        """The kind of run that the settings alone ask for."""
        if self.study:
            return JobKind.STUDY
        if self.costs_only:
            return JobKind.PUBLISHED if self.published else JobKind.COSTS_ONLY
        if self.throughput:
            return JobKind.THROUGHPUT
        return JobKind.TIMED_RUN if self.with_throughput else JobKind.RUN

    @property
    def asks_ocr(self) -> bool:
        """Whether OCR tokens were asked for by themselves, not as a part of a named protocol."""
        return self.ocr or "ocr=yes" in (self.protocol or "").split("+")

    @property
    def asking(self) -> Protocol:
        """How questions are put: the named protocol with the parts given by themselves."""
        return asked_for(self.protocol, self.template, self.image_aspect, self.ocr, self.boxes)

    @property
    def batch(self) -> int | str:
        """`batch_size`, and what it means where it was not given."""
        if self.batch_size is not None:
            return self.batch_size
        return 1 if self.job in JobKind.THROUGHPUT | COSTS else "auto"

    def changed(self) -> set[str]:
        """Names of the settings that are not at their default."""
        return {name for name, o in SETTING.items() if getattr(self, name) != o.default}

    def recorded(self) -> dict[str, Any]:
        """The settings that must agree when a run directory is resumed (JSON-able)."""
        values = {name: getattr(self, name) for name, o in SETTING.items() if self._records(o)}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        values["batch_size"] = self.batch
        values = {name: value for name, value in values.items() if name not in ASKING}
        if self.asking != LMMS_EVAL:  # left out, a run from before the choice can be resumed
            values["protocol"] = str(self.asking)
        return values | {"checkpoint": dict(sorted(self.checkpoint.items()))}

    def _records(self, asked: Option) -> bool:
        return {
            Record.NEVER: False,
            Record.ALWAYS: True,
            Record.USED: self.job in asked.jobs,
            Record.SET: bool(getattr(self, asked.needs or asked.name)),
        }[asked.record]


SETTING: dict[str, Option] = {
    f.name: dataclasses.replace(f.metadata["option"], name=f.name) for f in fields(Settings)
}
"""The options that are settings, by name."""


def add_checkpoint(found: dict[str, str], text: str) -> None:
    """Add one `method=PATH` to `found`; the same method with two paths is refused."""
    name, path = checked("--checkpoint", validators.checkpoint, text)
    if found.setdefault(name, path) != path:
        raise UsageError(f"--checkpoint: '{name}' stands twice, with different weights")


def make_settings(values: Mapping[str, Any]) -> Settings:
    """`Settings` from converted values, checked against each other."""
    settings = Settings(**values)
    if settings.quiet and settings.verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    for name in ("throughput", "costs_only"):
        if settings.with_throughput and getattr(settings, name):
            both = f"--with-throughput and {flag(name)} exclude each other"
            raise UsageError(f"{both}: it adds times to a run on benchmarks")
    if settings.shard and not settings.out:
        raise UsageError("--shard needs --out: each share has a run directory of its own")
    if settings.throughput and settings.gpu and not settings.concurrency:
        raise UsageError("--gpu has no meaning with --throughput without --concurrency")
    if settings.shard and settings.cluster:
        raise UsageError("--shard and --cluster exclude each other: the tasks take the shares")
    if "regret" in settings.analyse and settings.analyse_samples < 2:
        raise UsageError(
            "--analyse regret asks two questions: --analyse-samples must be at least 2"
        )
    if "plan" in settings.analyse and (settings.limit or math.inf) <= settings.analyse_samples:
        raise UsageError(
            f"--analyse: plans are checked on documents behind the first "
            f"{settings.analyse_samples}: give a larger --limit or a smaller --analyse-samples"
        )
    return settings
