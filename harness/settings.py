"""What a run was asked to do: one frozen dataclass, filled from flags and a YAML suite.

Torch-free. Every value goes through the same validators whether it came from a flag or from a
suite file; a bad value is a `UsageError` of one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import UsageError
from harness.nearest import unknown

ROOT = Path(__file__).resolve().parent.parent
SUITES = ROOT / "suites"

DATA = ("auto", "mini", "hub")
DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
ATTENTION_ALIASES = {"flash": "flash_attention_2", "fa2": "flash_attention_2"}
DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
# Settings that only a run with measured times has a use for; the last three only --throughput.
MEASURED = ("workload", "repeats", "warmup", "min_seconds", "max_seconds")
TIMING_ONLY = (*MEASURED, "random_weights", "layers", "width")
LIST_KINDS = ("methods", "benches", "models", "suites")


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; `out`, `quiet` and `verbose` are the only ones that cannot
    change a number."""

    methods: tuple[str, ...] = ()
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
    n_text: int = 58
    n_out: int = 32
    costs_only: bool = False
    published: str | None = None
    study: str | None = None  # the suite file that holds it
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
            return {"with_throughput"}
        found = {"throughput", *TIMING_ONLY, "with_throughput"}
        found -= {*MEASURED, "with_throughput"} if self.with_throughput else set()
        if not self.costs_only:
            found |= {"n_text"} if self.with_throughput else {"n_text", "n_out"}
        return found

    def recorded(self) -> dict[str, Any]:
        """The settings that must agree when a run directory is resumed (JSON-able)."""
        skip = {"out", "quiet", "verbose"}
        skip |= set() if self.published else {"published"}
        skip |= set() if self.study else {"study"}
        skip |= self.idle
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in skip}
        for name in ("methods", "bench", "workload"):
            if name in values:
                values[name] = list(values[name])
        values["checkpoint"] = dict(sorted(self.checkpoint.items()))
        return values


def flag(name: str) -> str:
    """The command-line spelling of a settings field."""
    return "--" + name.replace("_", "-")


def comma_list(text: str) -> tuple[str, ...]:
    """`a,b` -> ("a", "b"); empty items are refused."""
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise UsageError(f"empty item in the list '{text}'")
    return items


def benches(text: str) -> tuple[str, ...]:
    """A comma list of benches, each named once."""
    items = comma_list(text)
    for index, item in enumerate(items):
        if item in items[:index]:
            raise UsageError(f"'{item}' stands twice")
    return items


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = _integer(text)
    if value < 1:
        raise UsageError(f"expected a whole number of at least 1, got '{text}'")
    return value


def natural(text: str) -> int:
    """An integer of at least 0 that fits a 32-bit random seed."""
    value = _integer(text)
    if not 0 <= value < 2**32:
        raise UsageError(f"expected a whole number from 0 to {2**32 - 1}, got '{text}'")
    return value


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"expected a whole number, got '{text}'") from None


def seconds(text: str) -> float:
    """A finite number of seconds, 0 or more."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UsageError(f"expected a number of seconds, got '{text}'")
    return value


def workloads(text: str) -> tuple[str, ...]:
    """A comma list of workloads, in canonical form."""
    from harness.timing.workload import parse_workloads

    return parse_workloads(text)


def batch_size(text: str) -> int | str:
    """A positive integer, or `auto`."""
    return "auto" if text == "auto" else positive(text)


def one_of(
    kind: str, choices: tuple[str, ...], aliases: Mapping[str, str] | None = None
) -> Callable[[str], str]:
    """A validator for a closed list of words; `aliases` maps short forms to the words."""

    def check(text: str) -> str:
        value = (aliases or {}).get(text, text)
        if value not in choices:
            raise UsageError(unknown(kind, text, [*choices, *(aliases or {})]))
        return value

    return check


def device(text: str) -> str:
    """`auto`, `cpu`, `mps`, `cuda` or `cuda:N`."""
    if not DEVICE.fullmatch(text):
        raise UsageError(unknown("device", text, ("auto", "cpu", "cuda", "cuda:0", "mps")))
    return text


def data(text: str) -> str:
    """`auto`, `mini`, `hub`, or a folder with local copies of hub datasets."""
    if text not in DATA and not Path(text).expanduser().is_dir():
        raise UsageError(unknown("data source", text, DATA, "nor is it a folder"))
    return text


def checkpoint(text: str) -> tuple[str, str]:
    """`method=PATH_OR_ID` -> (method, path)."""
    name, equals, path = text.partition("=")
    if not (equals and name.strip() and path.strip()):
        raise UsageError(f"expected method=PATH_OR_ID, got '{text}'")
    return name.strip(), path.strip()


def non_empty(text: str) -> str:
    """Any text but the empty one."""
    if not text.strip():
        raise UsageError("expected a value, got nothing")
    return text


VALIDATORS: dict[str, Callable[[str], Any]] = {
    "methods": comma_list,
    "bench": benches,
    "model": non_empty,
    "data": data,
    "limit": positive,
    "batch_size": batch_size,
    "device": device,
    "dtype": one_of("dtype", DTYPES, DTYPE_ALIASES),
    "attn": one_of("attention backend", ATTENTION, ATTENTION_ALIASES),
    "seed": natural,
    "n_text": positive,
    "n_out": positive,
    "published": non_empty,
    "workload": workloads,
    "layers": positive,
    "width": positive,
    "repeats": positive,
    "warmup": positive,
    "min_seconds": seconds,
    "max_seconds": seconds,
    "out": non_empty,
}
SWITCHES = ("costs_only", "throughput", "with_throughput", "random_weights", "quiet", "verbose")


def convert(name: str, value: str, shown_as: str | None = None) -> Any:
    """`value` checked and converted for the settings field `name`; errors name the flag."""
    try:
        return VALIDATORS[name](value)
    except UsageError as error:
        raise UsageError(f"{shown_as or flag(name)}: {error}") from None


def add_checkpoint(found: dict[str, str], text: str) -> None:
    """Add one `method=PATH` to `found`; the same method with two paths is refused."""
    try:
        name, path = checkpoint(text)
    except UsageError as error:
        raise UsageError(f"--checkpoint: {error}") from None
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
    return settings
