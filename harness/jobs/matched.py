"""`--controls`: random, uniform, pool and downsample at every method's budget, and blind once.

Torch-free. A control that cannot run on the model (downsample on any-resolution images) is left
out.

They number their tokens as the method does (`Method.numbering`): at one budget with methods of both
kinds every control stands twice, since numbering alone can cost more than the choice of tokens.
A method's budget is the one that it was given (`kv`, `tokens`, `ratio`), else what its parameters
ask of the model's layers (`Method.request`), as a mean over layers. Where the images decide there
is none to match beforehand; the method is named. Budgets nearer to each other than `SAME` share
their controls: the report compares rows up to 1.5 points apart (`harness.readouts.controls`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.families.catalog import REGISTRY, info_of
from methods import BLIND, MATCHED, load
from methods.base import MethodError
from methods.budget import Budgeted

if TYPE_CHECKING:
    from harness.families.shapes import ModelShape
    from methods.base import ModelInfo

SAME = 0.005  # of the image's tokens, as a mean over layers


def with_controls(
    methods: Sequence[Any], shape: ModelShape, make: Callable[[Sequence[str]], list[Any]]
) -> tuple[list[Any], tuple[str, ...]]:
    """The methods with the controls they lack behind them, and a line on what has none.

    `make` builds methods from `name:key=value` texts.
    """
    info, n = info_of(shape), REGISTRY[shape.family].budget_tokens(shape)
    budgets = {method: budget_of(method, info, n) for method in methods}
    # Shares that each control already stands at, by the way it numbers its tokens.
    there: dict[tuple[str, str], list[float]] = {}
    for method, budget in budgets.items():
        # A control counts as what it was given: pool's grids may miss it, again and again.
        known = given_budget(method) or budget
        if method.name in MATCHED and known:
            there.setdefault((method.name, method.numbering), []).append(_share(known, n))
    specs, without = [], []
    controls = [name for name in MATCHED if _fits(name, info)]
    for method, budget in budgets.items():
        if method.role != "method":
            continue
        if budget is None:
            without.append(method.label)
            continue
        share, kind = _share(budget, n), method.numbering or "original"
        if share >= 1:
            continue  # it processes every token, as dense does
        for name in controls:
            shares = there.setdefault((name, kind), [])
            if all(abs(share - other) > SAME for other in shares):
                shares.append(share)
                specs.append(f"{name}:{budget[0]}={_text(budget[1])}:positions={kind}")
    if BLIND not in {method.name for method in methods}:
        specs.append(BLIND)
    said = f"no matched controls for {', '.join(without)}: the images decide what it keeps"
    return [*methods, *(make(specs) if specs else [])], (said,) if without else ()


def budget_of(method: Any, info: ModelInfo, n: int) -> tuple[str, float] | None:
    """(parameter of a control, value) that asks for as much as `method` does, or None.

    A given budget that the method cannot meet (FastV keeps all tokens before layer k) gives way
    to what the method asks for instead.
    """
    try:
        asked = method.request(info, n)
    except MethodError as error:
        raise UsageError(f"--methods: {one_line(error)}") from None
    share = None if asked is None else sum(asked) / (len(asked) * n)
    given = given_budget(method)
    if given and (share is None or abs(_share(given, n) - share) <= SAME):
        return given
    return None if share is None else ("kv", round(share, 4))


def given_budget(method: Any) -> tuple[str, float] | None:
    """The budget among a method's parameters as a control takes it: `kv` (a share) or `tokens`."""
    # Elsewhere `ratio` and `tokens` are amounts of the method's own: gamma's is a share of tokens
    # that its training skips.
    names = ("kv", "ratio", "tokens") if isinstance(method, Budgeted) else ("kv",)
    found = {name: getattr(method, name, None) for name in names}
    for name, value in found.items():
        if value is not None:
            return ("tokens" if name == "tokens" else "kv"), float(value)
    return None


def _fits(name: str, info: ModelInfo) -> bool:
    """Whether a control can run on this model at all."""
    try:
        load(name)().fits(info)
    except MethodError:
        return False
    return True


def _share(budget: tuple[str, float], n: int) -> float:
    name, value = budget
    return min(1.0, value / n) if name == "tokens" else value


def _text(value: float) -> str:
    return f"{value:.4f}".rstrip("0").rstrip(".")
