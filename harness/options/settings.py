"""What a run was asked to do: one frozen dataclass, filled from flags and a YAML suite.

Torch-free. Every value goes through the same checks (`options.validators`) whether it came from a
flag or from a suite file; a bad value is a `UsageError` of one line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from harness.common.errors import UsageError
from harness.common.roots import DATA
from harness.options.validators import VALIDATORS, checkpoint

T = TypeVar("T")
SUITES = DATA / "suites"

# Settings that only a run with measured times has a use for; the last three only --throughput.
MEASURED = ("workload", "repeats", "warmup", "min_seconds", "max_seconds")
TIMING_ONLY = (*MEASURED, "random_weights", "layers", "width")
ANALYSIS = ("analyse", "analyse_samples", "analyse_kv")
LIST_KINDS = ("methods", "benches", "models", "suites")


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; `out`, `quiet` and `verbose` are the only ones that cannot
    change a number, and `margin` changes verdicts only."""

    methods: tuple[str, ...] = ()
    controls: bool = False
    bench: tuple[str, ...] = ()
    model: str = "tiny-llava"
    checkpoint: Mapping[str, str] = field(default_factory=dict)
    data: str = "auto"
    limit: int | None = None
    batch_size: int | str = 1
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "auto"
    seed: int = 0
    allow: tuple[str, ...] = ()  # faults of single samples that shall not end a cell
    margin: float | None = None  # None: the run directory's, else 1 point
    n_text: int = 58
    n_out: int = 32
    costs_only: bool = False
    published: str | None = None
    study: str | None = None  # the suite file that holds it
    analyse: tuple[str, ...] = ()
    analyse_samples: int = 50
    analyse_kv: float = 0.5375  # the mean of p-MoD's released schedule
    throughput: bool = False
    with_throughput: bool = False
    workload: tuple[str, ...] = ()
    random_weights: bool = False
    layers: int | None = None
    width: int | None = None
    repeats: int = 30
    warmup: int = 10
    min_seconds: float = 10.0
    max_seconds: float | None = None
    out: str | None = None
    quiet: bool = False
    verbose: bool = False

    @property
    def idle(self) -> set[str]:
        """Settings of costs and times that this kind of run has no use for."""
        if self.throughput:
            return {"with_throughput", "controls", "allow"}
        found = {"throughput", *TIMING_ONLY, "with_throughput"}
        found -= {*MEASURED, "with_throughput"} if self.with_throughput else set()
        if self.costs_only:
            found |= {"controls", "allow"}
        else:
            found |= {"n_text"} if self.with_throughput else {"n_text", "n_out"}
        return found

    def recorded(self) -> dict[str, Any]:
        """The settings that must agree when a run directory is resumed (JSON-able)."""
        skip = {"out", "quiet", "verbose", "margin"}  # another margin only derives tables again
        skip |= {"controls"}  # they stand among the methods then
        skip |= set() if self.published else {"published"}
        skip |= set() if self.study else {"study"}
        skip |= set() if self.allow else {"allow"}
        skip |= self.idle
        skip |= set() if self.analyse else set(ANALYSIS)
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        for name in ("methods", "bench", "workload", "analyse", "allow"):
            if name in values:
                values[name] = list(values[name])
        values["checkpoint"] = dict(sorted(self.checkpoint.items()))
        return values


def flag(name: str) -> str:
    """The command-line spelling of a settings field."""
    return "--" + name.replace("_", "-")


SWITCHES = (
    "controls",
    "costs_only",
    "throughput",
    "with_throughput",
    "random_weights",
    "quiet",
    "verbose",
)


def convert(name: str, value: str, shown_as: str | None = None) -> Any:
    """`value` checked and converted for the settings field `name`; errors name the flag."""
    return checked(shown_as or flag(name), VALIDATORS[name], value)


def checked(shown: str, check: Callable[[str], T], value: str) -> T:
    """What `check` makes of a value; a UsageError of it names the flag or key, `shown`."""
    try:
        return check(value)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None


def add_checkpoint(found: dict[str, str], text: str) -> None:
    """Add one `method=PATH` to `found`; the same method with two paths is refused."""
    name, path = checked("--checkpoint", checkpoint, text)
    if found.setdefault(name, path) != path:
        raise UsageError(f"--checkpoint: '{name}' stands twice, with different weights")


def make_settings(values: Mapping[str, Any]) -> Settings:
    """`Settings` from converted values, checked against each other."""
    settings = Settings(**values)
    if settings.quiet and settings.verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    for name in ("throughput", "costs_only"):
        if settings.with_throughput and getattr(settings, name):
            raise UsageError(
                f"--with-throughput and {flag(name)} exclude each other: it adds times to a run "
                "on benchmarks"
            )
    for name in ANALYSIS[1:]:
        if not settings.analyse and getattr(settings, name) != getattr(Settings(), name):
            raise UsageError(f"{flag(name)} has no meaning without --analyse")
    if "plan" in settings.analyse and (settings.limit or math.inf) <= settings.analyse_samples:
        raise UsageError(
            f"--analyse: plans are checked on documents behind the first "
            f"{settings.analyse_samples}: give a larger --limit or a smaller --analyse-samples"
        )
    return settings
