"""`--budgets`: every method that takes a budget, once a budget. Torch-free.

A method takes budgets in tokens of one image (`tokens`) or as shares of its KV cache (`kv`). One
that has no such parameter, or states a budget itself, stays as it is. Whether a budget can be met
is the method's to say (`Method.fits`), before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.families.catalog import info_of
from harness.jobs.matched import given_budget
from methods.base import MethodError

if TYPE_CHECKING:
    from harness.families.shapes import ModelShape

FLAG = "--budgets"


def with_budgets(
    methods: Sequence[Any], budgets: Sequence[str], shape: ModelShape
) -> tuple[list[Any], tuple[str, ...]]:
    """The methods with a row a budget in the place of each that takes one, and a line on that.

    Raises UsageError for a budget that a method cannot meet, and where no method takes one.
    """
    if not budgets:
        return list(methods), ()
    in_tokens = "." not in budgets[0]
    name = "tokens" if in_tokens else "kv"
    values = [int(b) if in_tokens else float(b) for b in budgets]
    found: dict[Any, None] = {}
    spread: list[str] = []
    own: list[str] = []
    without: list[str] = []
    for method in methods:
        if not _takes(method, name) or given_budget(method) is not None:
            found[method] = None
            (own if given_budget(method) is not None else without).append(method.label)
            continue
        spread.append(method.label)
        found |= dict.fromkeys(_rows(method, name, values))
    if not spread:
        raise UsageError(f"{FLAG}: nothing to expand: {_left(own, without, name)}")
    check_budgets([method for method in found if method not in methods], shape)
    return [*found], (_said(spread, name, budgets, _left(own, without, name)),)


def _takes(method: Any, name: str) -> bool:
    """Whether it has the parameter as a budget; elsewhere `tokens` may be an amount of its own."""
    known = {field.name for field in fields(method)}
    return name in known and "kv" in known


def _rows(method: Any, name: str, values: Sequence[float]) -> list[Any]:
    try:
        return [replace(method, **{name: value}) for value in values]
    except MethodError as error:
        raise UsageError(f"{FLAG}: {one_line(error)}") from None


def check_budgets(rows: Sequence[Any], shape: ModelShape) -> None:
    """Refuse budgets out of reach. Raises UsageError: the first in full, the others by name."""
    wrong: dict[str, str] = {}
    for row in rows:
        try:
            row.fits(info_of(shape))
        except MethodError as error:
            wrong.setdefault(row.name, one_line(error))
    if wrong:
        first, *others = wrong
        more = f" (nor is every budget within reach of {', '.join(others)})" if others else ""
        raise UsageError(
            f"{FLAG}: {wrong[first]}{more}; a method that states a budget of its own in --methods "
            "stays as it is"
        )


def _left(own: Sequence[str], without: Sequence[str], name: str) -> str:
    has = f"{', '.join(own)} {'states its' if len(own) == 1 else 'state their'} own" if own else ""
    few = len(without) == 1
    none = f"{', '.join(without)} {'takes' if few else 'take'} no budget" if without else ""
    none += " in tokens" if none and name == "tokens" else ""
    return "; ".join(filter(None, (has, none)))


def _said(spread: Sequence[str], name: str, budgets: Sequence[str], left: str) -> str:
    rows = f"{FLAG}: {', '.join(spread)} at {name} {', '.join(budgets)}"
    return f"{rows}; as they are: {left}" if left else rows
