"""A family's images: how a batch holds them, and how an image's tokens lie in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.families import framing
from harness.families.shapes import ModelShape

if TYPE_CHECKING:
    import torch


class Images:
    """The part of `Family` that knows batches and grids; LLaVA-1.5's, where nothing overrides."""

    images: ClassVar[tuple[str, ...]] = ("pixel_values",)  # its processor's entries for images
    extents: ClassVar[str | None] = None  # the one of them that says how large each image is
    per_token: ClassVar[tuple[str, ...]] = ()  # entries with a number for each token of a prompt
    nested: ClassVar[bool] = False  # its processor wants to know which images are one prompt's
    apart: ClassVar[bool] = False  # images of a prompt must have text between them
    # Images of a tiny model for tests: height and width, crops.
    tiny_images: ClassVar[tuple[tuple[tuple[int, int], int], ...]] = (((16, 16), 1),)

    # --- images of a batch ------------------------------------------------------------------------
    def counted(self, given: Mapping[str, Any], image_token: int) -> dict[str, Any]:
        """A batch's entries, and what its ``input_ids`` alone say of its images.

        `one_image`, `some_images` and `image_count` are asked of these. Raises UsageError where
        prompts and pixels do not agree.
        """
        return dict(given)

    def one_image(self, given: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Arguments of ``get_image_features`` for one image of those ``given`` for several."""
        found = {name: given[name] for name in self.images if given.get(name) is not None}
        return {name: value[number : number + 1] for name, value in found.items()}

    def context(self, given: Mapping[str, Any], number: int) -> str:
        """What of its batch changes an image's features, for sharing them; nothing, as a rule."""
        return ""

    def some_images(self, given: Mapping[str, Any], numbers: Sequence[int]) -> dict[str, Any]:
        """The entries of a batch for these of its images."""
        return {name: given[name][list(numbers)] for name in self.images if name in given}

    def image_count(self, given: Mapping[str, Any]) -> int:
        """Images in the arguments of ``get_image_features``."""
        return len(given["pixel_values"])

    def image_lengths(self, features: Sequence[Any], runs: Sequence[int]) -> list[int]:
        """Tokens of each image, from features as `get_image_features` lists them.

        ``runs``: lengths of the unbroken runs of image tokens in the prompts.
        """
        return [int(one.shape[0]) for one in features]

    def token_inputs(self, ids: torch.Tensor, image_token: int) -> dict[str, torch.Tensor]:
        """The entries ``per_token`` names, for ids [B, n] that no processor made."""
        return {}

    def beside(self, image: Mapping[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """The entries of one image that is one of ``count`` in its prompt."""
        return dict(image)

    def joined(self, images: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The entries of a batch from those of its images."""
        import torch

        return {name: torch.cat([one[name] for one in images]) for name in images[0]}

    def noise(
        self, shape: ModelShape, count: int, crops: int, size: tuple[int, int], draw: Any
    ) -> dict[str, torch.Tensor]:
        """Random entries for ``count`` images of ``size`` (height, width) in ``crops`` crops."""
        import torch

        high, wide = size
        return {"pixel_values": torch.randn((count, 3, high, wide), generator=draw)}

    def stored(self, output: Any) -> tuple[torch.Tensor, ...]:
        """What is kept of one image's features, from `get_image_features` of it alone."""
        return (output.pooler_output[0].detach(),)

    def restored(self, images: Sequence[tuple[torch.Tensor, ...]]) -> Any:
        """The output of `get_image_features` for several images, from what is kept of each."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=[one[0] for one in images])  # type: ignore[arg-type]

    # --- how an image's tokens lie ----------------------------------------------------------------
    def grids(self, config: Any, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        """The patch grids of one image whose ``length`` tokens begin at column ``start``.

        ``config``: the loaded model's; ``size``: what ``extents`` says of the image, or None.
        ``crops`` of a grid is how many squares the tower saw, those that were cut off included.
        Raises UsageError where size and length do not agree.
        """
        rows, cols = framing.raster(length)
        return [framing.base_grid(start, length, rows, cols)]

    def origins(self, config: Any, grid: dict[str, Any], first: int, line: list[int]) -> None:
        """Write crop * P + patch of a grid's tokens into ``line``; its first crop is ``first``."""
        vision = config.vision_config
        framing.write_origins(vision.image_size // vision.patch_size, grid, first, line)

    def place(self, grids: list[dict[str, Any]], sizes: Sequence[Any], processor: Any) -> None:
        """Add to every grid of one sample where in its image it lies (`framing.place`)."""
        framing.place(grids, sizes, processor)
