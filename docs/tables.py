"""The tables of `reference.md`, from the declarations that the program itself reads."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.options.flags import OPTIONS, default_of
from harness.options.option import JobKind, Option, Record, flag
from harness.store.columns import (
    answers,
    capacity,
    costs,
    families,
    layers,
    load,
    pairs,
    reference,
    regret,
    slices,
    study,
    times,
)
from harness.store.columns.table import TYPES, Table

HEAD = ("flag", "default", "meaning", "with", "recorded")
SET = Record.SET
FILES = [
    table
    for module in (
        *(answers, pairs, reference, slices, costs, capacity, times),
        *(load, layers, regret, study, families),
    )
    for table in vars(module).values()
    if isinstance(table, Table)
]


def tables() -> dict[str, str]:
    """Marker of `reference.md` -> the Markdown that stands in its place."""
    return {"<!-- options -->": _options(), "<!-- files -->": "\n".join(map(_file, FILES))}


def _options() -> str:
    groups = dict.fromkeys(one.group for one in OPTIONS)
    parts = []
    for group in groups:
        rows = [_option(one) for one in OPTIONS if one.group == group]
        parts.append(f"**{prose(group.capitalize())}**\n\n{as_table(HEAD, rows)}\n")
    return "\n".join(parts)


def _option(one: Option) -> tuple[str, ...]:
    words = (one.metavar,) if isinstance(one.metavar, str) else one.metavar or ()
    return (
        f"`{' '.join([flag(one.name), *words])}`",
        default_of(one),
        prose(one.help),
        prose(_jobs(one)),
        prose(f"with {flag(one.needs)}" if one.record is SET and one.needs else one.record.value),
    )


def _jobs(one: Option) -> str:
    if one.jobs == ~JobKind(0):
        return "every job"
    shown = [flag("with_throughput") if j is JobKind.TIMED_RUN else j.shown for j in one.jobs]
    if JobKind.RUN in one.jobs:  # then also with times
        shown.remove(flag("with_throughput"))
    return ", ".join(shown)


def prose(text: str) -> str:
    """Flags as code, or two dashes would become one long one; and no HTML."""
    return re.sub(r"(?<!`)--[a-z][a-z-]*", r"`\g<0>`", text.replace("<", "&lt;"))


def _file(table: Table) -> str:
    rows = [
        (
            f"`{c.name}`" + (r"\*" if c.name in table.key else ""),
            TYPES[c.type],
            c.unit,
            c.meaning,
        )
        for c in table.about_columns
    ]
    head = ("column", "type", "unit", "meaning")
    return f"### `{table.file}`\n\n{table.about}\n\n{as_table(head, rows)}\n"


def as_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", r"\|") for c in line) + " |" for line in lines
    )
