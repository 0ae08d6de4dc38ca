"""Checks of prompts with several images: each is there, is recorded, and keeps what it is due."""

from __future__ import annotations

import itertools

import numpy as np

from harness.check.case import Case, NotApplicable, require
from harness.check.watch import counted
from harness.engine import model_info
from harness.engine.model import find_parts
from harness.families import tiny
from harness.store.record import IMAGE, RoutingRecord


def images_are_recorded(s: Case) -> None:
    """two, three and more images of a prompt run, and each one's tokens and grids are recorded"""
    for count in (2, 3) if s.method.least_images == 1 else (5, 6):
        sizes = list(itertools.islice(itertools.cycle(s.sizes), count))
        inputs = tiny.any_resolution_inputs(s.model, sizes)
        with counted(find_parts(s.model).layers) as found:
            _, (record,) = s.generate(inputs)
        require(found["mlp"] == record.kv_tokens.tolist(), "other tokens ran than were recorded")
        require(record.n_images == count, f"{record.n_images} images recorded of {count}")
        if s.method.mixes:
            require(not record.images, "tokens of several images are said to be of one")
        else:
            _covered(record, count)


def _covered(record: RoutingRecord, count: int) -> None:
    images = record.images
    require(len(images) == count, f"tokens of {len(images)} images recorded, of {count}")
    all_of = np.flatnonzero(record.kinds == IMAGE)
    require(np.array_equal(np.concatenate(images), all_of), "an image token is of no image")
    for own in images:
        patches = 0
        for grid in record.grid:
            start, step = grid["start"], grid["cols"] + grid["newline"]
            if not own[0] <= start <= own[-1]:
                continue
            patches += grid["rows"] * step
            last = start + grid["rows"] * step - 1
            require(last <= own[-1], "a grid reaches into the next image")
        require(0 <= len(own) - patches <= 1, "an image's grids do not cover its tokens")


def each_keeps_its_own(s: Case) -> None:
    """where images do not compete, equal images keep equally many tokens in every layer"""
    if not s.method.apart:
        raise NotApplicable("all images of a prompt compete for one amount")
    if s.method.request(model_info(s.model), s.image_tokens) is None:
        raise NotApplicable("it states no numbers: the images decide")
    inputs = tiny.any_resolution_inputs(s.model, s.sizes[:1] * 3)
    _, (record,) = s.generate(inputs)
    kept = [record.keep[:, own].sum(axis=1).tolist() for own in record.images]
    require(kept[0] == kept[1] == kept[2], f"kept of three equal images: {kept}")
