"""A common budget beside a method's own parameters, so that methods compare at equal KV cache.

  tokens  image tokens of one image, all crops together, as a mean over the decoder's layers
  ratio   the same as a share of the image's tokens
  kv      the same as a share of the image part of the KV cache (of dense's)

``ratio`` and ``kv`` are two names of one number for methods that never move tokens between
layers; papers use either. At most one of the three may be given; then the method's own parameter
for the amount is not used. A mean over layers is what the cache holds: a method that prunes at
layer k keeps everything before it and less behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

from methods.base import Method, Tokens


@dataclass(frozen=True)
class Budgeted(Method):
    """Base of methods that take a budget."""

    tokens: int | None = None
    ratio: float | None = None
    kv: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("tokens", "ratio", "kv") if getattr(self, name) is not None]
        self.require(len(given) < 2, f"{' and '.join(given)} exclude each other: give one budget")
        self.require(self.tokens is None or self.tokens >= 0, "tokens must be 0 or more")
        for name, value in (("ratio", self.ratio), ("kv", self.kv)):
            self.require(value is None or 0 <= value <= 1, f"{name}={value} is outside 0..1")

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
