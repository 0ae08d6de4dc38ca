"""Rows of controls.csv: every method against the controls that spend what it spends. Torch-free.

A control has a method's budget when the mean shares of the image's KV cache that the two keep lie
at most `BUDGET_POINTS` apart; `blind` keeps nothing and stands against every method. Several rows
of one control at a budget (seeds of `random`) are averaged document by document, so that their
luck is averaged out before the method is compared. Only the rows of a control count that number
their tokens as the method does (column `positions`): numbering alone can cost more than the choice
of tokens. Where the run has none of them, the method is compared with no row of that control.

The difference is the paired one of accuracy.csv (`statistics.stats.paired`, images drawn whole).
Verdict: `above` where the method scores better and its p-value is below 0.05 after Holm's
correction over all methods and benches of one control (each control is one question), else
`not above`; empty where no row of the control has the budget, or all documents show one image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.readouts.documents import Library, mean, numbers
from harness.readouts.fronts import Subject
from harness.statistics import stats
from harness.statistics.budgets import same_budget
from methods import BLIND, CONTROLS, REFERENCE

ABOVE, NOT_ABOVE = "above", "not above"


@dataclass(frozen=True)
class Contender:
    """A finished cell with what it keeps of the image's KV cache, where that was recorded."""

    subject: Subject
    kv: float | None
    positions: str = ""  # how its tokens are numbered, see `positions_of`

    @property
    def cell_id(self) -> str:
        return self.subject.about["cell_id"]


class Controls:
    """Computes the rows; a pair is drawn again only when one of its cells is new."""

    def __init__(self, seed: int, library: Library | None = None) -> None:
        self.seed, self.library = seed, library or Library()
        self._kept: dict[tuple[str, ...], dict[str, Any]] = {}

    def rows(self, contenders: Sequence[Contender]) -> list[dict[str, Any]]:
        """Method by method in the given order, a row a control; dense is no contender."""
        found = [
            (one, name, matched(one, name, contenders))
            for one in contenders
            if one.subject.about["method"] not in (REFERENCE, *CONTROLS) and one.subject.scores
            for name in CONTROLS
        ]
        rows = [self._row(*each) for each in found]
        return list(_judged(rows, [one.subject.higher_is_better for one, _, _ in found]))

    def _row(self, one: Contender, name: str, found: Sequence[Contender]) -> dict[str, Any]:
        key = (name, one.cell_id, *(other.cell_id for other in found))
        if key not in self._kept:
            self._kept[key] = compare(one, name, found, self.seed, self.library)
        return self._kept[key]


def matched(one: Contender, control: str, all_: Sequence[Contender]) -> list[Contender]:
    """The rows of a control on the same bench and metric at the budget of `one`."""
    about = one.subject.about
    found = [
        other
        for other in all_
        if other.subject.about["method"] == control
        and other.subject.about["bench"] == about["bench"]
        and other.subject.metric == one.subject.metric
        and other.subject.scores
    ]
    if control == BLIND:
        return found
    return [
        other
        for other in found
        if same_budget(one.kv, other.kv) and other.positions == one.positions
    ]


def positions_of(row: Mapping[str, str]) -> str:
    """How a cell numbers the tokens it keeps: `original`, `compact`, or "" (none or all leave).

    Rows of cells.csv from before there was a column say it by the parameter, if they have one.
    """
    if row.get("method") in (REFERENCE, BLIND):
        return ""
    said = row.get("positions") or json.loads(row.get("params") or "{}").get("positions")
    return str(said or "original")


def compare(
    one: Contender, name: str, found: Sequence[Contender], seed: int, library: Library
) -> dict[str, Any]:
    """The row of one method and one control, before the correction for many comparisons."""
    row: dict[str, Any] = {
        **one.subject.about,
        "metric": one.subject.metric,
        "control": name,
        "kv_ratio_vision": one.kv,
    }
    ours = one.subject.scores
    rows = [other.subject.scores for other in found]
    docs = library.shared(library.of(ours, one.subject.images), *rows)
    if not rows or not len(docs):
        return row
    pooled = numbers(rows[0], docs)
    for other in rows[1:]:  # one after the other: the same sums whoever adds them
        pooled = pooled + numbers(other, docs)
    scores = numbers(ours, docs), pooled / len(rows)
    paired = stats.paired(*scores, docs.groups, seed)
    assert paired is not None  # there are documents
    known = [other.kv for other in found if other.kv is not None]
    return row | {
        "control_label": " | ".join(other.subject.about["label"] for other in found),
        "control_rows": len(found),
        "control_kv": sum(known) / len(known) if known else None,
        "n": paired.n,
        "value": mean(scores[0]),
        "control_value": paired.dense,
        "delta": paired.delta.value,
        "delta_ci_low": paired.delta.low,
        "delta_ci_high": paired.delta.high,
        "p_value": paired.p_value,
    }


def _judged(
    rows: Sequence[dict[str, Any]], higher_is_better: Sequence[bool]
) -> Iterator[dict[str, Any]]:
    """The rows in their order with Holm's p-values and the verdicts from them."""
    p_values: dict[int, float] = {}
    for name in CONTROLS:
        family = [row for row in rows if row["control"] == name and "p_value" in row]
        found = stats.holm([row["p_value"] for row in family])
        p_values |= {id(row): p for row, p in zip(family, found, strict=True)}
    for row, better in zip(rows, higher_is_better, strict=True):
        p_value = p_values.get(id(row))
        if p_value is None:
            yield row
            continue
        gain = row["delta"] if better else -row["delta"]
        word = ABOVE if gain > 0 and p_value < stats.ALPHA else NOT_ABOVE
        known = row["delta_ci_low"] is not None
        yield row | {"p_adjusted": p_value, "verdict": word if known else None}
