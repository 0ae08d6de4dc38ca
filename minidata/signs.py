"""Pictures with words on coloured signs beside objects, with textvqa questions."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image

from minidata import PAGE, draw
from minidata.objects import pick_kind
from minidata.scene import Box, Question
from minidata.sources import FONTS, Pack
from minidata.vocab import COLORS, PLACES, WORDS

ROW, COLUMN = 64, 192
"""Room of one sign in pixels; a large page has several columns."""
OVERLAP = 16
"""Pixels that a sign shares with the one below it, from side to side."""
ROWS = ("top", "middle", "bottom")
CASES = {"upper": str.upper, "lower": str.lower, "title": str.capitalize}


def plan(rng: random.Random, pack: Pack | None) -> dict[str, Any]:
    """One line per used row: a sign, usually with an object at its left or right."""
    count = rng.choice((1, 2, 2, 3))
    rows = sorted(rng.sample(range(3), count))
    words = rng.sample(WORDS, count)
    colors = rng.sample(sorted(COLORS), count)
    kinds: list[str] = []
    while len(kinds) < count:
        kind = pick_kind(rng)
        if kind not in kinds:
            kinds.append(kind)
    lines = []
    for row, text, color, kind in zip(rows, words, colors, kinds, strict=True):
        side = rng.choice(("left", "right", "none")) if len(text) < 7 else "none"
        lines.append(
            {
                "row": row,
                "word": text,
                "color": color,
                "side": side,
                "kind": None if side == "none" else kind,
            }
        )
    lone = [r for r in range(3) if r not in rows]
    extra = [[r, 0, pick_kind(rng)] for r in lone if rng.random() < 0.5]
    return {
        "key": [[v for _, v in sorted(line.items())] for line in lines],
        "lines": lines,
        "extra": extra,
    }


def render(spec: dict[str, Any], rng: random.Random, pack: Pack) -> tuple[Image.Image, list[Box]]:
    """Draw signs and objects; each sign gives a `word` box, each object an `object` box."""
    image = draw.background(rng, pack, spec.get("page", PAGE))
    boxes = []
    for line in spec["lines"]:
        boxes += _line(image, line, rng, pack)
    cell = _cell(image.width)
    for row, column, kind in spec["extra"]:
        size = rng.randint(34, 54)
        x = column * cell + rng.randint(0, cell - size)
        y = row * ROW + rng.randint(0, ROW - size)
        sprite = pack.sprite(kind, size)
        image.paste(sprite, (x, y), sprite)
        boxes.append(Box("object", kind, [x, y, x + size, y + size]))
    return image, boxes


def _cell(width: int) -> int:
    """Width of a column of signs on a page so wide."""
    return width // (width // COLUMN)


def _line(image: Image.Image, line: dict[str, Any], rng: random.Random, pack: Pack) -> list[Box]:
    """Draw one row: sign of fitting size, and the object beside it."""
    cell = _cell(image.width)
    room = cell - 8 - (52 if line["kind"] else 0)
    case = rng.choice(sorted(CASES))
    text = CASES[case](line["word"])
    face = rng.choice(sorted(FONTS))
    size = rng.randint(18, 26)
    while size > 15 and pack.font(face, size).getlength(text) + 14 > room:
        size -= 1
    width = min(room, round(pack.font(face, size).getlength(text)) + rng.randint(12, 18))
    height = size + rng.randint(10, 16)
    slack = rng.randint(0, max(0, room - width))
    x = line.get("column", 0) * cell + 4 + slack + (52 if line["side"] == "left" else 0)
    y = line["row"] * ROW + rng.randint(2, max(2, ROW - height - 2))
    ground = COLORS[line["color"]]
    draw.plate(image, [x, y, x + width, y + height], ground, False)
    light = sum(ground) > 400
    ink = (15, 15, 15) if light else (255, 255, 255)
    box = draw.word(
        image,
        pack,
        (x + width / 2, y + height / 2),
        text,
        face,
        size,
        ink,
        "mm",
        color=line["color"],
        font=face,
        case=case,
    )
    box.label = line["word"]
    boxes = [box]
    if line["kind"]:
        side = rng.randint(36, 48)
        ox = x - side - 2 if line["side"] == "left" else x + width + 2
        ox = max(0, min(image.width - side, ox))
        oy = max(0, min(image.height - side, y + (height - side) // 2))
        sprite = pack.sprite(line["kind"], side)
        image.paste(sprite, (ox, oy), sprite)
        boxes.append(Box("object", line["kind"], [ox, oy, ox + side, oy + side]))
    return boxes


def ask(spec: dict[str, Any], boxes: list[Box], rng: random.Random) -> list[Question]:
    """Reading questions by colour, place and neighbour, plus a few reversed ones."""
    lines, out = spec["lines"], []
    where = {b.label: i for i, b in enumerate(boxes) if b.kind == "word"}
    shown = [b.label for b in boxes if b.kind == "object"]
    objects = {b.label: i for i, b in enumerate(boxes) if b.kind == "object"}
    colors = [line["color"] for line in lines]
    page = spec.get("page")
    for order, line in enumerate(lines):
        w = where[line["word"]]
        if len(lines) == 1:
            out.append(_q("only", "What word is shown?", line["word"], w))
        if colors.count(line["color"]) == 1:
            out.append(
                _q("on_color", f"What is the word on the {line['color']} sign?", line["word"], w)
            )
        if page is None:
            at = "in the middle" if line["row"] == 1 else f"at the {ROWS[line['row']]}"
            out.append(_q("row", f"What word is {at}?", line["word"], w))
        elif (place := _alone(boxes, w, page)) is not None:
            out.append(_q("place", f"What word is in the {PLACES[place]}?", line["word"], w))
        if line["kind"] and shown.count(line["kind"]) == 1:
            o = objects[line["kind"]]
            out.append(
                _q(
                    "beside",
                    f"What does the sign next to the {line['kind']} say?",
                    line["word"],
                    w,
                    o,
                )
            )
            out.append(
                _q(
                    "what_beside",
                    f"What is next to the sign that says {line['word']}?",
                    line["kind"],
                    w,
                    o,
                )
            )
        out.append(
            _q("sign_color", f"What color is the sign that says {line['word']}?", line["color"], w)
        )
        above = _above(lines, order, boxes, where)
        if above is not None:
            out.append(
                _q(
                    "below_word",
                    f"What is the word below {above['word']}?",
                    line["word"],
                    w,
                    where[above["word"]],
                )
            )
    rng.shuffle(out)
    reading = [q for q in out if q.template not in ("sign_color", "what_beside")]
    other = [q for q in out if q.template in ("sign_color", "what_beside")]
    return reading[:8] + other[:2]


def _above(
    lines: list[dict[str, Any]], order: int, boxes: list[Box], where: dict[str, int]
) -> dict[str, Any] | None:
    """The sign right above: the one before, in columns the one on the row before that overlaps it.

    In columns a sign may stand so far aside that one of another column seems to be below it.
    """
    line = lines[order]
    if "column" not in line:
        return lines[order - 1] if order else None
    left, _, right, _ = boxes[where[line["word"]]].box
    for other in lines:
        if (other["column"], other["row"]) == (line["column"], line["row"] - 1):
            start, _, end, _ = boxes[where[other["word"]]].box
            return other if min(right, end) - max(left, start) >= OVERLAP else None
    return None


def _alone(boxes: list[Box], sign: int, page: tuple[int, int]) -> int | None:
    """The ninth of the page that holds the middle of a sign, if no other sign reaches into it."""
    wide, high = page[0] / 3, page[1] / 3
    x0, y0, x1, y1 = boxes[sign].box
    column, row = int((x0 + x1) / 2 / wide), int((y0 + y1) / 2 / high)
    others = [b.box for i, b in enumerate(boxes) if b.kind == "word" and i != sign]
    if any(
        a < (column + 1) * wide and c > column * wide and b < (row + 1) * high and d > row * high
        for a, b, c, d in others
    ):
        return None
    return row * 3 + column


def _q(template: str, question: str, answer: str, *evidence: int) -> Question:
    return Question("textvqa", template, question, answer, evidence=list(evidence))
