"""Pictures of named things on coloured plates, with gqa, pope and scienceqa questions."""

from __future__ import annotations

import random
from typing import Any

from PIL import Image

from minidata import draw
from minidata.scene import Box
from minidata.sources import Pack
from minidata.vocab import ANIMAL_CLASSES, CLASSES, COLORS, GROUPS, MEMBERS

CELL = 64


def pick_kind(rng: random.Random, group: str | None = None) -> str:
    """A kind; groups and animal classes weighted so that no answer is common."""
    group = group or rng.choices(GROUPS, weights=(45, 18, 8, 17, 10, 8))[0]
    if group == "animal":
        return rng.choice(sorted(CLASSES[rng.choice(ANIMAL_CLASSES)]))
    return rng.choice(MEMBERS[group])


def plan(rng: random.Random, pack: Pack | None) -> dict[str, Any]:
    """Choose kinds, cells, plates and sizes; `key` is the composition that is hashed."""
    count = rng.choice((2, 3, 4, 4, 5, 5, 6, 6, 7))
    group = rng.choice(GROUPS) if rng.random() < 0.15 else None
    kinds = [pick_kind(rng, group) for _ in range(count)]
    if count >= 3 and rng.random() < 0.5:
        repeat = rng.randint(2, min(5, count - 1))
        kinds[:repeat] = [kinds[0]] * repeat
    cells = rng.sample(range(9), count)
    things: list[dict[str, Any]] = []
    for kind, cell in zip(kinds, cells, strict=True):
        color = rng.choice(sorted(COLORS)) if rng.random() < 0.72 else None
        things.append({"kind": kind, "cell": cell, "color": color})
    if rng.random() < 0.35:  # same-colour pairs, for the comparison questions
        plated = [t for t in things if t["color"]]
        if len(plated) >= 2:
            plated[1]["color"] = plated[0]["color"]
    things.sort(key=lambda t: t["cell"])
    return {"key": [[t["kind"], t["cell"], t["color"]] for t in things], "things": things}


def render(spec: dict[str, Any], rng: random.Random, pack: Pack) -> tuple[Image.Image, list[Box]]:
    """Draw the picture; box i belongs to thing i (reading order of the cells)."""
    image = draw.background(rng, pack)
    round_ = rng.random() < 0.5
    boxes = []
    for thing in spec["things"]:
        size = rng.randint(28, 50 if thing["color"] else 58)
        pad = rng.randint(4, 6) if thing["color"] else 0
        if thing["color"] and round_:
            size = min(size, 44)
            pad = max(pad, round(size * 0.16))
        outer = size + 2 * pad
        row, col = divmod(thing["cell"], 3)
        x = col * CELL + rng.randint(0, max(0, CELL - outer))
        y = row * CELL + rng.randint(0, max(0, CELL - outer))
        box = draw.clip([x, y, x + outer, y + outer], image.size)
        if thing["color"]:
            draw.plate(image, box, COLORS[thing["color"]], round_)
        sprite = pack.sprite(thing["kind"], size)
        image.paste(sprite, (x + pad, y + pad), sprite)
        attrs = {"cell": thing["cell"]}
        if thing["color"]:
            attrs["color"] = thing["color"]
        boxes.append(Box("object", thing["kind"], box, attrs))
    return image, boxes
