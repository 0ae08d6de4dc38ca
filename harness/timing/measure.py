"""Dense and every method in turn: warm-up, interleaved rounds, then what must not be timed.

The timed rounds run without any record. Selection, peak memory and energy are measured after
them in passes of their own, so that no instrument lies inside a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.timing.clock import Clock, clock_for
from harness.timing.device import Reading, Watch
from harness.timing.phases import Prompt, selection_ms, timed, watched
from harness.timing.ratios import FEWEST, settled
from harness.timing.subject import Bench, Subject, active, waiting_bytes

SELECTION_RUNS = 6
ENERGY_WINDOW = 5.0  # seconds: shorter ones can read zero
MIB = 1024.0**2

Timed = Callable[[Subject, Prompt], dict[str, float]]


@dataclass(frozen=True)
class Budget:
    """How often: rounds at least, warm-up runs a method and shape, seconds of dense at least,
    and seconds after which the rounds stop."""

    repeats: int = 30
    warmup: int = 10
    min_seconds: float = 10.0
    max_seconds: float | None = None


@dataclass
class Times:
    """What one method measured. ``rounds``: phase -> ms, one entry a round, in round order."""

    first_ms: float = float("nan")
    rounds: dict[str, list[float]] = field(default_factory=dict)
    selection: list[float] = field(default_factory=list)
    launch_bound: list[float] = field(default_factory=list)
    peak_mib: dict[str, float] = field(default_factory=dict)
    joules: float | None = None
    settled: bool = True

    def add(self, sample: dict[str, float]) -> None:
        """Take in one round."""
        self.launch_bound.append(sample.pop("launch_bound", 0.0))
        for phase, value in sample.items():
            self.rounds.setdefault(phase, []).append(value)


@dataclass
class Measured:
    """All methods of a workload, in the order of the subjects; one device reading a round."""

    times: list[Times]
    readings: list[Reading] = field(default_factory=list)
    stopped: bool = False  # by max_seconds, before the asked number of rounds
    idle_watt: float | None = None


def measure(
    bench: Bench,
    subjects: Sequence[Subject],
    prompts: Sequence[Prompt],
    n_out: int,
    budget: Budget,
    watch: Watch,
    seed: int,
    on_round: Callable[[int, int], None] | None = None,
    on_stage: Callable[[str], object] = str,
) -> Measured:
    """Time every subject on every prompt. The first subject is dense.

    Round i takes prompt i (again from the start after the last), for all subjects alike.
    ``on_stage`` hears what is done beside the rounds, and nothing when they begin.
    """
    clock = clock_for(bench.device)

    def once(subject: Subject, prompt: Prompt) -> dict[str, float]:
        with torch.no_grad(), active(bench, subject) as run:
            run.set_samples(list(prompt.names))
            return timed(bench.model, prompt, n_out, clock)

    found = Measured([Times() for _ in subjects], idle_watt=watch.read().watt)
    for subject, times in zip(subjects, found.times, strict=True):
        on_stage(f"warming up {subject.method.label}")
        warm_up(once, subject, prompts, budget.warmup, times)
    on_stage("")
    rounds(once, subjects, prompts, budget, watch, seed, found, on_round)
    for subject, times in zip(subjects, found.times, strict=True):
        on_stage(f"selection of {subject.method.label}")
        times.selection = _selection(bench, subject, prompts[0], clock, len(found.readings))
        if bench.device.type == "cuda":
            spare = waiting_bytes(subjects, subject)
            times.peak_mib = _peaks(bench, subject, prompts[0], n_out, spare)
            times.joules = _energy(once, subject, prompts, watch, found.idle_watt)
    return found


def warm_up(
    once: Timed, subject: Subject, prompts: Sequence[Prompt], runs: int, times: Times
) -> None:
    """At least ``runs`` calls a prompt, up to twice as many until their medians agree."""
    for number, prompt in enumerate(prompts):
        seen: list[float] = []
        while len(seen) < runs or (not settled(seen) and len(seen) < 2 * runs):
            seen.append(once(subject, prompt)["end_to_end"])
        if number == 0:
            times.first_ms = seen[0]
        times.settled = times.settled and settled(seen)


def rounds(
    once: Timed,
    subjects: Sequence[Subject],
    prompts: Sequence[Prompt],
    budget: Budget,
    watch: Watch,
    seed: int,
    found: Measured,
    on_round: Callable[[int, int], None] | None = None,
) -> None:
    """The timed rounds: a seeded order, forwards and backwards in turn, so drift cancels."""
    order = np.random.default_rng(seed).permutation(len(subjects)).tolist()
    began, number, dense_ms = time.perf_counter(), 0, 0.0
    while number < budget.repeats or dense_ms < budget.min_seconds * 1e3:
        late = budget.max_seconds is not None and (time.perf_counter() - began > budget.max_seconds)
        if late and number >= FEWEST:
            found.stopped = number < budget.repeats
            break
        prompt = prompts[number % len(prompts)]
        for place in order if number % 2 == 0 else reversed(order):
            found.times[place].add(once(subjects[place], prompt))
        dense_ms += found.times[0].rounds["end_to_end"][-1]
        found.readings.append(watch.read())
        number += 1
        if on_round is not None:
            on_round(number, max(number, budget.repeats))


def _selection(
    bench: Bench, subject: Subject, prompt: Prompt, clock: Clock, rounds_run: int
) -> list[float]:
    if subject.method.role == "reference":
        return []
    marks: list[tuple[Any, Any]] = []
    method = watched(subject.method, marks, clock)
    with torch.no_grad(), active(bench, subject, method) as run:
        run.set_samples(list(prompt.names))
        selection_ms(bench.model, prompt, clock, marks)  # warm
        runs = min(SELECTION_RUNS, rounds_run)
        return [selection_ms(bench.model, prompt, clock, marks) for _ in range(runs)]


class _PeakClock:
    """A clock whose marks read and reset the allocator's peak, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.peaks: list[int] = []

    def mark(self) -> int:
        self.peaks.append(torch.cuda.max_memory_allocated(self.device))
        torch.cuda.reset_peak_memory_stats(self.device)
        return len(self.peaks) - 1

    def ms(self, start: int, end: int) -> float:
        """The highest peak between two marks, in MiB."""
        return max(self.peaks[start + 1 : end + 1]) / MIB

    def finish(self) -> None:
        torch.cuda.synchronize(self.device)


def _peaks(
    bench: Bench, subject: Subject, prompt: Prompt, n_out: int, spare: int
) -> dict[str, float]:
    """Peak allocated MiB by phase, weights included, other methods' weights not."""
    clock: Any = _PeakClock(bench.device)
    with torch.no_grad(), active(bench, subject) as run:
        run.set_samples(list(prompt.names))
        found = timed(bench.model, prompt, n_out, clock)
    found["end_to_end"] = clock.ms(0, len(clock.peaks) - 1)
    found.pop("launch_bound", None)
    return {phase: value - spare / MIB for phase, value in found.items()}


def _energy(
    once: Timed, subject: Subject, prompts: Sequence[Prompt], watch: Watch, idle: float | None
) -> float | None:
    """Joules a sample above idle, over a window of at least five seconds; None without NVML."""
    before = watch.read().energy_mj
    if before is None or idle is None:
        return None
    began, samples = time.perf_counter(), 0
    while time.perf_counter() - began < ENERGY_WINDOW:
        prompt = prompts[samples % len(prompts)]
        once(subject, prompt)
        samples += len(prompt.names)
    after, seconds = watch.read().energy_mj, time.perf_counter() - began
    return None if after is None else ((after - before) / 1e3 - idle * seconds) / samples
