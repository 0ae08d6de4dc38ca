"""What counters of FLOPs found, against the closed form: single sizes, and curves over sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.common.errors import HarnessError
from harness.store.columns import COUNTERS

TOLERANCE = 0.005
# Sizes of one curve that are counted one by one, some 20 ms each; the rest lie on the curve.
SINGLY = 24


class RefereeError(HarnessError):
    """A counter met an operator it does not know, or the counters disagree."""


@dataclass(frozen=True)
class Finding:
    """One scope at one size: FLOPs by the closed form and by both counters."""

    scope: str  # vision, projector, llm_layer, lm_head, router
    size: str
    closed_form: float
    fvcore: float
    torch: float

    @property
    def difference(self) -> float:
        """The larger of both relative differences to the closed form."""
        pair = (self.fvcore, self.torch)
        if not self.closed_form:
            return float("inf") if any(pair) else 0.0
        return max(abs(x / self.closed_form - 1) for x in pair)

    def checked(self) -> Finding:
        """Itself; RefereeError when a counter is off by more than `TOLERANCE`."""
        if self.difference > TOLERANCE:
            raise RefereeError(
                f"FLOPs of {self.scope} at {self.size} disagree by {self.difference:.1%}: closed "
                f"form {self.closed_form:.6g}, fvcore {self.fvcore:.6g}, torch {self.torch:.6g}"
            )
        return self


def described(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `run.json` keeps of an examination (JSON-able): FLOPs of each part, three times."""
    return {
        "unit": "FLOP",
        "tolerance": TOLERANCE,
        "largest_difference": max(one.difference for one in findings),
        "checked": [
            f"{f.scope}, {f.size}: closed form {f.closed_form:.9g}, fvcore {f.fvcore:.9g}, "
            f"torch {f.torch:.9g}"
            for f in findings
        ],
    }


class Curve:
    """FLOPs of one module over its size (tokens or keys), by both counters.

    A module of linear layers and attention costs a polynomial in its size, so a few counted sizes
    tell all others: `nodes`, one more than its degree, make the curve, and one more size, `proof`,
    must lie on it. Methods that decide by content keep any number of tokens, and counting each
    would take minutes; of the sizes that samples bring, the first `SINGLY` and every one beyond
    the largest so far are counted too and must lie on the curve. Numbers always come from the
    curve, in exact arithmetic, so they do not depend on which samples came before.
    """

    def __init__(self, at: Callable[[int], Finding], nodes: Sequence[int], proof: int) -> None:
        self.at, self.nodes, self.proof = at, tuple(nodes), proof
        self._seen: set[int] = set()

    @cached_property
    def _powers(self) -> dict[str, list[Fraction]]:
        """counter -> coefficients, lowest power first."""
        found = [self.at(size) for size in self.nodes]
        powers = {c: _through(self.nodes, [getattr(f, c) for f in found]) for c in COUNTERS}
        self._seen.update(self.nodes)
        self._check(self.proof, powers)
        return powers

    def _check(self, size: int, powers: dict[str, list[Fraction]]) -> None:
        found = self.at(size)
        self._seen.add(size)
        for counter, terms in powers.items():
            line = float(sum(c * size**i for i, c in enumerate(terms)))
            if abs(line - getattr(found, counter)) > TOLERANCE * found.closed_form:
                raise RefereeError(
                    f"FLOPs of {found.scope} at {found.size}: {counter} counts "
                    f"{getattr(found, counter):.6g}, its other sizes say {line:.6g}"
                )

    def total(self, sizes: NDArray[np.int64]) -> dict[str, float]:
        """counter -> FLOPs summed over calls of these sizes."""
        sizes = sizes[sizes > 0]
        if not sizes.size:
            return dict.fromkeys(COUNTERS, 0.0)
        powers = self._powers
        if len(self._seen) < SINGLY:
            new = [int(size) for size in np.unique(sizes)[::-1] if size not in self._seen]
        else:
            new = [int(sizes.max())] if sizes.max() > max(self._seen) else []
        for size in new[: max(1, SINGLY - len(self._seen))]:
            self._check(size, powers)
        sums = [int((sizes.astype(np.int64) ** i).sum()) for i in range(len(self.nodes))]
        return {
            counter: sum(c * s for c, s in zip(terms, sums, strict=True)) / whole
            for counter, (terms, whole) in self._whole.items()
        }

    @cached_property
    def _whole(self) -> dict[str, tuple[list[int], int]]:
        """counter -> `_powers` as whole numbers over one denominator: as exact, and faster."""
        found = {}
        for counter, terms in self._powers.items():
            whole = math.lcm(*(term.denominator for term in terms))
            found[counter] = [int(term * whole) for term in terms], whole
        return found


def _through(sizes: Sequence[int], values: Sequence[float]) -> list[Fraction]:
    """Coefficients, lowest power first, of the polynomial through the points (Lagrange)."""
    result = [Fraction(0)] * len(sizes)
    for size, value in zip(sizes, values, strict=True):
        terms = [Fraction(value)]
        for other in sizes:
            if other != size:  # times (x - other) / (size - other)
                shifted = [Fraction(0), *terms]
                for i, term in enumerate(terms):
                    shifted[i] -= other * term
                terms = [term / (size - other) for term in shifted]
        result = [a + b for a, b in zip(result, terms, strict=True)]
    return result
