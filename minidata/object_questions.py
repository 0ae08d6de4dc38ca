"""Questions about object pictures in the forms of gqa, pope and scienceqa."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from minidata.objects import pick_kind
from minidata.scene import Box, Question
from minidata.vocab import (
    ANIMAL_CLASSES,
    CLASS_OF,
    COLORS,
    GROUP_OF,
    GROUPS,
    PLACES,
    article,
    plural,
)

SIDES = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


class View:
    """Look-ups on one composition."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.things = spec["things"]
        self.kinds = [t["kind"] for t in self.things]
        self.colors = [t["color"] for t in self.things]
        self.cells = [t["cell"] for t in self.things]
        self.count = Counter(self.kinds)
        self.unique = [i for i, k in enumerate(self.kinds) if self.count[k] == 1]
        self.at = {c: i for i, c in enumerate(self.cells)}

    def neighbour(self, i: int, side: str) -> int | None:
        """Index of the nearest thing in the same row or column on that side."""
        row, col = divmod(self.cells[i], 3)
        down, right = SIDES[side]
        for _ in range(2):
            row, col = row + down, col + right
            if not (0 <= row < 3 and 0 <= col < 3):
                return None
            if row * 3 + col in self.at:
                return self.at[row * 3 + col]
        return None


def ask(spec: dict[str, Any], boxes: list[Box], rng: random.Random) -> list[Question]:
    """All questions of the picture, at most about 14, mixed over the three benchmarks."""
    view = View(spec)
    wide = _places(view) + _colors(view) + _relations(view)
    rng.shuffle(wide)
    counts = _counts(view, rng)
    yes_no = _comparisons(view, rng)
    gqa = wide[:6] + counts[:2] + yes_no[:2]
    return gqa + _pope(view, rng) + _science(view, rng)


def _q(template: str, question: str, answer: str, *evidence: int) -> Question:
    return Question("gqa", template, question, answer, evidence=list(evidence))


def _places(view: View) -> list[Question]:
    out = []
    for i, (kind, cell) in enumerate(zip(view.kinds, view.cells, strict=True)):
        out.append(_q("what_at", f"What is in the {PLACES[cell]}?", kind, i))
        if i in view.unique:
            out.append(_q("where_is", f"Where is the {kind}?", PLACES[cell], i))
    return out


def _colors(view: View) -> list[Question]:
    out = []
    for i, (kind, color) in enumerate(zip(view.kinds, view.colors, strict=True)):
        if not color:
            continue
        if i in view.unique:
            out.append(_q("color_of", f"What color is the plate of the {kind}?", color, i))
        place = PLACES[view.cells[i]]
        out.append(_q("color_at", f"What color is the plate in the {place}?", color, i))
        same = [j for j, c in enumerate(view.colors) if c == color]
        if same == [i]:
            out.append(_q("what_on", f"What is on the {color} plate?", kind, i))
        if len(same) == 2 and i in view.unique:
            other = same[0] if same[1] == i else same[1]
            out.append(
                _q(
                    "same_as",
                    f"What has the same plate color as the {kind}?",
                    view.kinds[other],
                    i,
                    other,
                )
            )
    return out


def _relations(view: View) -> list[Question]:
    out = []
    for i in view.unique:
        for side in SIDES:
            j = view.neighbour(i, side)
            if j is not None:
                out.append(
                    _q("relation", f"What is {side} the {view.kinds[i]}?", view.kinds[j], i, j)
                )
    return out


def _counts(view: View, rng: random.Random) -> list[Question]:
    out = []
    repeated = [k for k, n in view.count.items() if n > 1]
    kind = rng.choice(repeated or view.kinds)
    where = [i for i, k in enumerate(view.kinds) if k == kind]
    if repeated or rng.random() < 0.25:
        out.append(_q("count_kind", f"How many {plural(kind)} are there?", str(len(where)), *where))
    group = GROUP_OF[rng.choice(view.kinds)]
    where = [i for i, k in enumerate(view.kinds) if GROUP_OF[k] == group]
    out.append(_q("count_group", f"How many {plural(group)} are there?", str(len(where)), *where))
    everything = range(len(view.kinds))
    out.append(_q("count_all", "How many objects are there?", str(len(view.kinds)), *everything))
    rng.shuffle(out)
    return out


def _comparisons(view: View, rng: random.Random) -> list[Question]:
    """Yes/no questions, balanced by drawing the wanted answer first."""
    out = []
    want = rng.random() < 0.5
    plated = [i for i in view.unique if view.colors[i]]
    pairs = [
        (i, j)
        for i in plated
        for j in plated
        if i != j and (view.colors[i] == view.colors[j]) == want
    ]
    if pairs:
        i, j = rng.choice(pairs)
        out.append(
            _q(
                "same_color",
                f"Do the {view.kinds[i]} and the {view.kinds[j]} have the same plate color?",
                "yes" if want else "no",
                i,
                j,
            )
        )
    want = rng.random() < 0.5
    rows = [
        (i, j)
        for i in view.unique
        for j in view.unique
        if (
            view.cells[i] % 3 < view.cells[j] % 3 if want else view.cells[i] % 3 > view.cells[j] % 3
        )
    ]
    if rows:
        i, j = rng.choice(rows)
        out.append(
            _q(
                "is_left",
                f"Is the {view.kinds[i]} to the left of the {view.kinds[j]}?",
                "yes" if want else "no",
                i,
                j,
            )
        )
    rng.shuffle(out)
    return out


def _absent(view: View, rng: random.Random, group: str | None) -> str | None:
    """A kind that is not in the picture, as often as it would be drawn into one.

    Drawn like the present ones, so that a kind's name alone says nothing about the answer.
    """
    for _ in range(20):
        kind = pick_kind(rng, group)
        if kind not in view.count:
            return kind
    return None


def _pope(view: View, rng: random.Random) -> list[Question]:
    """One present and one absent kind; half of the absent ones share a group with a present one."""
    present = rng.choice(sorted(view.count))
    where = [i for i, k in enumerate(view.kinds) if k == present]
    near = GROUP_OF[rng.choice(view.kinds)] if rng.random() < 0.5 else None
    absent = _absent(view, rng, near) or _absent(view, rng, None)
    out = [
        Question(
            "pope", "exists", f"Is there {article(present)} in the image?", "yes", evidence=where
        )
    ]
    if absent:
        out.append(Question("pope", "absent", f"Is there {article(absent)} in the image?", "no"))
    return out


def _choice(
    rng: random.Random, template: str, question: str, right: str, wrong: list[str], *evidence: int
) -> Question:
    choices = [right, *wrong]
    rng.shuffle(choices)
    letter = chr(ord("A") + choices.index(right))
    return Question("scienceqa", template, question, letter, choices, list(evidence))


def _science(view: View, rng: random.Random) -> list[Question]:
    out = []
    # every group present is asked about equally often, or "animal" would be a good guess
    group = rng.choice(sorted({GROUP_OF[k] for k in view.kinds}))
    i = rng.choice([j for j, k in enumerate(view.kinds) if GROUP_OF[k] == group])
    kind, place = view.kinds[i], PLACES[view.cells[i]]
    size = rng.choice((2, 3, 3))
    draws = [_absent(view, rng, group) for _ in range(2 * size)]
    wrong = list(dict.fromkeys(k for k in draws if k))[:size]  # first come: keeps the weights
    if len(wrong) >= 2:
        out.append(
            _choice(rng, "which_shown", f"Which {group} is shown in the picture?", kind, wrong, i)
        )
    if group == "animal":
        wrong = [c for c in ANIMAL_CLASSES if c != CLASS_OF[kind]]
        out.append(
            _choice(
                rng,
                "class_at",
                f"What is the animal in the {place}?",
                CLASS_OF[kind],
                rng.sample(wrong, size),
                i,
            )
        )
    lure = [] if group == "animal" else ["animal"]
    wrong = [g for g in GROUPS if g not in (group, "animal")]
    out.append(
        _choice(
            rng,
            "group_at",
            f"To which group does the object in the {place} belong?",
            group,
            lure + rng.sample(wrong, size - len(lure)),
            i,
        )
    )
    others = sorted({k for k in view.kinds if k != kind})
    if len(others) >= 2:
        wrong = rng.sample(others, min(len(others), size))
        out.append(_choice(rng, "option_at", f"Which object is in the {place}?", kind, wrong, i))
        same = [j for j, c in enumerate(view.colors) if c == view.colors[i]]
        if view.colors[i] and {view.kinds[j] for j in same} == {kind}:
            out.append(
                _choice(
                    rng,
                    "option_on",
                    f"Which object is on a {view.colors[i]} plate?",
                    kind,
                    wrong,
                    *same,
                )
            )
    if view.colors[i]:
        wrong = rng.sample([c for c in sorted(COLORS) if c != view.colors[i]], size)
        out.append(
            _choice(
                rng,
                "option_color",
                f"What color is the plate in the {place}?",
                view.colors[i],
                wrong,
                i,
            )
        )
    rng.shuffle(out)
    if len({GROUP_OF[k] for k in view.kinds}) == 1:
        out.insert(
            0,
            _choice(
                rng,
                "common",
                "What do the objects have in common?",
                f"They are {plural(group)}.",
                [
                    f"They are {plural(g)}."
                    for g in rng.sample([g for g in GROUPS if g != group], size)
                ],
                *range(len(view.kinds)),
            ),
        )
    return out[:3]
