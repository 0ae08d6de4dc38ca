"""How many threads a model runs with on a CPU, and how they wait for each other. Torch-free.

Each of a model's many operators ends with a barrier. A thread that spins there, as OpenMP's do,
takes the core of the very thread it waits for as soon as the machine has other work to do; one
that sleeps gives it up (docs/cpu.md has the measurements).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from harness.common.ranks import this

PER_THREAD = 128  # hidden size that gives one more thread enough to do between two barriers
SMALL = 1024  # hidden size below which a thread that spins costs more than it can bring
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
    """Cores this process may use: of several that answer together, its share."""
    affinity = getattr(os, "sched_getaffinity", None)
    found = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    return max(1, found // this().here)


def sleeping() -> bool:
    """Whether threads sleep while they wait; False where torch was loaded before `prepare`."""
    asked = {name: os.environ.get(name, "").lower() for name in SET}
    return asked["OMP_WAIT_POLICY"] == "passive" or asked["GOMP_SPINCOUNT"] == "0"


def choose(hidden: int, processes: int = 1) -> int:
    """What `auto` means for a model of this hidden size, in each of so many processes.

    The user's own number where there is one; else a thread for every `PER_THREAD` of the hidden
    size and a process's share of the cores at most; but one for a small model whose threads would
    spin.
    """
    asked = os.environ.get(ASKED, "").partition(",")[0]
    nobody = asked == "1" and not this().alone  # torchrun sets that where nothing is set
    if asked.isdecimal() and int(asked) and not nobody:
        return int(asked)
    if hidden < SMALL and not sleeping():
        return 1
    return max(1, min(cores() // processes, hidden // PER_THREAD))


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
