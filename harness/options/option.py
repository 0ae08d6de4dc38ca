"""One word of the command line, declared once: argparse, suites, refusals and the docs follow it.

Torch-free.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.common.errors import UsageError

Check = Callable[[str], Any]
DO, SETTINGS, LAYERS, TIMES = (
    "what to do",
    "settings (all recorded)",
    "layer redundancy, beside benchmarks",
    "settings of --throughput and --with-throughput",
)


class JobKind(enum.Flag):
    """What a command line asks for."""

    RUN = enum.auto()
    TIMED_RUN = enum.auto()
    THROUGHPUT = enum.auto()
    COSTS_ONLY = enum.auto()
    PUBLISHED = enum.auto()
    STUDY = enum.auto()
    LIST = enum.auto()
    CHECK = enum.auto()
    PLOTS_ONLY = enum.auto()
    DIFF = enum.auto()
    DERIVE = enum.auto()
    JUDGE = enum.auto()

    @property
    def shown(self) -> str:
        """How messages and the docs call it."""
        words = {JobKind.RUN: "a run on benchmarks", JobKind.TIMED_RUN: "a run on benchmarks"}
        return (words | {JobKind.STUDY: "a study"}).get(self, flag(str(self.name).lower()))


ON_BENCHES = JobKind.RUN | JobKind.TIMED_RUN
MEASURING = JobKind.TIMED_RUN | JobKind.THROUGHPUT
RUNS = ON_BENCHES | JobKind.THROUGHPUT | JobKind.COSTS_ONLY
COSTS = JobKind.COSTS_ONLY | JobKind.PUBLISHED
WRITING = RUNS | JobKind.STUDY | JobKind.PUBLISHED | JobKind.PLOTS_ONLY | JobKind.DIFF
WRITING |= JobKind.CHECK


class Record(enum.Enum):
    """When a setting stands in run.json and must agree for a run to be resumed.

    USED: where the job has a use for it. SET: where it, or what it needs, is given.
    """

    NEVER = "no"
    ALWAYS = "yes"
    USED = "when used"
    SET = "when given"


@dataclass(frozen=True)
class Option:
    """``check`` makes the value of its text; without one the option is a switch.

    ``jobs``: where it has a meaning. ``needs``: the setting without which it has none.
    """

    name: str
    help: str
    check: Check | None = None
    metavar: str | tuple[str, ...] | None = None
    default: Any = None
    group: str = SETTINGS
    jobs: JobKind = RUNS
    record: Record = Record.ALWAYS
    repeats: bool = False
    needs: str = ""
    is_flag: bool = True  # else a key of suites alone
    in_suites: bool = True  # else a word of whoever runs it, and where

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)

    def convert(self, text: str, shown: str = "") -> Any:
        """The checked value; errors name the flag, or `shown`."""
        assert self.check is not None  # a switch has no text
        return checked(shown or flag(self.name), self.check, text)


def flag(name: str) -> str:
    """The command-line spelling of an option's name."""
    return "--" + name.replace("_", "-")


def checked(shown: str, check: Check, text: str) -> Any:
    """What `check` makes of a text; a UsageError of it names the flag or key, `shown`."""
    try:
        return check(text)
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None


def setting(
    default: Any,
    check: Check | None = None,
    metavar: str | None = None,
    *,
    help: str = "",
    **more: Any,
) -> Any:
    """A field of `Settings` that is an option."""
    value = {"default_factory": dict} if isinstance(default, dict) else {"default": default}
    option = Option("", help, check, metavar, default, **more)
    return dataclasses.field(**value, metadata={"option": option})
