"""The mini Qwen2.5-VL's own: images of several sizes, merged tokens, positions of three axes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.common.errors import UsageError
from harness.minimodel.canvas import MERGE, Canvas, RawScenes, read_sizes
from harness.minimodel.llava_parts import tower_key
from harness.minimodel.packing import Frame, PackedScenes, Packer, kept
from harness.minimodel.qwen import PICTURE, qwen_processor
from harness.minimodel.qwen_tower import MergedTokens
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes, Vocabulary
from harness.minimodel.tower import DenseHeads

COMPILED = 8  # sizes that a compiled decoder is made for; the compiler gives up beyond


class QwenParts:
    """See `harness.minimodel.parts.Parts`."""

    name: ClassVar[str] = "tiny-qwen"
    mark: ClassVar[str] = PICTURE
    what: ClassVar[
        str
    ] = """A stock `Qwen2_5_VLForConditionalGeneration`: images of any size and shape, one token
for 16 x 16 pixels (patch 8, merged 2 x 2), attention in windows in most tower layers, no class
token, positions of three axes, 12 decoder layers of width 288. Loads with `from_pretrained`. The
tower was pretrained on dense labels of the scenes at several sizes and on what the mini LLaVA's
projector makes of them; the decoder started as that model's and was tuned on captions and
questions."""

    def load(self, folder: Path) -> Any:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def processor(self, model: Any, tokenizer: Any) -> Any:
        return qwen_processor(tokenizer, model.config.vision_config.patch_size)

    def images(
        self, recipe: Recipe, scenes: Scenes, model: Any, work: Path, heads: Path
    ) -> tuple[Any, DenseHeads | None]:
        tower = model.model.visual
        if recipe.train_tower:
            dense = MergedTokens(tower, Vocabulary.of(scenes))
            dense.heads.load_state_dict(load_file(heads / "heads.safetensors"))
            return RawScenes(scenes), dense
        tower.requires_grad_(False)
        canvas = _canvas(recipe, scenes, model, None)
        if len(set(canvas.sizes)) > 1:
            return RawScenes(scenes), None
        (high, wide), key = canvas.sizes[0], tower_key(tower, -1)
        path = work / f"features-{key}-{high}x{wide}-{len(scenes)}.npy"
        return kept(path, len(scenes), _merged(tower, scenes, canvas)), None

    def packer(
        self, recipe: Recipe, model: Any, dense: DenseHeads | None, data: PackedScenes
    ) -> Packer:
        vocabulary = dense.vocabulary if dense is not None else None
        canvas = _canvas(recipe, data.scenes, model, vocabulary)
        if recipe.compile and len(set(canvas.sizes)) > COMPILED:
            raise UsageError(
                f"recipe: compile with {len(set(canvas.sizes))} sizes: expected at most {COMPILED}"
            )
        return SizedPacker(canvas, data, recipe)

    def probes(self, packer: Packer, data: PackedScenes) -> Sequence[Packer]:
        assert isinstance(packer, SizedPacker)
        return [packer.at(size) for size in dict.fromkeys(packer.canvas.sizes)]

    def see(
        self, model: Any, dense: DenseHeads | None, images: dict[str, Tensor], reads: bool
    ) -> tuple[Any, dict[str, Tensor] | None]:
        """`features` [B, P, H] merged; or a batch of `Canvas`, with labels for a trained tower."""
        if reads:
            raise UsageError(
                "a method that reads the vision tower is not trained on packed questions of a "
                "qwen2_5_vl model: expected one that acts in the decoder, such as pmod or mod"
            )
        losses, tokens = None, images.get("features")
        if tokens is None:
            pixels, grids = images["pixel_values"], images["image_grid_thw"]
            with torch.set_grad_enabled(torch.is_grad_enabled() and dense is not None):
                seen = model.model.visual(pixels, grid_thw=grids).pooler_output
            tokens = seen.unflatten(0, (len(grids), -1))
            if isinstance(dense, MergedTokens):
                labels = {k: images[k] for k in ("kind", "color", "spell", "glyph")}
                losses = dense.losses(tokens, **labels)
        return BaseModelOutputWithPooling(pooler_output=tuple(tokens)), losses


class SizedPacker(Packer):
    """`Packer` that draws the images' size of every batch, with positions of three axes."""

    def __init__(self, canvas: Canvas, data: PackedScenes, recipe: Recipe) -> None:
        tokenizer = data.tokenizer
        super().__init__(
            data.prefix,
            (data.prefix[-1], 0),
            tokenizer.pad_token_id,
            recipe.max_text,
            recipe.seed,
            recipe.compile,
            recipe.forms,
            recipe.compile,
        )
        self.canvas = canvas
        token = MERGE * canvas.patch
        self.frames = {s: frame(data.prefix, (s[0] // token, s[1] // token)) for s in canvas.sizes}
        self._use(canvas.sizes[0])

    def at(self, size: tuple[int, int]) -> SizedPacker:
        """One that keeps to a size and takes all questions, for measuring."""
        other = copy.copy(self)
        other.canvas = copy.copy(self.canvas)
        other.canvas.sizes, other.max_text = [size], 10_000
        other.fixed, other.weights = False, {}
        other._use(size)
        return other

    def _use(self, size: tuple[int, int]) -> None:
        self.frame = self.frames[size]
        self.head = self.frame.ids

    def _images(self, items: list[dict]) -> dict[str, Tensor]:
        if "features" in items[0]["image"]:
            return super()._images(items)
        size = self.canvas.draw()
        self._use(size)
        made = self.canvas.batch([item["image"] for item in items], size)
        made.pop("native", None)  # for a teacher only
        return made


def frame(prefix: Sequence[int], grid: tuple[int, int]) -> Frame:
    """Prompt up to an image of `grid` (rows, columns) tokens, numbered as the library does.

    The image's tokens share a time and have rows and columns of their own; the text after them
    goes on behind the largest position.
    """
    before = len(prefix) - 1
    rows, cols = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    image = torch.stack([torch.zeros_like(rows), rows, cols]).flatten(1) + before
    text = torch.arange(before).expand(3, -1)
    ids = [*prefix[:-1], *[prefix[-1]] * (grid[0] * grid[1])]
    return Frame(ids, torch.cat([text, image], dim=1), before + max(grid))


def _canvas(recipe: Recipe, scenes: Scenes, model: Any, vocabulary: Vocabulary | None) -> Canvas:
    patch = model.config.vision_config.patch_size
    own = (scenes.images.shape[1], scenes.images.shape[2])
    sizes = read_sizes(recipe.sizes, own, MERGE * patch)
    return Canvas(sizes, patch, vocabulary, recipe.seed)


@torch.inference_mode()
def _merged(
    tower: Any, scenes: Scenes, canvas: Canvas, batch: int = 64
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float16 [b, P, H]) of all scenes at the canvas's one size."""
    raw, device = RawScenes(scenes), next(tower.parameters()).device
    for at in range(0, len(raw), batch):
        items = [raw[i] for i in range(at, min(at + batch, len(raw)))]
        made = canvas(items)
        pixels, grids = (made[k].to(device) for k in ("pixel_values", "image_grid_thw"))
        seen = tower(pixels, grid_thw=grids).pooler_output.unflatten(0, (len(items), -1))
        yield at, seen.half().cpu().numpy()
