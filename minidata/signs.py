"""Pictures with words on coloured signs beside objects, with textvqa questions."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image

from minidata import IMAGE_SIZE, draw
from minidata.objects import pick_kind
from minidata.scene import Box, Question
from minidata.sources import FONTS, Pack
from minidata.vocab import COLORS, WORDS

ROW = 64
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
    extra = [[r, pick_kind(rng)] for r in lone if rng.random() < 0.5]
    return {
        "key": [[v for _, v in sorted(line.items())] for line in lines],
        "lines": lines,
        "extra": extra,
    }


def render(spec: dict[str, Any], rng: random.Random, pack: Pack) -> tuple[Image.Image, list[Box]]:
    """Draw signs and objects; each sign gives a `word` box, each object an `object` box."""
    image = draw.background(rng, pack)
    boxes = []
    for line in spec["lines"]:
        boxes += _line(image, line, rng, pack)
    for row, kind in spec["extra"]:
        size = rng.randint(34, 54)
        x, y = rng.randint(0, IMAGE_SIZE - size), row * ROW + rng.randint(0, ROW - size)
        sprite = pack.sprite(kind, size)
        image.paste(sprite, (x, y), sprite)
        boxes.append(Box("object", kind, [x, y, x + size, y + size]))
    return image, boxes


def _line(image: Image.Image, line: dict[str, Any], rng: random.Random, pack: Pack) -> list[Box]:
    """Draw one row: sign of fitting size, and the object beside it."""
    room = IMAGE_SIZE - 8 - (52 if line["kind"] else 0)
    case = rng.choice(sorted(CASES))
    text = CASES[case](line["word"])
    face = rng.choice(sorted(FONTS))
    size = rng.randint(18, 26)
    while size > 15 and pack.font(face, size).getlength(text) + 14 > room:
        size -= 1
    width = min(room, round(pack.font(face, size).getlength(text)) + rng.randint(12, 18))
    height = size + rng.randint(10, 16)
    slack = rng.randint(0, max(0, room - width))
    x = 4 + slack + (52 if line["side"] == "left" else 0)
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
        ox = max(0, min(IMAGE_SIZE - side, ox))
        oy = max(0, min(IMAGE_SIZE - side, y + (height - side) // 2))
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
    for order, line in enumerate(lines):
        w = where[line["word"]]
        if len(lines) == 1:
            out.append(_q("only", "What word is shown?", line["word"], w))
        out.append(
            _q("on_color", f"What is the word on the {line['color']} sign?", line["word"], w)
        )
        out.append(
            _q(
                "row",
                f"What word is at the {ROWS[line['row']]}?"
                if line["row"] != 1
                else "What word is in the middle?",
                line["word"],
                w,
            )
        )
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
        if order:
            above = lines[order - 1]
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


def _q(template: str, question: str, answer: str, *evidence: int) -> Question:
    return Question("textvqa", template, question, answer, evidence=list(evidence))
