"""High resolution: documents, charts and signs on pages of 4 to 11 times the pixels.

Letters keep the size they have at 192 px, so the page grows and not the word: of the image tokens
that answer a question there are as many as before, among many more that do not.
"""

from __future__ import annotations

import random
from typing import Any

from minidata import charts, tables
from minidata.objects import pick_kind
from minidata.receipts import GAP
from minidata.signs import COLUMN, ROW
from minidata.sources import Pack
from minidata.vocab import CITIES, COLORS, GROUPS, ITEMS, MEMBERS, MONTHS, NAMES, SHOPS, WORDS

Page = tuple[int, int]
Spec = dict[str, Any]

PAGES: tuple[Page, ...] = ((384, 384), (576, 384), (384, 576), (576, 576), (768, 512), (512, 768))
"""Width and height in pixels: square, wide and tall; multiples of 32, as patch mergers want."""
SHARES = {"text": 30, "chart": 35, "doc": 35}
"""Percent of training images by family."""


def page_of(index: int) -> Page:
    """The page of scene `index`: every page in turn."""
    return PAGES[index % len(PAGES)]


def folder_name(page: Page) -> str:
    """Where training scenes of a page lie: height x width, as arrays have them."""
    return f"{page[1]}x{page[0]}"


def plan(family: str, rng: random.Random, pack: Pack | None, page: Page) -> Spec:
    """A full page of `family`, for its module to draw and question."""
    if family == "chart":
        assert pack is not None
        return {**_chart(rng, pack, page), "page": page}
    if family == "text":
        return {**_street(rng, page), "page": page}
    body = _receipt(rng, page) if rng.random() < 0.65 else _form(rng, page)
    # how it is laid out is no content: the same entries on another page are the same scene
    return {"key": {k: v for k, v in body.items() if k != "columns"}, **body, "page": page}


def _date(rng: random.Random) -> str:
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def _receipt(rng: random.Random, page: Page) -> Spec:
    """Nine items or more, as many as there are or as fit."""
    rows, widest = (page[1] - 100) // 23, page[0] // 180  # between head and total
    names = rng.sample(ITEMS, rng.randint(9, min(len(ITEMS), rows * widest)))
    halves = rng.random() < 0.3
    prices = rng.sample(range(1, 40), len(names))
    items = [
        [name, price * 100 + (50 if halves and rng.random() < 0.5 else 0)]
        for name, price in zip(names, prices, strict=True)
    ]
    return {
        "form": False,
        "shop": rng.choice(SHOPS),
        "date": _date(rng),
        "items": items,
        "columns": _columns(rng, len(items), rows, widest),
    }


def _form(rng: random.Random, page: Page) -> Spec:
    """Ten to fifteen named fields."""
    fields = [
        ["Name", rng.choice(NAMES)],
        ["City", rng.choice(CITIES)],
        ["Date", _date(rng)],
        ["Room", str(rng.randint(10, 99))],
        ["Shop", rng.choice(SHOPS)],
        ["Item", rng.choice(ITEMS)],
        ["Age", str(rng.randint(18, 80))],
        ["Word", rng.choice(WORDS)],
        ["Color", rng.choice(sorted(COLORS))],
        *([group.capitalize(), rng.choice(MEMBERS[group])] for group in GROUPS),
    ]
    rng.shuffle(fields)
    rows, widest = (page[1] - 17) // 35, max(1, (page[0] - 44) // (225 + GAP))
    fields = fields[: rng.randint(10, min(len(fields), rows * widest))]
    return {"form": True, "fields": fields, "columns": _columns(rng, len(fields), rows, widest)}


def _columns(rng: random.Random, count: int, rows: int, widest: int) -> int:
    """As many columns as `count` entries need, or one more where the page is wide enough."""
    fewest = -(-count // rows)
    return rng.randint(fewest, min(fewest + 1, widest))


def _chart(rng: random.Random, pack: Pack, page: Page) -> Spec:
    """Ten to sixteen bars or points, or two or three series with a legend."""
    known = charts.known_series(pack)
    names = (page[0] - 34) // 31  # that fit below the axis in two rows
    if rng.random() < 0.4:
        title, pairs, series = _groups(rng, known, min(6, names))
        form, colors = "bar", rng.sample(charts.PALETTE, len(series)) * (len(pairs) // len(series))
    else:
        form = rng.choice(("upright", "side"))
        most = min(16, names if form == "upright" else (page[1] - 46) // 20)
        _, title, pairs, ordered = tables.sample(known, rng, range(10, most + 1))
        series = []
        if form == "upright":
            form = rng.choice(("line", "line", "bar")) if ordered else "bar"
        several = form != "line" and rng.random() < 0.75
        colors = rng.choices(charts.PALETTE, k=len(pairs) if several else 1)
        colors *= len(pairs) // len(colors)
    return {
        "key": sorted(map(list, pairs)),
        "title": title,
        "pairs": pairs,
        "form": form,
        "colors": colors,
        "printed": rng.random() < 0.5,
        "series": series,
    }


def _groups(
    rng: random.Random, known: dict[str, list[tables.Series]], most: int
) -> tuple[str, list[tuple[str, int]], list[str]]:
    """Title, ("Ford 1976", value) pairs by category, and the series that they share."""
    every = tables.grouped(known)
    while True:
        title, group = rng.choice(sorted(every.items()))
        series = sorted(rng.sample(sorted(group), min(len(group), rng.choice((2, 3)))))
        shared = [c for c in group[series[0]] if all(c in group[s] for s in series)]
        size = min(most, len(shared), rng.randint(4, 6))
        if size * len(series) < 8:
            continue
        picked = sorted(rng.sample(range(len(shared)), size))
        names = [(shared[i], s) for i in picked for s in series]
        whole = tables.scaled([group[s][c] for c, s in names])
        if tables.usable(whole):
            pairs = [(f"{c} {s}", v) for (c, s), v in zip(names, whole, strict=True)]
            return title, pairs, series


def _street(rng: random.Random, page: Page) -> Spec:
    """Signs on two fifths to three fifths of the cells; no object stands between two signs."""
    columns, rows = page[0] // COLUMN, page[1] // ROW
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    count = rng.randint(len(cells) * 2 // 5, len(cells) * 3 // 5)
    used = sorted(rng.sample(cells, count))
    single = rng.sample(sorted(COLORS), 3)  # so that some signs can be told by their colour
    common = [c for c in sorted(COLORS) if c not in single]
    colors = single + rng.choices(common, k=count - 3)
    rng.shuffle(colors)
    lines = []
    for (row, column), text, color in zip(used, rng.sample(WORDS, count), colors, strict=True):
        free = [
            side
            for side, at in (("left", column - 1), ("right", column + 1))
            if (row, at) not in used
        ]
        side = rng.choice([*free, "none"]) if len(text) < 7 else "none"
        lines.append(
            {
                "row": row,
                "column": column,
                "word": text,
                "color": color,
                "side": side,
                "kind": None if side == "none" else pick_kind(rng),
            }
        )
    lone = [
        (row, column)
        for row, column in cells
        if not {(row, column - 1), (row, column), (row, column + 1)} & set(used)
    ]
    extra = [[row, column, pick_kind(rng)] for row, column in lone if rng.random() < 0.5]
    return {
        "key": [[v for _, v in sorted(line.items())] for line in lines],
        "lines": lines,
        "extra": extra,
    }
