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
from methods.params import to_text

TOKEN, SHARE = 1.0, 0.02  # how far a budget may be missed and still counts as met
NAMES = ("tokens", "ratio", "kv")


def met(wanted: float, got: float) -> bool:
    """Whether ``got`` image tokens, a mean over layers, are the ``wanted`` budget.

    They may miss it by one token, which is what rounding takes, or by 2 % of it: 13 x 15 pooled
    tokens are the nearest grid to 192.
    """
    return abs(got - wanted) <= max(TOKEN, SHARE * wanted) + 1e-9


def rounded_up(share: float) -> float:
    """A share with four decimals, never below it: what an error names can be asked for."""
    return math.ceil(share * 1e4 - 1e-6) / 1e4


@dataclass(frozen=True)
class Budgeted(Method):
    """Base of methods that take a budget."""

    tokens: int | None = None
    ratio: float | None = None
    kv: float | None = None

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
        missed = self._missed(info)
        if missed is None:
            return
        name, smallest, why = missed
        ways = (change for change in self.lower(info) if self._reaches(change, info))
        way = " with ".join(f"{k}={to_text(v)}" for k, v in next(ways, {}).items())
        asked = f"{name}={getattr(self, name):g}"
        hint = f"; {way} would reach {getattr(self, name):g}" if way and smallest else ""
        raise MethodError(f"{self.name}: {asked} cannot be met on this model: {why}{hint}")

    def lower(self, info: ModelInfo) -> Iterator[dict[str, Any]]:
        """Changes of its own parameters that make smaller budgets reachable, smallest first."""
        return iter(())

    def _reaches(self, change: dict[str, Any], info: ModelInfo) -> bool:
        return replace(self, **change)._missed(info) is None

    def _missed(self, info: ModelInfo) -> tuple[str, bool, str] | None:
        """(parameter, whether it is too small, why) of a budget out of reach, else None."""
        name = next((name for name in NAMES if getattr(self, name) is not None), None)
        n = info.image_tokens or info.tower_side**2
        least = self._mean(name, 0, info, n) if name and n else None
        if name is None or least is None:
            return None
        unit = 1.0 if name == "tokens" else float(n)
        wanted = getattr(self, name) * unit
        if wanted < least[0] and not met(wanted, least[0]):
            full = sum(count == n for count in least[1])
            kept = f"{full} of {info.layers} layers keep all {n} tokens"
            kept = kept if full else f"it never keeps fewer than {least[0]:g} tokens"
            first = math.ceil(least[0]) if name == "tokens" else rounded_up(least[0] / n)
            crop = "" if info.image_tokens else " for an image of one crop"
            return name, True, f"{kept}, so the smallest is {name}={first:g}{crop}"
        if name == "tokens" and not info.image_tokens:
            return None  # images of more crops have more tokens
        asked = self._mean(name, getattr(self, name), info, n)
        if asked is None or asked[0] >= wanted or met(wanted, asked[0]):
            return None
        most = self._mean(name, n if name == "tokens" else 1, info, n)
        if most is None or wanted <= most[0] or met(wanted, most[0]):
            return None
        return name, False, f"the largest is {name}={most[0] / unit:g}, of {n} tokens an image"

    def _mean(
        self, name: str, value: float, info: ModelInfo, n: int
    ) -> tuple[float, list[int]] | None:
        """(Layer mean, each layer's image tokens) at another value of a budget, where known."""
        asked = replace(self, **{name: value}).request(info, n)
        return None if asked is None else (sum(asked) / len(asked), list(asked))

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
