"""RefCOCO: boxes are answered in the model's frame and scored in the image's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.bench.answerboxes import CONVERTED, UNKNOWN
from harness.bench.benches import resolve_bench
from harness.families.llava import Llava
from harness.model.session import Session
from tests.fixtures.hub_data import Box, Size, write_refcoco
from tests.loop.cells import run

# The fixture's tower sees 28 pixels: sizes that come out even there, 3:2, 1:2, 5:2 and 1:1.
SHAPES: list[Size] = [(168, 112), (112, 224), (280, 112), (112, 112)]
# Left, top, width, height in pixels, inside the centre square of every shape.
BOXES: list[Box] = [(50, 40, 40, 30), (30, 70, 60, 24), (100, 20, 30, 40), (10, 20, 40, 60)]


def mask(box: Box, size: Size) -> Image.Image:
    """White where the box is."""
    wide, high = size
    left, top, width, height = (int(edge) for edge in box)
    pixels = np.zeros((high, wide, 3), np.uint8)
    pixels[top : top + height, left : left + width] = 255
    return Image.fromarray(pixels)


def padded(picture: Image.Image) -> Image.Image:
    side = max(picture.size)
    square = Image.new("RGB", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def cropped(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def perfect(square: Image.Image) -> str:
    """The box of what is white, in shares of the picture: what a perfect model says of it."""
    found = square.getbbox()
    assert found is not None
    x0, y0, x1, y1 = found
    wide, high = square.size
    return f"It is [{x0 / wide:.4f}, {y0 / high:.4f}, {x1 / wide:.4f}, {y1 / high:.4f}]."


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put texts in the place of what was generated, in the order of the documents."""
    from harness.bench.generation import Generator

    def install(texts: list[str]) -> None:
        told = iter(texts)
        monkeypatch.setattr(Generator, "_text", lambda self, ids, stops: next(told))

    return install


@pytest.mark.parametrize("frame", ["crop", "pad", "whole"])
def test_a_perfect_box_scores_one_in_every_shape(
    frame: str, answers: Any, tmp_path: Path, request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    loaded: Session = request.getfixturevalue("llava_next" if frame == "whole" else "llava")
    if frame == "pad":  # as the original code does it; the processor of the fixture crops
        from transformers import LlavaImageProcessor

        old = loaded.processor.image_processor
        padding = LlavaImageProcessor(size=old.size, crop_size=old.crop_size, do_pad=True)
        monkeypatch.setattr(loaded.processor, "image_processor", padding)
    write_refcoco(tmp_path, list(zip(SHAPES, BOXES, strict=True)))
    bench = resolve_bench("refcoco", str(tmp_path))
    view = {"crop": cropped, "pad": padded, "whole": lambda picture: picture}[frame]
    said = [perfect(view(mask(b, s))) for b, s in zip(BOXES, SHAPES, strict=True)]
    for _ in range(2):  # the second time out of the log
        answers(said)
        result = run(loaded, bench, response_log=tmp_path / "log")
        overlap = {m.metric: m for m in result.metrics}["refcoco_IoU"]
        assert overlap.value > 0.97
        assert result.headline.metric == "refcoco_ACC@0.5" and result.headline.value == 1
        assert [s.prediction for s in result.samples] == said
    assert result.notes == (() if frame == "whole" else (CONVERTED,))
    for sample, (wide, high), box in zip(result.samples, SHAPES, BOXES, strict=True):
        left, top, width, height = box
        whole = [left / wide, top / high, (left + width) / wide, (top + height) / high]
        told = [float(n) for n in re.findall(r"[\d.]+", sample.target)]
        assert told == pytest.approx(whole)


def test_a_family_whose_frame_is_not_known(
    llava: Session, answers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read as the image's, and said."""
    monkeypatch.setattr(Llava, "boxes_in_frame", False)
    write_refcoco(tmp_path, [(SHAPES[2], BOXES[2])])
    answers([perfect(mask(BOXES[2], SHAPES[2]))])
    result = run(llava, resolve_bench("refcoco", str(tmp_path)))
    assert result.headline.value == 1 and result.notes == (UNKNOWN,)
