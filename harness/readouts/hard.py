"""Rows of hard.csv and slices.csv: documents that need the image at full resolution. Torch-free.

A document is right where its score is at least half of the full mark: 0.5 of exact match, VQA
accuracy, ANLS (whose own cut that is) or box IoU. It is `hard` where dense has it right, and wrong
on images of a quarter of the pixels (`methods.quarter`). Benches without scores by document, and
those where less is better, have no slices.

Dense chose these documents, so what it scores on them is no measurement of dense: an answer that
was right by luck is in, one that was wrong by luck is out, and every other row falls behind it. The
difference to dense is therefore not tested. How much luck there is, the `gained` say: wrong at full
resolution, right at a quarter. Tested is the difference to `downsample` at the row's own budget and
numbering: neither of the two chose the documents. All others are the `rest`, on which rows lose
less by the same choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.readouts.controls import ABOVE, NOT_ABOVE, Contender, matched
from harness.readouts.documents import Documents, Library, mean, numbers
from harness.readouts.fronts import Subject
from harness.statistics import stats
from methods import CONTROLS, REFERENCE

HALF = 0.5  # of the full mark, from which on an answer counts as right
LEAST = 10  # documents of a slice, below which there is neither interval nor verdict
RIVAL = "downsample"
HARD, REST = "hard", "rest"
PARTS = {(True, False): HARD, (True, True): "kept", (False, True): "gained"}


class Hard:
    """Computes the rows; those of a cell are drawn again only when a cell they need is new."""

    def __init__(self, seed: int, library: Library | None = None) -> None:
        self.seed, self.library = seed, library or Library()
        self._kept: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        self._contenders: Sequence[Contender] = ()
        self._pairs: dict[str, tuple[Contender, Subject]] = {}  # bench -> dense, at a quarter

    def update(self, contenders: Sequence[Contender], probes: Sequence[Subject]) -> None:
        """Take the finished cells, and those of dense at a quarter of the pixels."""
        self._contenders = contenders
        quarter = {one.about["bench"]: one for one in probes if one.scores}
        self._pairs = {}
        for one in contenders:
            main, bench = one.subject, one.subject.about["bench"]
            other = quarter.get(bench)
            known = main.about["method"] == REFERENCE and main.scores and main.higher_is_better
            if known and other is not None and other.metric == main.metric:
                self._pairs[bench] = one, other

    def documents(self) -> Iterator[dict[str, Any]]:
        """A row a document of every bench that can be sliced."""
        for bench, (dense, quarter) in self._pairs.items():
            docs, top, scores = self._scores(dense, quarter)
            rule = f"right: a score of at least {HALF * top:g}"
            for doc, full, less in zip(docs.ids, *scores.tolist(), strict=True):
                part = PARTS.get((full >= HALF * top, less >= HALF * top), "wrong")
                yield {
                    "bench": bench, "metric": dense.subject.metric, "rule": rule, "doc_id": doc,
                    "slice": part, "dense_score": full, "quarter_score": less,
                }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """Two rows a cell, in the given order, with the verdicts against the control."""
        found = [row for one in self._contenders for row in self._of(one)]
        for name in (HARD, REST):
            tested = [row for row in found if row["slice"] == name and "p_value" in row]
            adjusted = stats.holm([row["p_value"] for row in tested]) if tested else []
            for row, p_value in zip(tested, adjusted, strict=True):
                word = ABOVE if row["control_delta"] > 0 and p_value < stats.ALPHA else NOT_ABOVE
                known = row["control_ci_low"] is not None
                row |= {"p_adjusted": p_value, "verdict": word if known else None}
        return found

    def _scores(self, dense: Contender, quarter: Subject) -> tuple[Documents, float, stats.Floats]:
        """The documents of both, the top of the scale, and the scores [2, n] of either."""
        main = dense.subject
        docs = self.library.shared(self.library.of(main.scores, main.images), quarter.scores)
        scores = np.stack([numbers(main.scores, docs), numbers(quarter.scores, docs)])
        return docs, stats.top_score(scores.ravel()), scores

    def _of(self, one: Contender) -> list[dict[str, Any]]:
        about = one.subject.about
        pair = self._pairs.get(about["bench"])
        if pair is None or not one.subject.scores or one.subject.metric != pair[0].subject.metric:
            return []
        judged = about["method"] not in (REFERENCE, *CONTROLS)
        rivals = matched(one, RIVAL, self._contenders) if judged else []
        ids = (one, pair[0], *rivals)
        key = (*(other.cell_id for other in ids), pair[1].about["cell_id"])
        if key not in self._kept:
            self._kept[key] = [self._row(one, *pair, rivals, name) for name in (HARD, REST)]
        return [dict(row) for row in self._kept[key]]

    def _row(
        self,
        one: Contender,
        dense: Contender,
        quarter: Subject,
        rivals: Sequence[Contender],
        name: str,
    ) -> dict[str, Any]:
        """One cell on one part of its bench, before the correction for many comparisons."""
        docs, top, (full, less) = self._scores(dense, quarter)
        chosen = (full >= HALF * top) & (less < HALF * top)
        places = np.flatnonzero(chosen == (name == HARD)).tolist()
        part = Documents(tuple(docs.ids[i] for i in places), tuple(docs.images[i] for i in places))
        scores = one.subject.scores
        part = self.library.shared(part, scores, *(other.subject.scores for other in rivals))
        row = {**one.subject.about, "metric": one.subject.metric, "slice": name, "n": len(part)}
        if not len(part):
            return row | {"images": 0}
        ours, theirs = numbers(scores, part), numbers(dense.subject.scores, part)
        row |= {
            "images": int(part.groups.numbers.max()) + 1,
            "value": mean(ours),
            "dense_value": mean(theirs),
            "quarter_value": mean(numbers(quarter.scores, part)),
            "control_label": " | ".join(other.subject.about["label"] for other in rivals),
        }
        if one.cell_id != dense.cell_id:
            row["delta"] = mean(ours) - mean(theirs)
        control = None
        if rivals:
            each = [numbers(other.subject.scores, part) for other in rivals]
            control = np.mean(each, axis=0)
            row |= {"control_value": mean(control), "control_delta": mean(ours) - mean(control)}
        if len(part) < LEAST:
            return row
        interval = stats.mean_interval(ours, part.groups, self.seed)
        paired = stats.paired(ours, theirs, part.groups, self.seed)
        assert interval is not None and paired is not None  # there are documents
        row |= {"ci_low": interval.low, "ci_high": interval.high}
        if one.cell_id != dense.cell_id:
            row |= {"delta_ci_low": paired.delta.low, "delta_ci_high": paired.delta.high}
        if control is not None:
            tested = stats.paired(ours, control, part.groups, self.seed)
            assert tested is not None
            row |= {
                "control_ci_low": tested.delta.low,
                "control_ci_high": tested.delta.high,
                "p_value": tested.p_value,
            }
        return row
