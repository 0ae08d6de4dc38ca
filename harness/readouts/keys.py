"""What shapes a readout: one key a readout, from its file and all that it imports. Torch-free.

Kept beside the numbers, so that a run whose answers are done finds out which readouts are older
than the code, and takes only those again.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata

from harness.common.roots import ROOT
from harness.store.cells import source_digest
from methods.sources import with_imports

COST, COUNTERS, EVIDENCE = "cost", "counters", "evidence"
ROOTS = {
    COST: "harness/cost/readouts.py",
    COUNTERS: "harness/cost/referees.py",
    EVIDENCE: "harness/readouts/evidence.py",
}
PACKAGES = {COUNTERS: ("fvcore", "torch")}  # those that count by themselves


@cache
def readout_keys() -> dict[str, str]:
    """The keys of this code; read once per process, as `harness.store.cells.engine_digest`."""
    return {name: _key(name) for name in ROOTS}


def _key(name: str) -> str:
    digest = hashlib.sha256(source_digest(with_imports([ROOT / ROOTS[name]])).encode())
    for package in PACKAGES.get(name, ()):
        digest.update(f"{package} {metadata.version(package)}".encode())
    return digest.hexdigest()
