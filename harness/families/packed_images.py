"""Images as one row of patches: how a batch holds them, and how an image's tokens lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families import framing
from harness.families.configs import shown
from harness.families.images import Images
from harness.families.packed_sight import PackedVision
from harness.families.shapes import ModelShape

if TYPE_CHECKING:
    import torch


class PackedImages(Images):
    """`pixel_values` [patches of all images, numbers of one], `image_grid_thw` [images, 3]."""

    images = ("pixel_values", "image_grid_thw")
    extents = "image_grid_thw"
    per_token = ("mm_token_type_ids",)
    apart = True  # positions are counted by unbroken runs of image tokens
    tiny_images: ClassVar[tuple[tuple[tuple[int, int], int], ...]] = (((32, 32), 1),)

    # --- images of a batch --------------------------------------------------------------------
    def one_image(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        return self.some_images(given, [number])

    def some_images(self, given: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        import torch

        grids = given["image_grid_thw"]
        pixels = torch.split(given["pixel_values"], grids.prod(dim=1).tolist())
        chosen = torch.cat([pixels[i] for i in numbers])
        return {"pixel_values": chosen, "image_grid_thw": grids[list(numbers)]}

    def image_count(self, given: Mapping[str, Any]) -> int:
        return len(given["image_grid_thw"])

    def token_inputs(self, ids: torch.Tensor, image_token: int) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (ids == image_token).int()}

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        import torch

        vision = shape.vision
        assert isinstance(vision, PackedVision)
        high, wide = (side // vision.patch for side in size)
        inputs = vision.channels * vision.frames * vision.patch**2
        pixels = torch.randn((count * high * wide, inputs), generator=draw)
        return {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, high, wide]] * count)}

    # --- how tokens lie -----------------------------------------------------------------------
    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        """One raster of tokens, each two by two patches of the image as it was resized."""
        if size is None:
            return super().grids(config, start, length, size)
        frames, rows, cols = (int(one) for one in size)
        rows, cols = rows // 2, cols // 2
        if frames != 1 or rows * cols != length:
            raise UsageError(f"an image of grid {shown(size)} does not make {length} tokens")
        return [framing.base_grid(start, length, rows, cols)]

    def origins(self, config: Any, grid: dict[str, Any], first: int, line: list[int]) -> None:
        """No token is a single patch: -1 stays."""

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """Every grid covers its whole image, which was stretched to whole tokens."""
        if len(grids) != len(sizes):
            return
        for number, (grid, size) in enumerate(zip(grids, sizes, strict=True)):
            high, wide = size
            grid |= {"number": number, "image": [high, wide], "fit": "stretch"}
            grid["box"] = [0, 0, wide, high]
