"""Clocks: device events on CUDA, the host's own elsewhere; one wait for the device at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Now = Callable[[], int]


class HostClock:
    """``now`` at each mark. ``wait`` blocks until the device is idle (not on a CPU)."""

    def __init__(self, wait: Callable[[], Any] | None = None, now: Now = time.perf_counter_ns):
        self._wait, self.now = wait, now

    def mark(self) -> Any:
        """A moment, to be handed to :meth:`ms` later."""
        if self._wait is not None:
            self._wait()
        return self.now()

    def ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two moments."""
        return float(end - start) / 1e6

    def finish(self) -> None:
        """Wait for the device, once, before any :meth:`ms`."""


class EventClock:
    """CUDA events on the current stream: a mark costs microseconds and waits for nothing."""

    now: Now = staticmethod(time.perf_counter_ns)

    def mark(self) -> Any:
        """See :class:`HostClock`."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def ms(self, start: Any, end: Any) -> float:
        """See :class:`HostClock`."""
        return float(start.elapsed_time(end))

    def finish(self) -> None:
        """See :class:`HostClock`."""
        torch.cuda.synchronize()


Clock = HostClock | EventClock


def clock_for(device: torch.device) -> Clock:
    """The right clock for a device."""
    if device.type == "cuda":
        return EventClock()
    # MPS has no usable events across its versions: every mark waits, which the report says.
    return HostClock(torch.mps.synchronize if device.type == "mps" else None)
