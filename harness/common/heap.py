"""Keep freed memory in the process, so that a model's next step need not ask for it again.

glibc gives every large block back to the system when it is freed, and the next one comes back as
untouched pages: filling those took a fifth to a third of a training step on a CPU (2 cores, mini
model). Settings are glibc's own (`mallopt`, and `GLIBC_TUNABLES` for large pages, which is read
when a process starts); elsewhere this does nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

# Numbers of `mallopt`'s settings in glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NAMES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES")
PAD = 64 << 20  # bytes the heap grows by at a time
ONCE = "MODSUITE_RESTARTED"  # where something takes the other variable away again
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# What `keep` sets, and pages of 2 MB (glibc 2.35; one before it passes over what it does not know).
TUNABLES = ":".join(
    f"glibc.malloc.{name}={value}"
    for name, value in {
        "hugetlb": 1,
        "mmap_max": 0,
        "trim_threshold": sys.maxsize,
        "top_pad": PAD,
    }.items()
)


def restart() -> None:
    """Start this process again with large pages under its heap, where the system gives them on
    request only.

    In a virtual machine the processor walks two tables for every page it has not at hand: on one
    whose memory was in small pieces, copying 64 MB ran at 0.5 to 4 GB/s with pages of 4 KB and at
    11 to 14 with these, and a step of the mini model took half as long. Call it before anything
    else.
    """
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or any(
        n in os.environ for n in (*NAMES, ONCE)
    ):
        return
    with suppress(OSError, ValueError):  # then it goes on as it is
        if os.confstr("CS_GNU_LIBC_VERSION") and "[madvise]" in LARGE_PAGES.read_text():
            own = {"GLIBC_TUNABLES": TUNABLES, ONCE: "1"}
            os.execve(sys.executable, sys.orig_argv, os.environ | own)


def keep() -> bool:
    """Let the heap keep what is freed; True where that was set, by `restart` too.

    Left alone where the user has set malloc's variables, and where the C library is another one.
    The process then holds its peak until it ends.
    """
    if os.environ.get("GLIBC_TUNABLES") == TUNABLES:
        return True
    if not sys.platform.startswith("linux") or any(name in os.environ for name in NAMES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl
        return False
    settings = ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD))
    done = [mallopt(name, value) for name, value in settings]
    return all(done)
