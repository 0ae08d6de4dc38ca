"""Requests in flight: unequal prompts and answers around a workload's sizes. Torch-free.

A closed loop of ``in_flight`` requests: whoever has its answer asks again at once. Lengths of text
and answer are drawn between half and twice the workload's (uniform in their logarithm), the same
for every method; ``n_image=any`` draws images as well. Written like a workload:

    n_text=29-116:n_image=any:n_out=16-64:in_flight=8
    bench=gqa:n_out=16-64:in_flight=8                     documents of a bench, answers drawn
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.common.errors import UsageError
from harness.options.workload import LOWEST, Workload

SPREAD = 2  # lengths lie between a workload's over this and its times this
MOST = 1024  # in flight: pixels and prompts of all of them are held at once


@dataclass(frozen=True)
class Load:
    """A workload's sizes as the middle of what is drawn, and how many requests are in flight."""

    middle: Workload
    in_flight: int

    @property
    def bench(self) -> str:
        return self.middle.bench

    @property
    def batch(self) -> int:
        """Requests that the engine answers together: all that are in flight."""
        return self.in_flight

    @property
    def n_out(self) -> int:
        """The longest answer that is drawn."""
        return self.out_range[1]

    @property
    def text_range(self) -> tuple[int, int]:
        """Fewest and most text tokens of a prompt that no bench decides."""
        return spread(self.middle.n_text, LOWEST["n_text"])

    @property
    def out_range(self) -> tuple[int, int]:
        """Fewest and most new tokens."""
        return spread(self.middle.n_out, LOWEST["n_out"])

    @property
    def requests_spec(self) -> str:
        """What is drawn, without how many are in flight."""
        out = "-".join(map(str, self.out_range))
        if self.bench:
            return f"bench={self.bench}:n_out={out}"
        image = "any" if self.middle.n_image is None else self.middle.n_image
        return f"n_text={'-'.join(map(str, self.text_range))}:n_image={image}:n_out={out}"

    @property
    def spec(self) -> str:
        """The canonical text, which stands in the place of a bench in tables."""
        return f"{self.requests_spec}:in_flight={self.in_flight}"

    @property
    def largest(self) -> Workload:
        """A batch in which every request is as long as any: what must fit."""
        return replace(
            self.middle, n_text=self.text_range[1], n_out=self.out_range[1], batch=self.in_flight
        )


def spread(middle: int, least: int) -> tuple[int, int]:
    """The range that lengths are drawn from."""
    return max(least, middle // SPREAD), middle * SPREAD


def concurrency(text: str) -> tuple[int, ...]:
    """``1,8,32`` as numbers in ascending order, each once. Raises UsageError, one line."""
    found: list[int] = []
    for item in (part.strip() for part in text.split(",")):
        value = int(item) if item.isascii() and item.isdigit() and len(item) <= 6 else 0
        if not 1 <= value <= MOST:
            raise UsageError(
                f"expected whole numbers of requests in flight from 1 to {MOST}, as 1,8,32, "
                f"got '{item}'"
            )
        if value in found:
            raise UsageError(f"'{item}' stands twice")
        found.append(value)
    return tuple(sorted(found))
