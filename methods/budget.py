"""A common budget beside a method's own parameters, so that methods compare at equal KV cache.

  tokens  image tokens of one image, all crops together, as a mean over the decoder's layers
  ratio   the same as a share of the image's tokens
  kv      the same as a share of the image part of the KV cache (of dense's)

``ratio`` and ``kv`` are two names of one number for methods that never move tokens between
layers; papers use either. At most one of the three may be given; then the method's own parameter
for the amount is not used. A mean over layers is what the cache holds: a method that prunes at
layer k keeps everything before it and less behind it.

A budget below what the layers before the first drop hold, or above what an image has, is refused
(``check``). Between the two a method may come near only (whole tokens, grids): see ``met``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from methods.base import Method, MethodError, ModelInfo, Tokens
from methods.params import param, to_text

TOKEN, SHARE = 1.0, 0.02  # how far a budget may be missed and still counts as met
NAMES = ("tokens", "ratio", "kv")


def met(wanted: float, got: float) -> bool:
    """Whether ``got`` image tokens, a mean over layers, are the ``wanted`` budget.

    They may miss it by one token, which is what rounding takes, or by 2 % of it: 13 x 15 pooled
    tokens are the nearest grid to 192.
    """
    return abs(got - wanted) <= max(TOKEN, SHARE * wanted) + 1e-9


def _smallest(name: str, least: list[int], n: int) -> str:
    mean, full = sum(least) / len(least), sum(count == n for count in least)
    kept = f"{full} of {len(least)} layers keep all {n} tokens"
    kept = kept if full else f"it never keeps fewer than {mean:g} tokens"
    first = math.ceil(mean) if name == "tokens" else rounded_up(mean / n)
    return f"{kept}, so the smallest is {name}={first:g}"


def rounded_up(share: float) -> float:
    """A share with four decimals, never below it: what an error names can be asked for."""
    return math.ceil(share * 1e4 - 1e-6) / 1e4


@dataclass(frozen=True)
class Budgeted(Method):
    """Base of methods that take a budget."""

    tokens: int | None = param(
        None, "budget: tokens of an image, all crops, as a mean over the layers"
    )
    ratio: float | None = param(None, "budget: the same as a share of the image's tokens")
    kv: float | None = param(None, "budget: the same as a share of the image part of the KV cache")

    def __post_init__(self) -> None:
        given = [name for name in NAMES if getattr(self, name) is not None]
        self.require(len(given) < 2, f"{' and '.join(given)} exclude each other: give one budget")
        self.require(self.tokens is None or self.tokens >= 0, "tokens must be 0 or more")
        for name, value in (("ratio", self.ratio), ("kv", self.kv)):
            self.require(value is None or 0 <= value <= 1, f"{name}={value} is outside 0..1")

    def check(self, info: ModelInfo) -> None:
        """Refuse a budget that no image of this model can meet.

        The sizes of an any-resolution image are known from the image alone, so these are held
        against its smallest, one crop; whether they met their budget, the records say.
        """
        name = next((name for name in NAMES if getattr(self, name) is not None), None)
        n = info.image_tokens or info.tower_side**2
        if name is None or not n:
            return
        value = getattr(self, name)
        asked = f"{name}={value:g} cannot be met on this model"
        short = self._short(name, info, n)
        if short is not None:
            ways = self.lower(info)
            near = next((w for w in ways if not replace(self, **w)._short(name, info, n)), {})
            way = " with ".join(f"{k}={to_text(v)}" for k, v in near.items())
            hint = f"; {way} would reach {value:g}" if way else ""
            crop = "" if info.image_tokens else " for an image of one crop"
            raise MethodError(f"{self.name}: {asked}: {_smallest(name, short, n)}{crop}{hint}")
        if name != "tokens" or info.image_tokens:  # else images of more crops have more
            most = self._most(name, info, n)
            unit = 1 if name == "tokens" else n
            enough = most is None or value * unit <= most or met(value * unit, most)
            largest = f"the largest is {name}={(most or 0) / unit:g}, an image has {n} tokens"
            self.require(enough, f"{asked}: {largest}")

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        """Changes of its own parameters that make smaller budgets reachable, smallest first."""
        return iter(())

    def _short(self, name: str, info: ModelInfo, n: int) -> list[int] | None:
        """What each layer holds of ``n`` tokens at the least, where that is above the budget."""
        least = self._at(name, 0, info, n)
        wanted = getattr(self, name) * (1 if name == "tokens" else n)
        mean = sum(least) / len(least) if least else 0.0
        return least if mean > wanted and not met(wanted, mean) else None

    def _most(self, name: str, info: ModelInfo, n: int) -> float | None:
        """The largest layer mean, where less than the budget is asked of the layers."""
        asked = self._at(name, getattr(self, name), info, n)
        wanted = getattr(self, name) * (1 if name == "tokens" else n)
        if asked is None or sum(asked) / len(asked) >= wanted:
            return None
        most = self._at(name, n if name == "tokens" else 1, info, n)
        return None if most is None else sum(most) / len(most)

    def _at(self, name: str, value: float, info: ModelInfo, n: int) -> list[int] | None:
        """Each layer's image tokens at another value of a budget; None where images decide."""
        changed: dict[str, Any] = {name: value}
        asked = replace(self, **changed).request(info, n)
        return None if asked is None else list(asked)

    def images(self, seq: Tokens) -> list[int]:
        """Images in each row; their places are asked for only where a budget needs them."""
        if self.tokens is None:
            return [1] * len(seq.counts)
        return [len(spans) for spans in seq.spans]

    def target(self, n: int, images: int = 1) -> float | None:
        """Image tokens wanted of ``n`` (of ``images`` images) as a mean over layers, or None."""
        if self.tokens is not None:
            return float(min(n, self.tokens * images))
        share = self.ratio if self.ratio is not None else self.kv
        return None if share is None else n * share

    def behind(
        self, n: int, images: int, layer: int, layers: int, running: int | None = None
    ) -> int | None:
        """Tokens of ``n`` to keep from ``layer`` on, to meet the budget; None without one.

        Before it there are ``running`` (None: all). A budget below what the first layers hold
        alone keeps nothing behind them.
        """
        wanted = self.target(n, images)
        if wanted is None:
            return None
        running = n if running is None else running
        left = (wanted * layers - running * layer) / (layers - layer)
        return min(running, max(0, round(left)))
