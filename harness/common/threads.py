"""How many threads a model runs with on a CPU, and how they wait for each other. Torch-free.

Measured: docs/cpu.md. Two threads bring a model of hidden size 288 nothing, and on a machine that
has other work to do they cost it fifty times its share: each of its many small operators ends
with a barrier, and a thread that spins there waits for one that is not running.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SMALL = 1024  # hidden size below which a second thread brings less than it can cost
ASKED = "OMP_NUM_THREADS"  # a number that the user, or torchrun, has chosen
# GNU's and LLVM's OpenMP: sleep at a barrier instead of spinning. Read when torch is loaded.
WAITING = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
SET = (*WAITING, "GOMP_SPINCOUNT")


def prepare() -> None:
    """Let threads sleep while they wait, unless the user said how; call it before torch is loaded.

    Afterwards it has no effect, so it does nothing then.
    """
    if "torch" not in sys.modules and not any(name in os.environ for name in SET):
        os.environ.update(WAITING)


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def choose(hidden: int) -> int:
    """What `auto` means for a model of this hidden size.

    The user's own number where there is one; one thread for a small model; else every core.
    """
    asked = os.environ.get(ASKED, "").partition(",")[0]
    if asked.isdecimal() and int(asked):
        return int(asked)
    return 1 if hidden < SMALL else cores()


def in_use() -> int | None:
    """The threads that torch has now; None where it is not loaded."""
    if "torch" not in sys.modules:
        return None
    import torch

    return int(torch.get_num_threads())


@contextmanager
def kept() -> Iterator[None]:
    """Give torch back the number of threads that it has now, where it is loaded already."""
    before = in_use()
    try:
        yield
    finally:
        if before is not None:
            import torch

            torch.set_num_threads(before)
