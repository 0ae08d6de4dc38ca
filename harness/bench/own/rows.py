"""One row of own data, checked: what is asked, of which images, and what is right."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from string import ascii_uppercase, punctuation
from typing import Any

from harness.bench.own.images import Picture, Pictures
from harness.bench.own.tables import BadRow, Raw
from harness.common.errors import is_text, one_line
from harness.common.nearest import nearest

# Metric -> the name that its score has in tables; a file of several has their mean as SCORE.
METRICS = {
    "exact": "exact_match",
    "vqa": "vqa_accuracy",
    "anls": "anls",
    "relaxed": "relaxed_accuracy",
    "choice": "choice_accuracy",
    "contains": "contains",
    "iou": "ACC@0.5",
}
SCORE = "score"
MARK = "<image>"  # where an image goes in a question
UNREAD = str.maketrans("", "", punctuation)  # what `exact` leaves out
PEOPLE = 4  # answers from which on somebody can score 1 under `vqa`
LONGEST_ID = 200

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Row:
    """``boxes`` in pixels: left, top, right, bottom. ``answers`` of a choice: its letter."""

    id: str
    question: str
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    boxes: tuple[Box, ...]
    metric: str
    cluster: str
    post_prompt: str | None
    pictures: tuple[Picture, ...]

    @property
    def content(self) -> list[Any]:
        """All that a cell's key has to know, images by their content."""
        own = [self.id, self.question, self.answers, self.choices, self.boxes, self.metric]
        return [*own, self.cluster, self.post_prompt, [p.sha256 for p in self.pictures]]


def parse_row(raw: Raw, pictures: Pictures) -> Row:
    """A row that can be asked and scored. Raises BadRow with the first thing that is wrong."""
    if raw.fault is not None:
        raise raw.fault
    values = {name: value for name, value in raw.values.items() if not _absent(value)}
    shown = _pictures(values, pictures)
    question = _text(values, "question")
    marks = question.count(MARK)
    if marks not in (0, len(shown)):
        raise BadRow(f"{MARK} marks", f"its question has {marks} {MARK} for {len(shown)} images")
    choices, below = _texts(values, "choices"), _post_prompt(raw.values)
    if any(MARK in text for text in (*choices, below or "")):
        raise BadRow(f"{MARK} marks", f"{MARK} stands behind its question: only the question says "
                     "where images go")  # fmt: skip
    metric = _metric(values, bool(choices))
    boxes = _boxes(values.get("boxes"), shown)
    return Row(
        id=_id(values, raw.number),
        question=question,
        answers=_answers(values, metric, choices, boxes),
        choices=choices,
        boxes=boxes,
        metric=metric,
        cluster=_text(values, "cluster") if "cluster" in values else "",
        post_prompt=below,
        pictures=shown,
    )


def _absent(value: Any) -> bool:
    """Empty cells of a CSV, nulls, and what tables of other libraries have for them."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value == [] or (isinstance(value, float) and math.isnan(value))


def _text(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        raise BadRow(f"no {name}")
    return _as_text(values[name], name)


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        kind = type(value).__name__
        raise BadRow(f"{name} is no text", f"{name} is no text but {kind}: write it in quotes")
    if not is_text(value):
        raise BadRow(f"{name} is no text", f"{name} holds what is no character")
    return value.strip()


def _texts(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = values.get(name, [])
    if not isinstance(found, list):
        raise BadRow("no list", f"{name} is no list")
    if any(_absent(one) for one in found):
        raise BadRow(f"empty {name}", f"one of its {name} is empty")
    return tuple(_as_text(one, name) for one in found)


def _id(values: Mapping[str, Any], number: int) -> str:
    found = _text(values, "id") if "id" in values else str(number)
    if len(found) > LONGEST_ID or not found.isprintable():
        raise BadRow("unfit id", f"its id is not one line of at most {LONGEST_ID} characters")
    return found


def _post_prompt(values: Mapping[str, Any]) -> str | None:
    """None where the metric's own line is asked; an empty text asks none."""
    given = values.get("post_prompt")
    return None if given is None else _as_text(given, "post_prompt")


def _pictures(values: Mapping[str, Any], pictures: Pictures) -> tuple[Picture, ...]:
    if "image" in values and "images" in values:
        raise BadRow("image and images", "it has both image and images")
    found = values.get("images", [values.get("image")])
    if not isinstance(found, list):
        raise BadRow("no list", "images is no list")
    return tuple(pictures.of(one) for one in found)


def _metric(values: Mapping[str, Any], has_choices: bool) -> str:
    metric = _text(values, "metric") if "metric" in values else "choice" if has_choices else "exact"
    if metric not in METRICS:
        close = nearest(metric, METRICS)
        hint = f"did you mean '{close}'?" if close else f"choose from {', '.join(METRICS)}"
        raise BadRow("unknown metric", f"unknown metric '{one_line(metric, 40)}': {hint}")
    if has_choices != (metric == "choice"):
        needs = "needs choices" if metric == "choice" else "has no use for choices"
        raise BadRow("metric and choices", f"the metric {metric} {needs}")
    return metric


def _boxes(given: Any, pictures: tuple[Picture, ...]) -> tuple[Box, ...]:
    if given is None:
        return ()
    if len(pictures) != 1:
        raise BadRow(
            "boxes of several images", f"boxes belong to one image, it has {len(pictures)}"
        )
    if not isinstance(given, list) or not all(isinstance(box, list) for box in given):
        raise BadRow("no box", "boxes is no list of boxes: [[x0, y0, x1, y1]]")
    return tuple(_box(box, pictures[0]) for box in given)


def _box(box: list[Any], picture: Picture) -> Box:
    numbers = [v for v in box if isinstance(v, (int, float, Decimal)) and not isinstance(v, bool)]
    if len(box) != 4 or len(numbers) != 4:
        raise BadRow("no box", f"{one_line(str(box), 60)} is no box [x0, y0, x1, y1]")
    try:
        x0, y0, x1, y1 = map(float, numbers)
    except OverflowError:
        raise BadRow("no box", "a number of its box is too large to be one of pixels") from None
    shown = f"[{x0:g}, {y0:g}, {x1:g}, {y1:g}]"
    if not (x0 < x1 and y0 < y1):
        raise BadRow("no box", f"{shown} is no box: x0 < x1 and y0 < y1 in pixels")
    if not (x0 >= 0 and y0 >= 0 and x1 <= picture.width and y1 <= picture.height):
        size = f"{picture.width}x{picture.height}"
        raise BadRow("box outside the image", f"box {shown} lies outside its image of {size}")
    return x0, y0, x1, y1


def _answers(
    values: Mapping[str, Any], metric: str, choices: tuple[str, ...], boxes: tuple[Box, ...]
) -> tuple[str, ...]:
    if "answer" in values and "answers" in values:
        raise BadRow("answer and answers", "it has both answer and answers")
    one = (_as_text(values["answer"], "answer"),) if "answer" in values else ()
    given = one or _texts(values, "answers")
    if metric == "iou":
        if len(boxes) != 1 or given:
            raise BadRow("iou", "the metric iou takes one box in boxes, and no other answer")
        return ()
    if not given:
        raise BadRow("no answer")
    if metric == "exact" and not all(one.translate(UNREAD) for one in given):
        raise BadRow("answer of punctuation", "the metric exact leaves punctuation out, and an "
                     "answer is nothing else: contains reads it")  # fmt: skip
    if metric == "vqa" and len(given) < PEOPLE:
        raise BadRow("too few answers", "the metric vqa asks how many people agree: at least "
                     f"{PEOPLE} answers, it has {len(given)}; exact takes any one")  # fmt: skip
    return (_letter(given, choices),) if metric == "choice" else given


def _letter(given: tuple[str, ...], choices: tuple[str, ...]) -> str:
    """The letter of the right choice, which may be given by its letter or its text."""
    if not 2 <= len(choices) <= len(ascii_uppercase) or len(set(choices)) < len(choices):
        most = len(ascii_uppercase)
        raise BadRow("choices", f"choices are 2 to {most} texts, each once; it has {len(choices)}")
    if len(given) > 1:
        raise BadRow("several right choices", "one choice is right, it names several")
    letters, answer = ascii_uppercase[: len(choices)], given[0]
    named = {answer.upper()} & {*letters} if len(answer) == 1 else set()
    written = {letter for letter, text in zip(letters, choices, strict=True) if text == answer}
    if len(named | written) > 1:
        raise BadRow("answer may be two choices", f"'{answer}' is a letter and another choice")
    if not named | written:
        raise BadRow(
            "choice out of range",
            f"answer '{one_line(answer, 40)}' is none of the letters A to {letters[-1]} and no "
            "choice's text",
        )
    return (named | written).pop()
