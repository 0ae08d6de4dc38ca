"""What each process of `--jobs N` runs on: a device of its own, or a share of the processors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from harness.common.errors import UsageError
from harness.common.ranks import this
from harness.options.runtime import Runtime
from harness.options.settings import Settings

FLAG = "--jobs"
RANKS = "WORLD_SIZE"  # set by torchrun and accelerate launch


def refuse_ranks(asked: str) -> None:
    """Processes that were started as ranks share one cell already. Raises UsageError."""
    count = os.environ.get(RANKS) or str(this().count)
    if count != "1":
        raise UsageError(
            f"{asked} has no meaning under torchrun or accelerate launch, whose "
            f"{count} processes share each cell: leave out one of the two"
        )


def environments(settings: Settings, runtime: Runtime, count: int) -> list[dict[str, str]]:
    """What each of `count` workers finds in its environment: a device, or its processors.

    Raises UsageError for more workers than devices.
    """
    if runtime.device == "cpu":
        threads = max(1, processors() // count)
        told = os.environ.get("OMP_NUM_THREADS") or str(threads)
        return [{"OMP_NUM_THREADS": told} for _ in range(count)]
    if ":" in settings.device:
        raise UsageError(f"{FLAG}: --device {settings.device} is one device; give --device cuda")
    devices = _devices(runtime.device)
    if count > len(devices):
        raise UsageError(
            f"{FLAG}: {count} processes on {len(devices)} visible {runtime.device} "
            f"device{'s' * (len(devices) != 1)}: at most one a device"
        )
    return [{"CUDA_VISIBLE_DEVICES": name} if name else {} for name in devices[:count]]


def processors() -> int:
    """Those that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices(kind: str) -> list[str]:
    if kind != "cuda":
        return [""]
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """A process started in here finds these; libraries read them when they are loaded."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def undisturbed() -> Iterator[None]:
    """A process started in here is not reached by Ctrl-C, which is the parent's to answer."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
