"""Bar and line charts of real numbers, drawn directly, with chartqa questions."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image, ImageDraw

from minidata import PAGE, draw, tables
from minidata.scene import Box, Question
from minidata.sources import Pack
from minidata.vocab import COLORS

INK = (30, 30, 30)
GRID = (205, 205, 205)
PALETTE = [c for c in sorted(COLORS) if c != "white"]
SPILL = 3.5
"""Pixels of a category's name that may lie beyond the right edge: the first 500 documents have 3.2
at most, and stay as they are."""
_BUILT: dict[int, dict[str, list[tables.Series]]] = {}


def known_series(pack: Pack) -> dict[str, list[tables.Series]]:
    if id(pack) not in _BUILT:
        _BUILT[id(pack)] = tables.build(pack.tables)
    return _BUILT[id(pack)]


def plan(rng: random.Random, pack: Pack) -> dict[str, Any]:
    """Choose numbers, form and colours; the hashed key is the numbers with their names."""
    _, title, pairs, ordered = tables.sample(known_series(pack), rng)
    form = rng.choice(("line", "line", "bar") if ordered else ("bar", "bar", "bar", "side"))
    several = form != "line" and rng.random() < 0.75
    colors = rng.sample(PALETTE, len(pairs)) if several else [rng.choice(PALETTE)] * len(pairs)
    return {
        "key": sorted(map(list, pairs)),
        "title": title,
        "pairs": pairs,
        "form": form,
        "colors": colors,
        "printed": rng.random() < 0.5,
    }


def render(spec: dict[str, Any], rng: random.Random, pack: Pack) -> tuple[Image.Image, list[Box]]:
    """Draw the chart.  Boxes: one `mark` per bar or point, then the printed words."""
    paper = rng.choice(((255, 255, 255), (248, 248, 240), (240, 245, 252)))
    image = Image.new("RGB", spec.get("page", PAGE), paper)
    face = rng.choice(("sans", "sans", "book", "serif"))
    middle = image.width // 2
    words = [draw.word(image, pack, (middle, 4), spec["title"], face, 12, INK, "ma", role="title")]
    top = max(v for _, v in spec["pairs"])
    step = next(s for s in (1, 2, 5, 10, 20, 25) if top / s <= 4.9)
    limit = step * (top // step + 1)
    body = _side if spec["form"] == "side" else _upright
    marks, more = body(image, spec, rng, pack, step, limit)
    return image, marks + words + more


def _mark(image: Image.Image, spec: dict[str, Any], i: int, box: list[float]) -> Box:
    name, value = spec["pairs"][i]
    return Box(
        "mark",
        name,
        draw.clip(box, image.size),
        {"value": value, "color": spec["colors"][i], "form": spec["form"]},
    )


def _upright(
    image: Image.Image, spec: dict[str, Any], rng: random.Random, pack: Pack, step: int, limit: int
) -> tuple[list[Box], list[Box]]:
    """Vertical bars, of several series side by side, or a line with round points."""
    pen = ImageDraw.Draw(image)
    series = spec.get("series", [])
    x0, y0, x1, y1 = 30, 44 if series else 24, image.width - 4, image.height - 40
    words = _legend(image, spec, pack) if series else []
    for tick in range(0, limit + 1, step):
        y = y1 - (y1 - y0) * tick / limit
        pen.line((x0, y, x1, y), fill=GRID)
        words.append(
            draw.word(image, pack, (x0 - 4, y), str(tick), "book", 11, INK, "rm", role="tick")
        )
    beside = max(1, len(series))  # bars of a category
    slot = (x1 - x0) / (len(spec["pairs"]) // beside)
    bar = slot * rng.uniform(0.5, 0.75) / beside
    names = [name.split()[0] if series else name for name, _ in spec["pairs"]]
    wide = any(pack.font("sans", 11).getlength(n) > slot - 3 for n in names)
    marks, points = [], []
    for i, (_, value) in enumerate(spec["pairs"]):
        place, nth = divmod(i, beside)
        x = x0 + slot * (place + 0.5) + bar * (nth - (beside - 1) / 2)
        y = y1 - (y1 - y0) * value / limit
        points.append((x, y))
        fill = COLORS[spec["colors"][i]]
        if spec["form"] == "bar":
            pen.rectangle((x - bar / 2, y, x + bar / 2, y1), fill=fill, outline=INK)
            marks.append(_mark(image, spec, i, [x - bar / 2, y, x + bar / 2, y1]))
        else:
            marks.append(_mark(image, spec, i, [x - 5, y - 5, x + 5, y + 5]))
        if nth == 0:
            middle = x0 + slot * (place + 0.5)
            beyond = middle + pack.font("sans", 11).getlength(names[i]) / 2 - image.width
            if "page" not in spec and beyond > SPILL:
                middle -= beyond
            at = (middle, y1 + 6 + (15 if wide and place % 2 else 0))
            words.append(
                draw.word(image, pack, at, names[i], "sans", 11, INK, "ma", role="category")
            )
    if spec["form"] == "line":
        fill = COLORS[spec["colors"][0]]
        pen.line(points, fill=fill, width=3)
        for x, y in points:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=fill, outline=INK)
    pen.line((x0, y1, x1, y1), fill=INK)
    pen.line((x0, y0, x0, y1), fill=INK)
    if spec["printed"] and (bar if series else slot) >= 18:  # room for two digits
        lift = 20 if spec["form"] == "line" else 17 if "page" in spec else 14  # clear of the points
        for (name, value), (x, y) in zip(spec["pairs"], points, strict=True):
            words.append(
                draw.word(
                    image,
                    pack,
                    (x, max(y0 - 6, y - lift)),
                    str(value),
                    "sans",
                    12,
                    INK,
                    "ma",
                    role="value",
                    item=name,
                )
            )
    return marks, words


def _legend(image: Image.Image, spec: dict[str, Any], pack: Pack) -> list[Box]:
    """The colour and name of each series, in a row under the title."""
    pen = ImageDraw.Draw(image)
    words = []
    for i, name in enumerate(spec["series"]):
        x, color = 34 + 84 * i, COLORS[spec["colors"][i]]
        pen.rectangle((x, 24, x + 10, 34), fill=color, outline=INK)
        words.append(
            draw.word(image, pack, (x + 15, 29), name, "sans", 11, INK, "lm", role="legend")
        )
    return words


def _side(
    image: Image.Image, spec: dict[str, Any], rng: random.Random, pack: Pack, step: int, limit: int
) -> tuple[list[Box], list[Box]]:
    """Horizontal bars with their names at the left."""
    pen = ImageDraw.Draw(image)
    x0, y0, x1, y1 = 58, 24, image.width - 10, image.height - 22
    if spec["printed"]:
        x1 -= 10
    words, marks = [], []
    for tick in range(0, limit + 1, step):
        x = x0 + (x1 - x0) * tick / limit
        pen.line((x, y0, x, y1), fill=GRID)
        words.append(
            draw.word(image, pack, (x, y1 + 4), str(tick), "book", 11, INK, "ma", role="tick")
        )
    slot = (y1 - y0) / len(spec["pairs"])
    bar = slot * rng.uniform(0.5, 0.75)
    for i, (name, value) in enumerate(spec["pairs"]):
        y = y0 + slot * (i + 0.5)
        x = x0 + (x1 - x0) * value / limit
        pen.rectangle(
            (x0, y - bar / 2, x, y + bar / 2), fill=COLORS[spec["colors"][i]], outline=INK
        )
        marks.append(_mark(image, spec, i, [x0, y - bar / 2, x, y + bar / 2]))
        words.append(
            draw.word(image, pack, (x0 - 4, y), name, "sans", 11, INK, "rm", role="category")
        )
        if spec["printed"]:
            words.append(
                draw.word(
                    image,
                    pack,
                    (x + 4, y),
                    str(value),
                    "sans",
                    12,
                    INK,
                    "lm",
                    role="value",
                    item=name,
                )
            )
    pen.line((x0, y0, x0, y1), fill=INK)
    return marks, words


def ask(spec: dict[str, Any], boxes: list[Box], rng: random.Random) -> list[Question]:
    """Values, extremes, colours and counts; evidence is the mark, its name and printed value."""
    pairs, line = spec["pairs"], spec["form"] == "line"
    noun = "point" if line else "bar"
    every = list(range(len(pairs)))
    order = sorted(every, key=lambda i: pairs[i][1])

    def seen(i: int) -> list[int]:
        return [
            j
            for j, b in enumerate(boxes)
            if b.attrs.get("role") != "title"
            # the bar "Ford 1976" is found by its category and by the legend
            and (
                b.label in (pairs[i][0], *pairs[i][0].split()) or b.attrs.get("item") == pairs[i][0]
            )
        ]

    out = [
        _q(
            "highest",
            f"Which {noun} is the highest?"
            if spec["form"] != "side"
            else "Which bar is the longest?",
            pairs[order[-1]][0],
            every,
        ),
        _q(
            "lowest",
            f"Which {noun} is the lowest?"
            if spec["form"] != "side"
            else "Which bar is the shortest?",
            pairs[order[0]][0],
            every,
        ),
        _q("count", f"How many {noun}s are there?", str(len(pairs)), every),
        _q("top_value", "What is the highest value?", str(pairs[order[-1]][1]), seen(order[-1])),
    ]
    for i, (name, value) in enumerate(pairs):
        out.append(_q("value", f"What is the value of {name}?", str(value), seen(i)))
        if len(set(spec["colors"])) > 1:
            out.append(_q("color", f"What color is the bar of {name}?", spec["colors"][i], seen(i)))
        if len(set(spec["colors"])) > 1 and spec["colors"].count(spec["colors"][i]) == 1:
            out.append(
                _q("by_color", f"What is the name of the {spec['colors'][i]} bar?", name, seen(i))
            )
            out.append(
                _q(
                    "value_by_color",
                    f"What is the value of the {spec['colors'][i]} bar?",
                    str(value),
                    seen(i),
                )
            )
    i, j = rng.sample(every, 2)
    while pairs[i][1] == pairs[j][1]:
        i, j = rng.sample(every, 2)
    larger = pairs[i][1] > pairs[j][1]
    yes_no = _q(
        "larger", f"Is {pairs[i][0]} larger than {pairs[j][0]}?", "yes" if larger else "no", [i, j]
    )
    rng.shuffle(out)
    return out[:9] + [yes_no]


def _q(template: str, question: str, answer: str, evidence: list[int]) -> Question:
    return Question("chartqa", template, question, answer, evidence=evidence)
