"""Keep freed memory in the process, so that a model's next step need not ask for it again.

glibc gives every large block back to the system when it is freed, and the next one comes back as
untouched pages: filling those took a fifth to a third of a training step on a CPU (2 cores, mini
model). Settings are glibc's own (`mallopt`); elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

# Numbers of `mallopt`'s settings in glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
PAD = 64 << 20  # bytes the heap grows by at a time


def keep() -> bool:
    """Let the heap keep what is freed; True where that was set.

    Left alone where the user has set malloc's variables, and where the C library is another one.
    The process then holds its peak until it ends.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in NAMES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)
