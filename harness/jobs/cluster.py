"""`--cluster SPEC`: the shares of a run as tasks of a cluster, waited for and merged.

submitit submits them (a SLURM array, or processes of this machine). Each task is the same command
with `--shard i/N`, in `shares/i-of-N` below the run directory; what one loses the others do not,
and the same command submits the shares that are not whole yet. Cells that the run has already, from
whatever cut, are taken over as `--reuse` takes them.
"""

from __future__ import annotations

import copy
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import (
    EXIT_CELLS_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    HarnessError,
    StoreError,
    UsageError,
    one_line,
)
from harness.common.progress import Progressing
from harness.common.roots import INSTALLED, ROOT
from harness.common.stops import PROGRAM, stoppable
from harness.common.threads import choose
from harness.jobs.devices import environment, environments
from harness.jobs.merge import merge_into, open_merge
from harness.jobs.merged import full_command
from harness.jobs.runner import resume_command, run
from harness.options.cluster import ClusterSpec, parse_cluster
from harness.store.csvfile import read_rows
from harness.store.folder import (
    CLUSTER,
    SHARES,
    check_out,
    default_out,
    is_busy,
    is_run,
    read_run_json,
)
from harness.store.rundir import DONE, Store

if TYPE_CHECKING:
    from harness.jobs.benchmarks import Benchmarks

FLAG = "--cluster"
MACHINES = (
    "device",
    "dtype",
    "attn",
    "batch_size",
    "threads",
)  # what `auto` means is the tasks' to say
LOOK = {"local": 1.0, "slurm": 10.0}  # seconds between two looks at the tasks
YEAR = 365 * 24 * 60  # minutes: a local task has no limit of its own


@dataclass
class Task:
    """One share, as a cluster runs it."""

    job: Benchmarks

    def __call__(self) -> tuple[int, str]:
        """Exit code of the share, and the line of what was refused."""
        try:
            return run(self.job), ""
        except HarnessError as error:
            return error.exit_code, one_line(error, 1000)

    def checkpoint(self) -> Any:
        """A preempted task is queued again, and goes on with its directory."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass
class Going:
    """A share that a task of an earlier command is still at: waited for like one of ours."""

    place: Path

    def done(self) -> bool:
        return not is_busy(self.place)

    def cancel(self, check: bool = True) -> None:
        """Not ours to end."""


def run_cluster(job: Benchmarks) -> int:
    """Submit, wait, merge; the exit code is that of a run.

    Raises UsageError, before anything is submitted, for what no task could do.
    """
    settings = job.settings
    spec = parse_cluster(settings.cluster or "")
    _require_submitit()
    with Progressing(settings.quiet) as show:
        show.phase("looking up names, model and data", soon=True)
        out = Path(settings.out) if settings.out else default_out()
        recorded = job.resolve(out)
        if is_run(out):
            before = read_run_json(out).get("settings") or {}
            auto = {n: before.get(n) for n in MACHINES if getattr(settings, n) in ("auto", None)}
            recorded = recorded | auto
        check_out(out, recorded)
        spec = replace(spec, tasks=min(spec.tasks, len(job.cells)))
        again = resume_command(job.argv, settings, out)
        try:
            with stoppable(), Store(out) as store:
                return _work(job, spec, store, show)
        except KeyboardInterrupt:
            show.warn(f"{PROGRAM}: interrupted; resume with: {again}")
            return EXIT_INTERRUPTED
        except StoreError as error:
            show.warn(
                f"{PROGRAM}: {one_line(error)}; finished cells are kept, resume with: {again}"
            )
            return EXIT_CELLS_FAILED


def _work(job: Benchmarks, spec: ClusterSpec, store: Store, show: Progressing) -> int:
    out = store.path
    if not _is_whole(out):
        names = [f"{number}/{spec.tasks}" for number in range(1, spec.tasks + 1)]
        left = [name for name in names if not _is_whole(_place(out, name))]
        going = {name: Going(_place(out, name)) for name in left if is_busy(_place(out, name))}
        threads = _threads(job, spec, out)
        tasks = {name: Task(_share(job, name, out, threads)) for name in left if name not in going}
        _wait({**going, **_submit(tasks, spec, job, out)}, spec, out, show)
    shares = [str(path) for path in sorted((out / SHARES).glob("*")) if is_run(path)]
    if not shares and not is_run(out):
        raise HarnessError(f"{FLAG}: no task has begun; their logs: {out / CLUSTER}")
    code = merge_into(open_merge(shares, out), store, show, job.settings.table)
    if code == EXIT_OK:
        shutil.rmtree(out / SHARES, ignore_errors=True)  # every byte of them is in the run
        if job.extras:
            show.say(f"{FLAG}: times and analyses are left to the command without {FLAG}")
    return code


def _place(out: Path, name: str) -> Path:
    return out / SHARES / name.replace("/", "-of-")


def _share(job: Benchmarks, name: str, out: Path, threads: int | str) -> Benchmarks:
    """The job of one share."""
    found, place = copy.copy(job), str(_place(out, name))
    reuse = [*job.settings.reuse, *([str(out)] if is_run(out) else [])]
    found.settings = replace(
        job.settings,
        cluster=None,
        shard=name,
        out=place,
        reuse=tuple(reuse),
        threads=threads,
        quiet=True,
        table=None,
    )
    found.argv = [*full_command(job.argv, Path(place)), "--shard", name]
    return found


def _threads(job: Benchmarks, spec: ClusterSpec, out: Path) -> int | str:
    """The number that all shares of a run have on a CPU: its own, else of these cores a share."""
    if job.settings.threads == "auto":
        for place in (out, *(out / SHARES).glob("*")):
            before = read_run_json(place).get("settings") if is_run(place) else None
            if before and before.get("threads"):
                return int(before["threads"])
        if spec.kind == "local" and job.grid.runtime.device == "cpu":
            return choose(job.grid.source.info.hidden, spec.tasks)
    return job.settings.threads


def _is_whole(path: Path) -> bool:
    """Whether every cell of a run is done."""
    if not is_run(path):
        return False
    asked = read_run_json(path).get("cells")
    return isinstance(asked, list) and {*asked} <= {*Store(path).done()}


# --- the cluster --------------------------------------------------------------------------------
def _require_submitit() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(
            f"{FLAG} needs the optional package submitit: pip install 'modsuite[cluster]', or "
            "pip install submitit (without it: --shard i/N in a script of your scheduler)"
        ) from None


def _submit(
    tasks: dict[str, Task], spec: ClusterSpec, job: Benchmarks, out: Path
) -> dict[str, Any]:
    """Share -> its job at the cluster. Raises UsageError where there is no such cluster."""
    import submitit

    try:
        executor = submitit.AutoExecutor(folder=out / CLUSTER, cluster=spec.kind)
        executor.update_parameters(name="modsuite", **spec.parameters)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"{FLAG}: {one_line(error)}") from None
    with _importable():
        if spec.kind == "slurm":
            with executor.batch():
                return {name: executor.submit(task) for name, task in tasks.items()}
        found = {}
        each = environments(job.settings, job.grid.runtime, spec.tasks)
        for (name, task), place in zip(tasks.items(), each, strict=False):
            gpu = place.get("CUDA_VISIBLE_DEVICES")
            visible = {"gpus_per_node": 1, "visible_gpus": [int(gpu)]} if gpu else {}
            executor.update_parameters(timeout_min=YEAR, **visible)
            with environment(place):
                found[name] = executor.submit(task)
        return found


@contextmanager
def _importable() -> Iterator[None]:
    """A task started from here finds this source tree, wherever it starts."""
    if INSTALLED:
        yield
        return
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with environment({"PYTHONPATH": os.pathsep.join(paths)}):
        yield


def _wait(jobs: dict[str, Any], spec: ClusterSpec, out: Path, show: Progressing) -> None:
    """Until every task is over; what went wrong is said. Interrupted, they are cancelled."""
    show.say(f"{FLAG}: {len(jobs)} of {spec.tasks} tasks at work, their logs: {out / CLUSTER}")
    left = dict(jobs)
    try:
        while left:
            for name in [name for name, job in left.items() if job.done()]:
                why = _wrong(left.pop(name), spec)
                if why:
                    log = f"its log: {jobs[name].paths.stderr}"
                    again = "the same command goes on with what is missing"
                    show.warn(f"{PROGRAM}: {FLAG}: task {name} {why}; {log}; {again}")
            show.doing = f"{len(left)} of {len(jobs)} tasks not over, {_done(out)} cells done"
            time.sleep(LOOK[spec.kind] if left else 0)
    except BaseException:
        with ExitStack() as stack:
            for job in left.values():
                stack.callback(job.cancel, check=False)
        raise
    finally:
        show.doing = ""


def _wrong(job: Any, spec: ClusterSpec) -> str:
    """What went wrong with a task that is over; empty where nothing did."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    if isinstance(job, Going):  # what is missing is found when it is merged
        return ""
    if spec.kind == "local" and not job.paths.result_pickle.exists():  # it will not come late
        return f"ended without a result ({str(job.state).lower()})"
    try:
        code, line = job.result()
    except UncompletedJobError:
        return f"ended without a result ({str(job.state).lower()})"
    except FailedJobError as error:
        return f"failed: {one_line(str(error).strip().splitlines()[-1])}"
    if code == EXIT_OK:
        return ""
    words = {EXIT_CELLS_FAILED: "has failed cells", EXIT_INTERRUPTED: "was stopped"}
    return f"was refused: {line}" if line else words.get(code, f"ended with exit code {code}")


def _done(out: Path) -> int:
    """Finished cells of all shares."""
    tables = (out / SHARES).glob("*/cells.csv")
    return sum(row.get("status") == DONE for table in tables for row in read_rows(table))
