"""What is timed: a prompt of so many tokens, or a bench's documents, and a fixed answer length.

Torch-free. Written as ``key=value`` pairs joined by colons, like a method's parameters:

    n_text=58:n_image=576:n_out=32:batch=8      random text around images of noise
    bench=gqa:n_out=32:batch=8                  documents of a bench, with their images
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.families.catalog import REGISTRY
from harness.families.shapes import ImageSize, ModelShape

KEYS = ("n_text", "n_image", "n_out", "batch", "bench")
# How every canonical text ends, also that of requests in flight (`harness.options.load`).
SPEC = re.compile(r":n_out=\d+(:batch=\d+|-\d+:in_flight=\d+)$")
MOST_DIGITS = 12  # more than any device could hold, and a number that every library takes
LOWEST = {"n_text": 2, "n_image": 0, "n_out": 1, "batch": 1}


@dataclass(frozen=True)
class Workload:
    """``n_image`` None: one image as the model makes it. With ``bench``, the documents decide.

    ``n_out`` new tokens are generated in every row, no more and no fewer.
    """

    n_text: int = 58
    n_image: int | None = None
    n_out: int = 32
    batch: int = 1
    bench: str = ""

    @property
    def spec(self) -> str:
        """The canonical text; parsing it gives the same workload."""
        if self.bench:
            return f"bench={self.bench}:n_out={self.n_out}:batch={self.batch}"
        image = "" if self.n_image is None else f":n_image={self.n_image}"
        return f"n_text={self.n_text}{image}:n_out={self.n_out}:batch={self.batch}"


def parse_workload(text: str) -> Workload:
    """A workload from its text. Raises UsageError with one line."""
    values: dict[str, int | str] = {}
    for part in text.strip().split(":"):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in KEYS:
            raise UsageError(unknown("workload key", key, KEYS, f"in '{text}'"))
        if not (equals and value):
            raise UsageError(f"'{part}' in '{text}' is not key=value")
        if key in values:
            raise UsageError(f"{key} stands twice in '{text}'")
        values[key] = value if key == "bench" else _number(key, value)
    clash = next((k for k in ("n_text", "n_image") if k in values and "bench" in values), None)
    if clash:
        raise UsageError(f"'{text}': with bench the documents decide {clash}")
    return Workload(**values)  # type: ignore[arg-type]


def parse_workloads(text: str) -> tuple[str, ...]:
    """Canonical texts of a comma list of workloads, each named once. Raises UsageError."""
    found = [parse_workload(part).spec for part in text.split(",")]
    twice = next((spec for i, spec in enumerate(found) if spec in found[:i]), None)
    if twice:
        raise UsageError(f"workload '{twice}' stands twice")
    return tuple(found)


def is_workload(text: str) -> bool:
    """Whether a name in a table is a workload's canonical text, and not a bench's."""
    return bool(SPEC.search(text))


def _number(key: str, text: str) -> int:
    value = int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else -1
    if value < LOWEST[key]:
        most = f"{LOWEST[key]}, of at most {MOST_DIGITS} digits"
        raise UsageError(f"{key} is a whole number of at least {most}, not '{text}'")
    return value


# --- image tokens ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Pictures:
    """Images of noise that make ``tokens`` image tokens together.

    ``count`` images, each of ``size`` (height, width) pixels; ``crops`` squares go through the
    tower an image; ``native`` is False where the tower has to interpolate its positions.
    """

    count: int
    size: tuple[int, int]
    crops: int
    tokens: int
    native: bool = True


def pictures(shape: ModelShape, n_image: int | None) -> Pictures:
    """The images behind a wished number of image tokens.

    Whole images as the family takes them, one or several, or one square of another resolution
    where its tower interpolates. Raises UsageError, one line, with the nearest number that works.
    """
    if n_image == 0:
        side = shape.vision.image_size
        return Pictures(0, (side, side), 1, 0)
    family = REGISTRY[shape.family]
    single = family.image_sizes(shape)
    if n_image is None:
        return _of(single[0], 1)
    for one in sorted(single, key=lambda p: -p.tokens):
        if n_image % one.tokens == 0:
            return _of(one, n_image // one.tokens)
    root = math.isqrt(n_image)
    if family.stretches(shape) and root * root == n_image:
        pixels = root * shape.vision.patch
        return Pictures(1, (pixels, pixels), 1, n_image, native=False)
    raise UsageError(f"--workload: n_image={n_image}: {_nearest(shape, single, n_image)}")


def image_choices(shape: ModelShape) -> list[Pictures]:
    """What a request's images are drawn from: one image of any size that the family makes; where
    it makes one size alone, one or two images."""
    sizes = REGISTRY[shape.family].image_sizes(shape)
    counts = (1,) if len(sizes) > 1 else (1, 2)
    return [_of(one, count) for one in sizes for count in counts]


def fewest(shape: ModelShape) -> Pictures:
    """The image that makes the fewest tokens."""
    found = REGISTRY[shape.family].image_sizes(shape)
    return _of(min(found, key=lambda one: one.tokens), 1)


def _of(one: ImageSize, count: int) -> Pictures:
    return Pictures(count, one.size, one.crops, count * one.tokens)


def _nearest(shape: ModelShape, single: Sequence[ImageSize], n_image: int) -> str:
    counts = {one.tokens * max(1, round(n_image / one.tokens)) for one in single}
    stretches = REGISTRY[shape.family].stretches(shape)
    if stretches:
        counts |= {max(1, round(math.sqrt(n_image))) ** 2}
    near = min(counts, key=lambda n: (abs(n - n_image), n))
    made = sorted({one.tokens for one in single})
    said = " or ".join(map(str, made)) if len(made) < 7 else f"{made[0]} to {made[-1]}"
    also = ", or a square number" if stretches else ""
    return f"{shape.name} makes {said} tokens an image{also}: the nearest is {near}"
