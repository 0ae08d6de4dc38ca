"""What a run was asked to do: every option of the command line, declared once.

Torch-free. A field of `Settings`, declared in one of its three parts, is a flag and a key of suite
files; a new option is a new field.
Every value goes through its check whether it came from a flag or from a suite; a bad one is a
`UsageError` of one line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from harness.common.errors import UsageError
from harness.common.protocol import LMMS_EVAL, Protocol, asked_for
from harness.common.roots import DATA
from harness.options import validators
from harness.options.conditions import Conditions
from harness.options.doing import Doing
from harness.options.measuring import Measuring
from harness.options.option import COSTS, JobKind, Option, Record, checked, flag

SUITES = DATA / "suites"
LIST_KINDS = ("methods", "benches", "models", "suites", "protocols")
ASKING = ("protocol", "image_aspect", "template", "ocr", "boxes")  # recorded as one protocol


@dataclass(frozen=True)
class Settings(Measuring, Conditions, Doing):
    """Everything a run depends on; `out`, `quiet`, `verbose`, and who computes which cells
    (`shard`, `jobs`, `cluster`), are the only ones that cannot change a number; `margin` changes
    verdicts only, `against` what is shown first."""

    @property
    def job(self) -> JobKind:
        """The kind of run that the settings alone ask for."""
        if self.study:
            return JobKind.STUDY
        if self.costs_only:
            return JobKind.PUBLISHED if self.published else JobKind.COSTS_ONLY
        if self.throughput:
            return JobKind.THROUGHPUT
        return JobKind.TIMED_RUN if self.with_throughput else JobKind.RUN

    @property
    def asks_ocr(self) -> bool:
        """Whether OCR tokens were asked for by themselves, not as a part of a named protocol."""
        return self.ocr or "ocr=yes" in (self.protocol or "").split("+")

    @property
    def asking(self) -> Protocol:
        """How questions are put: the named protocol with the parts given by themselves."""
        return asked_for(self.protocol, self.template, self.image_aspect, self.ocr, self.boxes)

    @property
    def batch(self) -> int | str:
        """`batch_size`, and what it means where it was not given."""
        if self.batch_size is not None:
            return self.batch_size
        return 1 if self.job in JobKind.THROUGHPUT | COSTS else "auto"

    def changed(self) -> set[str]:
        """Names of the settings that are not at their default."""
        return {name for name, o in SETTING.items() if getattr(self, name) != o.default}

    def recorded(self) -> dict[str, Any]:
        """The settings that must agree when a run directory is resumed (JSON-able)."""
        values = {name: getattr(self, name) for name, o in SETTING.items() if self._records(o)}
        values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        values["batch_size"] = self.batch
        values = {name: value for name, value in values.items() if name not in ASKING}
        if self.asking != LMMS_EVAL:  # left out, a run from before the choice can be resumed
            values["protocol"] = str(self.asking)
        return values | {"checkpoint": dict(sorted(self.checkpoint.items()))}

    def _records(self, asked: Option) -> bool:
        return {
            Record.NEVER: False,
            Record.ALWAYS: True,
            Record.USED: self.job in asked.jobs,
            Record.SET: bool(getattr(self, asked.needs or asked.name)),
        }[asked.record]


SETTING: dict[str, Option] = {
    f.name: dataclasses.replace(f.metadata["option"], name=f.name) for f in fields(Settings)
}
"""The options that are settings, by name."""


def add_checkpoint(found: dict[str, str], text: str) -> None:
    """Add one `method=PATH` to `found`; the same method with two paths is refused."""
    name, path = checked("--checkpoint", validators.checkpoint, text)
    if found.setdefault(name, path) != path:
        raise UsageError(f"--checkpoint: '{name}' stands twice, with different weights")


def make_settings(values: Mapping[str, Any]) -> Settings:
    """`Settings` from converted values, checked against each other."""
    settings = Settings(**values)
    if settings.quiet and settings.verbose:
        raise UsageError("--quiet and --verbose exclude each other")
    for name in ("throughput", "costs_only"):
        if settings.with_throughput and getattr(settings, name):
            both = f"--with-throughput and {flag(name)} exclude each other"
            raise UsageError(f"{both}: it adds times to a run on benchmarks")
    if settings.shard and not settings.out:
        raise UsageError("--shard needs --out: each share has a run directory of its own")
    if settings.throughput and settings.gpu and not settings.concurrency:
        raise UsageError("--gpu has no meaning with --throughput without --concurrency")
    if settings.shard and settings.cluster:
        raise UsageError("--shard and --cluster exclude each other: the tasks take the shares")
    if "regret" in settings.analyse and settings.analyse_samples < 2:
        raise UsageError(
            "--analyse regret asks two questions: --analyse-samples must be at least 2"
        )
    if "plan" in settings.analyse and (settings.limit or math.inf) <= settings.analyse_samples:
        raise UsageError(
            f"--analyse: plans are checked on documents behind the first "
            f"{settings.analyse_samples}: give a larger --limit or a smaller --analyse-samples"
        )
    return settings
