"""What a cell is: everything that can change its numbers, and the hash over it. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.common.roots import ROOT
from methods.sources import with_imports

ID_LENGTH = 16  # hex digits, 64 bits: a collision within a study is out of the question

# Parts of the harness that cannot change a cell's numbers. All the rest is part of every cell's
# key, so that a module added later counts until somebody decides that it need not.
WITHOUT_INFLUENCE = (
    *("check", "command", "common", "instruct", "jobs/matched.py", "jobs/analyses.py"),
    *("jobs/grid.py", "jobs/published.py", "jobs/benchmarks.py", "jobs/costs.py"),
    *("jobs/resolve.py", "jobs/runner.py", "jobs/study.py", "jobs/throughput.py", "jobs/timed.py"),
    *("jobs/within.py", "layers", "options", "statistics", "study"),
    *("timing", "train", "bench/quiet.py", "bench/tasks_index.py", "cost/published.py"),
    *("cost/replica.py", "cost/rows.py", "engine/attention.py", "families/tiny.py"),
    *("families/trust.py", "model/catalog.py", "model/published.py", "model/weights.py"),
    *("readouts/controls.py", "readouts/derive.py", "readouts/fronts.py", "readouts/summary.py"),
    *("store/__init__.py", "store/cells.py", "store/columns.py", "store/csvfile.py"),
    *(
        "store/pictures.py",
        "store/rundir.py",
        "store/runinfo.py",
    ),  # not what packs and unpacks routing records
)
# Installed packages that turn documents into tokens, tokens into answers, answers into scores.
PACKAGES = ("torch", "transformers", "tokenizers", "pillow", "lmms-eval")


@dataclass(frozen=True)
class CellKey:
    """model x method(parameters) x bench x settings. Two cells share an id only if all agree.

    `weights` are revision and file hashes of model and checkpoint; `task_version` is whatever
    the bench says about its task; `fingerprint` identifies the data's content.
    """

    method: str
    params: Mapping[str, Any]
    method_source: str
    engine_source: str
    versions: Mapping[str, str | None]
    model: str
    weights: Mapping[str, Any]
    processor: str
    bench: str
    task: str
    task_version: str
    data: str
    fingerprint: str
    limit: int | None
    device: str
    dtype: str
    attn: str
    batch_size: int
    seed: int
    allow: tuple[str, ...] = ()  # faults of samples that did not end the cell
    halved_to: int | None = None  # the batch size that ran last, after memory ran out

    @cached_property
    def cell_id(self) -> str:
        """The hash, as it names files and rows."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    def ran_at(self, batch_size: int) -> CellKey:
        """The key of what really ran: another cell, if the batch had to be halved."""
        return self if batch_size == self.batch_size else replace(self, halved_to=batch_size)


def params_json(params: Mapping[str, Any]) -> str:
    """Parameters as the CSVs hold them: JSON with sorted keys."""
    return json.dumps(dict(params), sort_keys=True, ensure_ascii=False)


def source_digest(paths: list[Path]) -> str:
    """sha256 over the content of Python files, and of those in folders, by relative name."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name
                digest.update(name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def engine_digest() -> str:
    """`source_digest` of all that stands between a method's decision and a score.

    That is the harness but for `WITHOUT_INFLUENCE`, and what it imports from elsewhere here.
    Read once per process: an edit during a run does not split it.
    """
    room, others = ROOT / "harness", ROOT / "methods"  # methods are in the key by themselves
    left_out = {room / name for name in WITHOUT_INFLUENCE}
    own = [p for p in room.rglob("*.py") if left_out.isdisjoint((p, *p.parents))]
    return source_digest(with_imports(own, lambda path: {room, others}.isdisjoint(path.parents)))


@cache
def package_versions() -> dict[str, str | None]:
    """Versions of `PACKAGES`; None where one is not installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found
