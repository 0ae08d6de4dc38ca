"""Turns a seed into scenes: composition, split by content hash, picture, boxes, questions."""

from __future__ import annotations

import random
import types
from dataclasses import dataclass
from typing import Any

from PIL import Image

from minidata import charts, hd, object_questions, objects, receipts, signs
from minidata.scene import Box, Question, is_test, scene_id
from minidata.sources import Pack

_MODULES: dict[str, tuple[types.ModuleType, types.ModuleType]] = {
    "objects": (objects, object_questions),
    "text": (signs, signs),
    "chart": (charts, charts),
    "doc": (receipts, receipts),
}
SHARES = {"objects": 45, "text": 20, "chart": 20, "doc": 15}
"""Percent of training images by family."""


@dataclass
class Scene:
    """One rendered composition."""

    identifier: str
    family: str
    image: Image.Image
    boxes: list[Box]
    questions: list[Question]


def compose(
    seed: int,
    index: int,
    test: bool,
    pack: Pack | None,
    family: str | None = None,
    page: hd.Page | None = None,
) -> tuple[str, str, dict[str, Any], random.Random]:
    """Choose composition `index` of the stream `seed`, passing over those of the other split.

    Returns its content hash, family, description and the random state to go on with.  Only charts
    need `pack` here.  With `page` it is one of high resolution, from a stream of its own; what it
    shows decides its split as that of any other.  The result depends on the arguments alone, so
    any number of workers gives the same data.
    """
    stream = f"{seed}/{'test' if test else 'train'}/{index}"
    rng = random.Random(f"{stream}/{hd.folder_name(page)}" if page else stream)
    shares = hd.SHARES if page else SHARES
    family = family or rng.choices(list(shares), list(shares.values()))[0]
    while True:
        if page:
            spec = hd.plan(family, rng, pack, page)
        else:
            spec = _MODULES[family][0].plan(rng, pack)
        identifier = scene_id(family, spec["key"])
        if is_test(identifier) == test:
            return identifier, family, spec, rng


def make(
    seed: int,
    index: int,
    test: bool,
    pack: Pack,
    family: str | None = None,
    rounds: int = 1,
    page: hd.Page | None = None,
) -> Scene:
    """Compose, draw and question one scene (see `compose`).

    A round of questions is a draw of about ten. Further `rounds` add those that are new: the
    picture and the first round stay as they are without them.
    """
    identifier, family, spec, rng = compose(seed, index, test, pack, family, page)
    drawer, asker = _MODULES[family]
    image, boxes = drawer.render(spec, rng, pack)
    asked = {_words(q): q for q in asker.ask(spec, boxes, rng)}
    for number in range(1, rounds):
        for q in asker.ask(spec, boxes, random.Random(f"{identifier}/{number}")):
            asked.setdefault(_words(q), q)
    return Scene(identifier, family, image, boxes, list(asked.values()))


def _words(question: Question) -> tuple[str, str]:
    """What makes two questions the same: the bench, and the words with the options in any order."""
    return question.bench, "\n".join([question.question, *sorted(question.choices)])
