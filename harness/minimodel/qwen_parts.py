"""The mini Qwen2.5-VL's own: images of several sizes, merged tokens, positions of three axes."""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.common.errors import UsageError
from harness.minimodel.attention import TOWER
from harness.minimodel.canvas import MERGE, Canvas, RawScenes
from harness.minimodel.compiling import quicken_tower
from harness.minimodel.features import kept
from harness.minimodel.labels import Vocabulary
from harness.minimodel.llava_parts import tower_key
from harness.minimodel.packing import Frame, PackedScenes, Packer, Probe, parted
from harness.minimodel.parts import Job, Shared
from harness.minimodel.qwen import PICTURE, qwen_processor
from harness.minimodel.qwen_tower import MergedTokens
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import ROUNDS, Scenes, Size
from harness.minimodel.sizes import read_sizes
from harness.minimodel.tower import DenseHeads

COMPILED = 8  # sizes that a compiled decoder is made for; the compiler gives up beyond


class QwenParts:
    """See `harness.minimodel.parts.Parts`."""

    mark: ClassVar[str] = PICTURE
    what: ClassVar[
        str
    ] = """A stock `Qwen2_5_VLForConditionalGeneration`: images of any size and shape, one token
for 16 x 16 pixels (patch 8, merged 2 x 2), attention in windows in most tower layers, no class
token, positions of three axes, 12 decoder layers of width 288. Kept as what it adds to the mini
LLaVA's decoder; `--model tiny-qwen` puts the whole model together once, in `build/converted`, as a
folder that `from_pretrained` loads. The tower was pretrained on dense labels of the scenes at
several sizes and on what the mini LLaVA's projector makes of them; the decoder started as that
model's and was tuned on captions and questions."""
    origin: ClassVar[str] = "The decoder starts as the mini LLaVA's."
    ranked: ClassVar[bool] = False
    folder: ClassVar[str] = "tiny-qwen"
    recipes: ClassVar[tuple[str, ...]] = (
        *("tower", "tower-second", "tune-first", "tune"),
        *("dense-first", "dense", "pmod-first", "pmod-second", "pmod"),
        *("mod-first", "mod-second", "mod"),
    )
    drawn: ClassVar[dict[str, Any]] = {"rounds": ROUNDS, "share": 0.1}
    ships: ClassVar[dict[str, str]] = {
        "tune": "",
        **{name: f"-{name}" for name in ("dense", "pmod", "mod")},
    }
    shared: ClassVar[Shared | None] = Shared(
        "tiny-llava", "language_model.model.", "model.", "model.language_model."
    )

    def jobs(self) -> dict[str, Job]:
        from harness.minimodel.qwen_pretrain import train_tower

        return {"tower": train_tower}

    def load(self, folder: Path) -> Any:
        return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def processor(self, model: Any, tokenizer: Any) -> Any:
        return qwen_processor(tokenizer, model.config.vision_config.patch_size)

    def images(
        self, recipe: Recipe, scenes: Scenes, model: Any, work: Path, heads: Path
    ) -> tuple[Any, DenseHeads | None]:
        tower = model.model.visual
        if recipe.train_tower:
            dense = MergedTokens(tower, Vocabulary.of(scenes), compiled=recipe.compile)
            dense.load_heads(heads)
            return RawScenes(scenes), dense
        tower.requires_grad_(False)
        tower.config._attn_implementation = TOWER
        quicken_tower(tower, False)
        canvas = _canvas(recipe, scenes, model, None)
        if len(set(canvas.sizes)) > 1 or canvas.pages:
            return RawScenes(scenes), None
        (high, wide), key = canvas.sizes[0], tower_key(tower, -1)
        path = work / f"features-{key}-{high}x{wide}-{scenes.key}.npy"
        return kept(path, len(scenes), _merged(tower, scenes, canvas)), None

    def packer(
        self, recipe: Recipe, model: Any, dense: DenseHeads | None, data: PackedScenes
    ) -> Packer:
        vocabulary = dense.vocabulary if dense is not None else None
        canvas = _canvas(recipe, data.scenes, model, vocabulary)
        if recipe.packed and len(set(canvas.sizes)) > COMPILED:
            raise UsageError(
                f"recipe: compile with {len(set(canvas.sizes))} sizes: expected at most {COMPILED}"
            )
        return SizedPacker(canvas, data, recipe)

    def probes(self, packer: Packer, held: PackedScenes, count: int) -> list[Probe]:
        """Each of the sizes that scenes are scaled to in turn; large pages apart."""
        assert isinstance(packer, SizedPacker)
        own: dict[Size, list[int]] = defaultdict(list)
        for i in range(count):
            own[held.scenes.size(held.rows[i])].append(i)
        scaled = itertools.cycle([packer.at(size) for size in dict.fromkeys(packer.canvas.sizes)])
        found = []
        for size, rows in own.items():
            if size in packer.canvas.pages:
                page, where = packer.at(size), f" {size[0]}x{size[1]}"
                found += [Probe(page, part, where) for part in parted(rows, False)]
            else:
                found += [Probe(next(scaled), part) for part in parted(rows, packer.windowed)]
        return found

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
            recipe.packed,
            recipe.forms,
            recipe.packed,
        )
        self.canvas = canvas
        token = MERGE * canvas.patch
        self.frames = {
            (high, wide): frame(data.prefix, (high // token, wide // token))
            for high, wide in (*canvas.sizes, *canvas.pages)
        }
        self._use(canvas.sizes[0])

    @property
    def widest(self) -> int:
        """Of the sizes that scenes are scaled to: large pages come at their own."""
        longest = max(len(self.frames[size].ids) for size in self.canvas.sizes)
        return longest + self._padded(self.max_text)

    def at(self, size: Size) -> SizedPacker:
        """One that keeps to a size and takes all questions, for measuring."""
        other = copy.copy(self)
        other.canvas = copy.copy(self.canvas)
        other.canvas.sizes, other.max_text = [size], 10_000
        other.fixed, other.weights = False, {}
        other._use(size)
        return other

    def _use(self, size: Size) -> None:
        self.frame = self.frames[size]
        self.head = self.frame.ids

    def _images(self, items: list[dict]) -> dict[str, Tensor]:
        if "features" in items[0]["image"]:
            return super()._images(items)
        pictures = [item["image"] for item in items]
        size = self.canvas.draw(pictures)
        self._use(size)
        made = self.canvas.batch(pictures, size)
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
    sizes = read_sizes(recipe.sizes, scenes.own, MERGE * patch)
    asked = read_sizes(list(recipe.pages), None, MERGE * patch)
    pages = [size for size in asked if size in scenes.parts]
    return Canvas(sizes, patch, vocabulary, recipe.seed, pages=pages)


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
