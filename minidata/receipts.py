"""Small receipts and forms, with docvqa questions."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageDraw

from minidata import PAGE, draw
from minidata.scene import Box, Question
from minidata.sources import Pack
from minidata.vocab import CITIES, ITEMS, MONTHS, NAMES, SHOPS

INK = (25, 25, 30)
GAP = 24
"""Pixels between columns."""
FACES = ("book", "sans", "mono", "serif")


def _money(cents: int) -> str:
    return str(cents // 100) if cents % 100 == 0 else f"{cents // 100}.{cents % 100:02d}"


def plan(rng: random.Random, pack: Pack | None) -> dict[str, Any]:
    """A receipt (shop, date, 3-4 items, total) or a form (five named fields)."""
    date = f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
    if rng.random() < 0.65:
        halves = rng.random() < 0.3
        items = []
        for name in rng.sample(ITEMS, rng.choice((3, 3, 4))):
            items.append(
                [name, rng.randint(1, 39) * 100 + (50 if halves and rng.random() < 0.5 else 0)]
            )
        prices = [p for _, p in items]
        if len(set(prices)) < len(prices):  # equal prices would make "which item" ambiguous
            return plan(rng, pack)
        body: dict[str, Any] = {
            "form": False,
            "shop": rng.choice(SHOPS),
            "date": date,
            "items": items,
        }
    else:
        fields = [
            ["Name", rng.choice(NAMES)],
            ["City", rng.choice(CITIES)],
            ["Date", date],
            ["Room", str(rng.randint(10, 99))],
            ["Shop", rng.choice(SHOPS)],
            ["Item", rng.choice(ITEMS)],
            ["Age", str(rng.randint(18, 80))],
        ]
        rng.shuffle(fields)
        body = {"form": True, "fields": fields[:5]}
    return {"key": body, **body}


def render(spec: dict[str, Any], rng: random.Random, pack: Pack) -> tuple[Image.Image, list[Box]]:
    """Draw a paper on a background; every printed word is a box, `role` says what it is."""
    image = draw.background(rng, pack, spec.get("page", PAGE))
    pen = ImageDraw.Draw(image)
    left, right = rng.randint(4, 14), image.width - rng.randint(4, 14)
    paper = rng.choice(((255, 255, 255), (250, 246, 230), (238, 243, 250), (250, 236, 240)))
    pen.rectangle((left, 2, right, image.height - 3), fill=paper, outline=(170, 170, 170))
    face = rng.choice(FACES)
    size = rng.randint(14, 16)
    draw_body = _form if spec["form"] else _receipt
    return image, draw_body(image, spec, rng, pack, face, size, left + 8, right - 8)


def _form(
    image: Image.Image,
    spec: dict[str, Any],
    rng: random.Random,
    pack: Pack,
    face: str,
    size: int,
    left: int,
    right: int,
) -> list[Box]:
    boxes = []
    spots, width, rows = _columns(left, right, len(spec["fields"]), spec.get("columns", 1))
    step = rng.randint(32, min(70, (image.height - 17) // rows))
    top = rng.randint(10, 18)
    indent = 112 if "page" in spec else 62  # large forms have longer labels
    for (name, value), (x, row) in zip(spec["fields"], spots, strict=True):
        y = top + row * step
        boxes.append(draw.word(image, pack, (x, y), name + ":", face, size, INK, role="label"))
        boxes.append(
            draw.word(image, pack, (x + indent, y), value, face, size, INK, role=name.lower())
        )
        line = y + size + 5
        rule = (x + indent - 4, line, x + width, line)
        ImageDraw.Draw(image).line(rule, fill=(150, 150, 150))
    return boxes


def _columns(
    left: int, right: int, count: int, columns: int
) -> tuple[list[tuple[int, int]], int, int]:
    """Left edge and row of every entry, column by column; width of a column in pixels; rows."""
    width = (right - left - GAP * (columns - 1)) // columns
    rows = -(-count // columns)
    return [(left + i // rows * (width + GAP), i % rows) for i in range(count)], width, rows


def _receipt(
    image: Image.Image,
    spec: dict[str, Any],
    rng: random.Random,
    pack: Pack,
    face: str,
    size: int,
    left: int,
    right: int,
) -> list[Box]:
    mid = (left + right) / 2
    head = rng.choice(("sans", "serif", "times"))
    boxes = [
        draw.word(
            image, pack, (mid, 8), spec["shop"], head, rng.randint(19, 22), INK, "ma", role="shop"
        )
    ]
    boxes.append(
        draw.word(image, pack, (mid, 36), spec["date"], face, size, INK, "ma", role="date")
    )
    spots, width, rows = _columns(left, right, len(spec["items"]), spec.get("columns", 1))
    most = min((image.height - 100) // rows, 44 if "page" in spec else 28)
    step = rng.randint(24, most) if most >= 24 else 23
    for (name, price), (x, row) in zip(spec["items"], spots, strict=True):
        y = 64 + row * step
        if width > 250:  # leads the eye across a wide page
            rule = (x, y + size + 3, x + width, y + size + 3)
            ImageDraw.Draw(image).line(rule, fill=(210, 210, 210))
        boxes.append(draw.word(image, pack, (x, y), name, face, size, INK, role="item"))
        money, at = _money(price), (x + width, y)
        boxes.append(
            draw.word(image, pack, at, money, face, size, INK, "ra", role="price", item=name)
        )
    y = 64 + rows * step
    ImageDraw.Draw(image).line((left, y + 1, right, y + 1), fill=INK)
    total = sum(p for _, p in spec["items"])
    boxes.append(draw.word(image, pack, (left, y + 6), "total", "sans", size, INK, role="label"))
    boxes.append(
        draw.word(image, pack, (right, y + 6), _money(total), "sans", size, INK, "ra", role="total")
    )
    return boxes


def ask(spec: dict[str, Any], boxes: list[Box], rng: random.Random) -> list[Question]:
    """Questions on every field; answers are printed in the picture."""

    def find(role: str, label: str | None = None) -> int:
        return next(
            i for i, b in enumerate(boxes) if b.attrs["role"] == role and label in (None, b.label)
        )

    if spec["form"]:
        return [
            _q(f"form_{n.lower()}", f"What is the {n.lower()}?", v, find(n.lower()))
            for n, v in spec["fields"]
        ]
    out = [
        _q("shop", "What is the name of the shop?", spec["shop"], find("shop")),
        _q("date", "What is the date?", spec["date"], find("date")),
        _q("total", "What is the total?", boxes[-1].label, len(boxes) - 1),
    ]
    for i, (name, price) in enumerate(spec["items"]):
        where = find("item", name)
        out.append(
            _q("price", f"What is the price of the {name}?", _money(price), where, where + 1)
        )
        out.append(_q("which", f"Which item costs {_money(price)}?", name, where, where + 1))
        if spec.get("columns", 1) == 1:  # in two columns the order is anyone's guess
            out.append(_q("line", f"What is item {i + 1}?", name, where))
    head, rest = out[:3], out[3:]
    rng.shuffle(rest)
    return head + rest[:7]


def _q(template: str, question: str, answer: str, *evidence: int) -> Question:
    return Question("docvqa", template, question, answer, evidence=list(evidence))
