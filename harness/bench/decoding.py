"""Truncated picture files: decoded as far as they go, as upstream does it, and marked.

lmms-eval switches Pillow to accept files that end too early; their missing part comes out grey
and nothing says so. Files whose damage Pillow does not see (a JPEG with a proper end marker) stay
unseen here too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from PIL import ImageFile

MARK = "truncated file"  # in `Image.info`, which Pillow hands on to converted and resized copies


def is_truncated(image: Any) -> bool:
    """Whether a PIL image comes from a file that ended too early."""
    return bool(image.info.get(MARK))


@contextmanager
def truncation_marked(found: Callable[[], None]) -> Iterator[None]:
    """Mark every image decoded from a truncated file; ``found`` is called for each.

    Every file is decoded strictly first, and leniently only where that fails, so that the pixels
    are those of upstream's setting.
    """
    original = ImageFile.ImageFile.load

    def load(self: Any) -> Any:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        try:
            ImageFile.LOAD_TRUNCATED_IMAGES = False
            return original(self)
        except OSError:
            if not before:
                raise
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            pixels = original(self)
            self.info[MARK] = True
            found()
            return pixels
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before

    ImageFile.ImageFile.load = load  # type: ignore[method-assign]
    try:
        yield
    finally:
        ImageFile.ImageFile.load = original  # type: ignore[method-assign]
