"""Rows of fronts.csv: the accuracy-cost front of every bench and of their average. Torch-free.

Blind sees no image: it is the floor of a bench, not a way to make the model cheaper, and takes no
part. All the others are compared on the documents that every one of them answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.readouts.documents import Column, Library, numbers
from harness.statistics import joint
from harness.statistics.draws import RESAMPLES
from harness.statistics.stats import Floats, top_score
from methods import BLIND

AVERAGE = "(average)"  # stands in the bench column; no bench has such a name


@dataclass(frozen=True)
class Subject:
    """One finished cell: scores of its main metric and prefill TFLOP, by document."""

    about: Mapping[str, str]
    metric: str
    scores: Mapping[str, float]
    higher_is_better: bool
    prefill: Mapping[str, float]
    images: Mapping[str, str]

    @cached_property
    def top(self) -> float:
        """The best score of its scale, see `stats.top_score`."""
        return top_score(self._numbers)

    @property
    def _numbers(self) -> Floats:
        scores = self.scores
        if isinstance(scores, Column):
            return scores.numbers
        return np.fromiter(scores.values(), np.float64)

    @property
    def who(self) -> tuple[str, ...]:
        """The method with its parameters, the same on every bench."""
        return tuple(self.about.get(k, "") for k in ("model", "method", "params", "label"))


@dataclass(frozen=True)
class Resampled:
    """One bench: the methods in their order, their means, and the means of every draw.

    `scores` and `costs` are [1 + draws, methods], the sample itself first; scores are turned so
    that more is better, and are shares of the metric's scale.
    """

    subjects: tuple[Subject, ...]
    n: int
    images: int
    scores: Floats
    costs: Floats
    top: float

    @property
    def sign(self) -> float:
        return 1.0 if self.subjects[0].higher_is_better else -1.0


class Fronts:
    """Computes the rows; a bench is drawn again only when one of its cells is new."""

    def __init__(self, seed: int, library: Library | None = None) -> None:
        self.seed, self.library = seed, library or Library()
        self._kept: dict[str, tuple[tuple[str, ...], Resampled | None]] = {}

    def rows(self, subjects: Sequence[Subject]) -> list[dict[str, Any]]:
        """Bench by bench, then the average over benches where there are several."""
        benches: dict[str, list[Subject]] = {}
        for one in subjects:
            if one.about["method"] != BLIND and one.scores and one.prefill:
                benches.setdefault(one.about["bench"], []).append(one)
        drawn = [self._bench(name, found) for name, found in benches.items()]
        known = [one for one in drawn if one is not None]
        return [row for one in known for row in bench_rows(one)] + list(average_rows(known))

    def _bench(self, name: str, subjects: list[Subject]) -> Resampled | None:
        ids = tuple(one.about["cell_id"] for one in subjects)
        if name not in self._kept or self._kept[name][0] != ids:
            self._kept[name] = ids, resample(subjects, self.seed, self.library)
        return self._kept[name][1]


def resample(
    subjects: Sequence[Subject], seed: int, library: Library | None = None
) -> Resampled | None:
    """All methods of one bench on the same draws; None when they share no document."""
    first, library = subjects[0], library or Library()
    needed = [by_doc for one in subjects for by_doc in (one.scores, one.prefill)]
    docs = library.shared(library.of(first.scores, first.images), *needed)
    if not len(docs):
        return None
    raw = np.column_stack([numbers(one.scores, docs) for one in subjects])
    costs = np.column_stack([numbers(one.prefill, docs) for one in subjects])
    top = top_score(raw.ravel())
    scores = raw / top * (1.0 if first.higher_is_better else -1.0)
    values = np.hstack([scores, costs])
    means = joint.resampled_means(values, docs.groups, seed, first.about["bench"])
    means = np.vstack([values.mean(axis=0), means])
    scores, costs = np.split(means, 2, axis=1)
    count = int(docs.groups.numbers.max()) + 1
    return Resampled(tuple(subjects), len(docs), count, scores, costs, top)


def bench_rows(one: Resampled) -> Iterator[dict[str, Any]]:
    """A row a method of one bench."""
    about = [subject.about for subject in one.subjects]
    for row, score in zip(
        _rows(about, one.costs, one.scores), one.scores[0] * one.top * one.sign, strict=True
    ):
        yield {
            **row,
            "metric": one.subjects[0].metric,
            "n": one.n,
            "images": one.images,
            "score": score,
        }


def average_rows(benches: Sequence[Resampled]) -> Iterator[dict[str, Any]]:
    """A row a method that has every bench: the mean score, as a share of each metric's scale.

    Benches where less is better have no place in such a mean; nothing when fewer than two remain.
    """
    benches = [one for one in benches if one.subjects[0].higher_is_better]
    if len(benches) < 2:
        return
    everywhere = [
        who
        for who in dict.fromkeys(subject.who for subject in benches[0].subjects)
        if all(any(subject.who == who for subject in one.subjects) for one in benches)
    ]
    if not everywhere:
        return
    columns = [
        [next(i for i, s in enumerate(one.subjects) if s.who == who) for who in everywhere]
        for one in benches
    ]
    pairs = list(zip(benches, columns, strict=True))
    scores = np.mean([one.scores[:, column] for one, column in pairs], axis=0)
    costs = np.mean([one.costs[:, column] for one, column in pairs], axis=0)
    names = ("model", "method", "params", "label")
    about = [{**dict(zip(names, who, strict=True)), "bench": AVERAGE} for who in everywhere]
    for row, score in zip(_rows(about, costs, scores), scores[0], strict=True):
        yield {
            **row,
            "metric": f"mean of {len(benches)} benches",
            "n": sum(one.n for one in benches),
            "images": sum(one.images for one in benches),
            "score": score,
        }


def _rows(
    about: Sequence[Mapping[str, str]], costs: Floats, scores: Floats
) -> Iterator[dict[str, Any]]:
    """What a bench and the average have alike."""
    now = joint.on_front(costs[0], scores[0])
    share = joint.front_probability(costs[1:], scores[1:])
    for i, one in enumerate(about):
        yield {
            **one,
            "tflops_prefill": costs[0, i],
            "on_front": int(now[i]),
            "front_probability": share[i],
            "resamples": RESAMPLES,
        }
