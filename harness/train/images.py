"""Images: how they are shaped, how many tokens they become, and the pixels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageFile

from harness.common.errors import UsageError
from harness.families.catalog import FAMILIES
from harness.train.rows import IMAGE

Size = tuple[int, int]  # height, width in pixels


class ImageReader:
    """Pixels and token counts by the model's own processor.

    `aspect`: `pad` makes the image square with the processor's mean colour before resizing
    (LLaVA-1.5's own), `anyres` is LLaVA-NeXT's processor, `processor` the processor as it stands.
    """

    def __init__(self, processor: Any, aspect: str, family: str) -> None:
        self.tiled = FAMILIES[family].extents is not None
        if aspect == "anyres" and not self.tiled:
            raise UsageError("image_aspect anyres needs a LLaVA-NeXT model: use pad or processor")
        self.processor, self.aspect = processor, aspect
        mean = processor.image_processor.image_mean
        self.colour = tuple(int(x * 255) for x in mean)
        self._count = lru_cache(maxsize=4096)(self._count_by_size)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_count"}  # a cache is not sent

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._count = lru_cache(maxsize=4096)(self._count_by_size)

    def tokens(self, size: Size) -> int:
        """Image tokens of an image of this size."""
        if not self.tiled:
            return self._count((64, 64))  # resized and cropped: the same for every image
        return self._count((max(size), max(size)) if self.aspect == "pad" else size)

    def _count_by_size(self, size: Size) -> int:
        if self.tiled:
            found = self.processor._get_num_multimodal_tokens(image_sizes=[list(size)])
            return int(found["num_image_tokens"][0])
        blank = Image.new("RGB", (size[1], size[0]))
        ids = self.processor(images=blank, text=IMAGE, return_tensors="pt")["input_ids"]
        return int((ids == self.processor.image_token_id).sum())

    def read(self, path: Path) -> dict[str, torch.Tensor]:
        """`pixel_values` float32 [3, H, W] (LLaVA-NeXT: [crops, 3, H, W]) and, for LLaVA-NeXT,
        `image_sizes` int64 [2]. Raises whatever the image library raises on a broken file."""
        with _whole_files(), Image.open(path) as file:
            image = file.convert("RGB")
        if self.aspect == "pad":
            image = self.square(image)
        out = self.processor.image_processor(images=image, return_tensors="pt")
        result = {"pixel_values": out["pixel_values"][0]}
        if self.tiled:
            result["image_sizes"] = torch.as_tensor(out["image_sizes"][0]).long()
        return result

    def square(self, image: Image.Image) -> Image.Image:
        """Padded to a square with the mean colour, the image in the middle."""
        width, height = image.size
        if width == height:
            return image
        side = max(width, height)
        result = Image.new("RGB", (side, side), self.colour)
        result.paste(image, ((side - width) // 2, (side - height) // 2))
        return result


@contextmanager
def _whole_files() -> Iterator[None]:
    """A file that was cut short is an error, also after a library asked PIL to make up the rest
    (lmms-eval does, for the whole process)."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
