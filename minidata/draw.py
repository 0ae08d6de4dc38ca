"""Small drawing helpers: backgrounds, plates, words with letter extents."""

from __future__ import annotations

import functools
import itertools
import random

from PIL import Image, ImageDraw

from minidata import IMAGE_SIZE, PAGE
from minidata.scene import Box
from minidata.sources import Pack

RGB = tuple[int, int, int]


@functools.lru_cache(maxsize=8)
def _ramp(turn: int, page: tuple[int, int]) -> Image.Image:
    """Linear ramp mask (L mode) turned by `turn` quarter turns."""
    return Image.linear_gradient("L").rotate(90 * turn).resize(page)


def soft(rng: random.Random, low: int = 60, high: int = 235) -> RGB:
    """A random muted colour."""
    base = rng.randint(low, high)
    r, g, b = (max(0, min(255, base + rng.randint(-30, 30))) for _ in range(3))
    return r, g, b


def background(rng: random.Random, pack: Pack, page: tuple[int, int] = PAGE) -> Image.Image:
    """A plain, gradient or real photo background, RGB, `page` wide and high."""
    style = rng.random()
    if style < 0.25:
        return Image.new("RGB", page, soft(rng))
    if style < 0.45:
        return Image.composite(
            Image.new("RGB", page, soft(rng)),
            Image.new("RGB", page, soft(rng)),
            _ramp(rng.randrange(4), page),
        )
    photo = rng.choice(pack.photos[rng.choice(sorted(pack.photos))])
    wide, high = (side * IMAGE_SIZE // max(page) for side in page)  # a large page stretches it
    x = rng.randint(0, photo.width - wide)
    y = rng.randint(0, photo.height - high)
    crop = photo.crop((x, y, x + wide, y + high))
    if crop.size != page:
        crop = crop.resize(page, Image.Resampling.BILINEAR)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


@functools.lru_cache(maxsize=512)
def plate_mask(width: int, height: int, round_: bool) -> Image.Image:
    """Anti-aliased mask (L mode) of a disc or rounded tile."""
    big = Image.new("L", (width * 3, height * 3), 0)
    pen = ImageDraw.Draw(big)
    edge = (0, 0, width * 3 - 1, height * 3 - 1)
    if round_:
        pen.ellipse(edge, fill=255)
    else:
        pen.rounded_rectangle(edge, radius=24, fill=255)
    return big.resize((width, height), Image.Resampling.BOX)


def plate(image: Image.Image, box: list[int], color: RGB, round_: bool) -> None:
    """Paint a plate filling `box`."""
    mask = plate_mask(box[2] - box[0], box[3] - box[1], round_)
    image.paste(color, (box[0], box[1]), mask)


def word(
    image: Image.Image,
    pack: Pack,
    xy: tuple[float, float],
    text: str,
    face: str,
    size: int,
    fill: RGB,
    anchor: str = "la",
    kind: str = "word",
    **attrs: object,
) -> Box:
    """Draw `text` and return its box with the x extent of every letter (pixels).

    `anchor` is Pillow's; the box is clipped to the image.
    """
    font = pack.font(face, size)
    pen = ImageDraw.Draw(image)
    pen.text(xy, text, font=font, fill=fill, anchor=anchor)
    left, top, right, bottom = pen.textbbox(xy, text, font=font, anchor=anchor)
    shift = {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
    start = xy[0] - shift * font.getlength(text)
    stops = [start + font.getlength(text[:i]) for i in range(len(text) + 1)]
    chars = [[round(a, 1), round(b, 1)] for a, b in itertools.pairwise(stops)]
    return Box(kind, text, clip([left, top, right, bottom], image.size), dict(attrs), chars)


def clip(box: list[float] | list[int], page: tuple[int, int]) -> list[int]:
    """Integer box inside an image `page` wide and high."""
    return [max(0, min(edge, round(v))) for v, edge in zip(box, page * 2, strict=True)]
