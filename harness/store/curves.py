"""Which rows of a run make one curve, differing in their budget only. Torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass

from methods.budget import NAMES

TOKENS, SHARE = "tokens", "share"
SEEDED = "random"  # rows that differ in the seed besides are one curve: their mean


@dataclass(frozen=True)
class Place:
    """Where a row stands: on which curve, at which budget (as asked for)."""

    curve: tuple[str, str]
    """Method and all its other parameters, as JSON."""
    label: str
    """The row's label without the budget."""
    budget: tuple[str, float]
    """Unit and value, see `asked`."""


def asked(params: str) -> tuple[str, float] | None:
    """(unit, value) of the budget among a row's parameters (JSON), or None.

    Elsewhere than beside `kv` a `ratio` or `tokens` is an amount of the method's own: gamma's is a
    share of tokens that its training skips, p-MoD's that of one schedule's layers.
    """
    values = json.loads(params or "{}")
    for name in _names(values):
        if values.get(name) is not None:
            return (TOKENS if name == "tokens" else SHARE), float(values[name])
    return None


def place_of(method: str, params: str, label: str) -> Place | None:
    """The place of a row by its columns; None for a row without a budget."""
    budget = asked(params)
    if budget is None:
        return None
    values = json.loads(params)
    gone = {*_names(values), *(["seed"] if method == SEEDED else [])}
    rest = {name: value for name, value in values.items() if name not in gone}
    words = [word for word in label.split(" ") if word.partition("=")[0] not in gone]
    return Place((method, json.dumps(rest, sort_keys=True)), " ".join(words), budget)


def _names(values: dict[str, object]) -> tuple[str, ...]:
    return NAMES if all(name in values for name in NAMES) else ("kv",)
