"""What each process of `--jobs N` runs on: a device of its own, or a share of the processors."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from harness.common.errors import UsageError
from harness.options.runtime import Runtime
from harness.options.settings import Settings

FLAG = "--jobs"


def environments(settings: Settings, runtime: Runtime, count: int) -> list[dict[str, str]]:
    """What each of `count` workers finds in its environment: its device, nothing on a CPU.

    Raises UsageError for more workers than devices.
    """
    if runtime.device == "cpu":  # how many threads each has is a setting of the run
        return [{} for _ in range(count)]
    if ":" in settings.device:
        raise UsageError(f"{FLAG}: --device {settings.device} is one device; give --device cuda")
    devices = _devices(runtime.device)
    if count > len(devices):
        raise UsageError(
            f"{FLAG}: {count} processes on {len(devices)} visible {runtime.device} "
            f"device{'s' * (len(devices) != 1)}: at most one a device"
        )
    return [{"CUDA_VISIBLE_DEVICES": name} if name else {} for name in devices[:count]]


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
