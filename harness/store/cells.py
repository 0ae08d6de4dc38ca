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

# Where answers come from: the loop, and the model as it is loaded. What these import, directly or
# not, is part of every cell's key; readouts (`harness.readouts.keys`) are not among it.
# Pictures are written with the answers: words and attention maps are in no record.
ANSWERS = (
    "harness/bench/loop.py",
    "harness/model/loading.py",
    "harness/model/session.py",
    "harness/store/pictures.py",
)
REGISTRY = ROOT / "methods" / "__init__.py"  # names the methods; each is in its own cells' key
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
    sample: bool = False  # answers drawn where a task asks for it
    device_map: str | None = None  # how the model is spread over devices
    protocol: str = "lmms-eval"  # how questions are put, see `harness.common.protocol`
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
    """`source_digest` of `ANSWERS` and all that they import: what shapes answers but the method.

    Read once per process: an edit during a run does not split it.
    """
    roots = [ROOT / name for name in ANSWERS]
    return source_digest(with_imports(roots, lambda path: path != REGISTRY))


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
