"""Retention plans: one share of the image tokens a layer, whose mean is the KV budget. Torch-free.

Sources
  arank, skip-layer, half-image   shares that grow with ARank, or with the damage measured
  arank-top4       γ-MoD's rule: the four layers of highest ARank dense, the others equal
  prd              p-MoD's cosine schedule (max 0.85, min 0.15), shifted until it meets the budget
  constant         p-MoD's constant schedule: layers 2..L-2 equal, the others dense
  gamma-default    γ-MoD's published layers: 0, 1, 2 and L-1 dense, the others equal
  fastv            FastV with k=2: all tokens in two layers, then one drop
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import rankdata

FLOOR = 0.15  # no planned layer goes below p-MoD's lowest ratio, if the budget allows
DECIMALS = 4
SLACK = 1e-9


@dataclass(frozen=True)
class RetentionPlan:
    """A plan by name: where it comes from, the method that runs it, and its shares a layer."""

    name: str
    source: str
    spec: str  # as --methods takes it
    retention: tuple[float, ...]

    @property
    def kv(self) -> float:
        """Share of dense's image-token cache."""
        return math.fsum(self.retention) / len(self.retention)


def allocate(scores: Sequence[float], budget: float, floor: float = FLOOR) -> tuple[float, ...]:
    """Shares [layers] that grow with `scores` and whose mean is `budget` (0..1).

    Shares are proportional to the score's rank among the layers (one layer that is worth twenty
    others would leave these alike), kept within `floor` (or the budget, if lower) and 1. A higher
    score never gets less, and a higher budget gives no layer less. Equal scores give equal shares.
    """
    weights = (rankdata(scores) - 0.5) / len(scores)
    low = min(floor, budget)

    def shares(scale: float) -> np.ndarray:
        return np.clip(scale * weights, low, 1.0)

    return _rounded(shares(_solve(lambda c: float(shares(c).mean()), budget, 1.0 / weights.min())))


def prd(depth: int, budget: float, high: float = 0.85, low: float = FLOOR) -> tuple[float, ...]:
    """p-MoD's progressive ratio decay with the shift that meets the budget.

    The schedule jumps from `high` to 1, so not every mean can be had by shifting: what is missing
    then is spread over the layers below 1 in proportion.
    """
    low = min(low, budget)
    cosine = 0.5 * np.cos(np.pi * np.arange(depth) / max(depth - 1, 1))

    def shares(shift: float) -> np.ndarray:
        raw = cosine + shift
        return np.where(raw > high, 1.0, np.maximum(raw, low))

    below, above = -1.0, 2.0
    for _ in range(80):
        middle = (below + above) / 2
        if shares(middle).mean() <= budget + SLACK:
            below = middle
        else:
            above = middle
    found = shares(below)
    if abs(found.mean() - budget) > 1e-6:
        base = found.copy()

        def scaled(factor: float) -> np.ndarray:
            return np.where(base < 1, np.minimum(base * factor, 1.0), 1.0)

        found = scaled(_solve(lambda c: float(scaled(c).mean()), budget, 1.0 / float(base.min())))
    return _rounded(found)


def dense_but(dense: Iterable[int], depth: int, budget: float) -> tuple[float, ...] | None:
    """All tokens in the layers `dense`, equal shares elsewhere; None if they alone cost more."""
    kept = set(dense)
    rest = depth - len(kept)
    share = (budget * depth - len(kept)) / rest if rest else -1.0
    if not -SLACK <= share <= 1:
        return None
    return _rounded([1.0 if i in kept else max(share, 0.0) for i in range(depth)])


def papers(depth: int, budget: float) -> list[RetentionPlan]:
    """The papers' schedules at this budget; those that cannot meet it are left out."""
    found = [_plan("prd", "p-MoD, cosine", prd(depth, budget))]
    ends = (0, 1, depth - 1)
    for name, source, dense in (
        ("constant", "p-MoD, constant", ends),
        ("gamma-default", "γ-MoD, published layers", (0, 1, 2, depth - 1)),
    ):
        shares = dense_but({i for i in dense if 0 <= i < depth}, depth, budget)
        if shares is not None:
            found.append(_plan(name, source, shares))
    pruned = 1 - (budget * depth - 2) / (depth - 2) if depth > 2 else -1.0
    if 0 <= pruned <= 1:
        pruned = round(pruned, DECIMALS)
        shares = tuple(1.0 if i < 2 else round(1 - pruned, DECIMALS) for i in range(depth))
        found.append(RetentionPlan("fastv", "FastV", f"fastv:r={pruned}", shares))
    return found


def measured(name: str, source: str, scores: Sequence[float], budget: float) -> RetentionPlan:
    """A plan from a score a layer."""
    return _plan(name, source, allocate(scores, budget))


def top_dense(scores: Sequence[float], budget: float, keep: int = 4) -> RetentionPlan | None:
    """γ-MoD's rule: the `keep` highest stay dense, ties to the lowest index; None if too dear."""
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    shares = dense_but(order[:keep].tolist(), len(scores), budget)
    return None if shares is None else _plan(f"arank-top{keep}", "γ-MoD's rule", shares)


def _plan(name: str, source: str, shares: tuple[float, ...]) -> RetentionPlan:
    steps = "+".join(str(share) for share in shares)
    return RetentionPlan(name, source, f"plan:steps={steps}", shares)


def _rounded(shares: Iterable[float]) -> tuple[float, ...]:
    return tuple(round(float(share), DECIMALS) for share in shares)


def _solve(mean: object, budget: float, top: float) -> float:
    """The scale in 0..top at which the mean, which grows with it, is the budget."""
    assert callable(mean)
    if mean(top) <= budget:
        return top
    if mean(0.0) >= budget:
        return 0.0
    return float(brentq(lambda scale: mean(scale) - budget, 0.0, top, xtol=1e-12))
