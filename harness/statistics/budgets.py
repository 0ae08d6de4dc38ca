"""Which rows of a run spend alike, so that their scores may be held against each other."""

from __future__ import annotations

from methods import BLIND, REFERENCE

BUDGET_POINTS = 1.5  # of the image's KV cache; one token of 144 is 0.7 points
ALL = 1.0 - 1e-9  # of the image's KV cache


def same_budget(kv: float | None, other: float | None) -> bool:
    """Whether two mean shares of the image's KV cache count as one budget."""
    if kv is None or other is None:
        return False
    return abs(kv - other) <= BUDGET_POINTS / 100 + 1e-9  # 1e-9: 1.5 points of binary fractions


def comparable(method_a: str, method_b: str, kv_a: float | None, kv_b: float | None) -> bool:
    """Whether two rows keep as much of the image's KV cache.

    Dense keeps all and stands beside rows that do as well, blind sees nothing and stands beside
    none.
    """
    if BLIND in (method_a, method_b) or kv_a is None or kv_b is None:
        return False
    if REFERENCE in (method_a, method_b):
        return min(kv_a, kv_b) >= ALL
    return same_budget(kv_a, kv_b)
