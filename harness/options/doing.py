"""What a run does: its methods and benches, the kind of run, and who computes which cells.

Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from harness.options import option, validators
from harness.options.option import ON_BENCHES, JobKind, Record, setting
from harness.options.validators import non_empty, one_of, positive

_do = partial(setting, group=option.DO)
_workers = partial(  # who computes which cells changes no number
    setting, group=option.DO, jobs=ON_BENCHES, record=Record.NEVER, in_suites=False
)


@dataclass(frozen=True)
class Doing:
    """What to do."""

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
