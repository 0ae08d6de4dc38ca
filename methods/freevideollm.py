"""Free Video-LLM: three streams of pooled frames, cropped to the question (arXiv 2410.10441).

For several images in one prompt, taken as the frames of a video in order, or, ours, for one
any-resolution image, whose crops are the frames: the whole first, then the tiles. One image of one
crop is refused. Before the language model the frames' tokens become, in this order,

  slow    the ``slow`` frames that resemble the question most, max-pooled by 2 along each row and
          cropped to a box of round(h sqrt alpha) x round(w sqrt alpha) cells of the pooled h x w;
  middle  ``middle`` evenly spaced frames, likewise;
  fast    every frame average-pooled to ``fast_grid`` x ``fast_grid`` (of 24 x 24 patches; scales).

A box is centred at the mean (whole) row and column of the int(h w alpha) cells whose pooled patches
resemble the question most. Fifty frames of 576 make 8 * 231 + 50 * 16 = 2648 tokens.

  relevance  ``clip``: cosine in CLIP's joint space (--checkpoint freevideollm=PATH_OR_ID), as
             released; ``words`` (ours): mean cosine of projector output (a frame: its mean) and
             the embeddings of the question's words.
  grid       ``true``: the pooled grid's real shape; ``as_released``: its cells read in rows twice
             as long, as the code does, so that a box is no rectangle of the image.
  tokens, ratio, kv   lower alpha (raise it, at most to 1) to the largest that stays within; what
             does not fit even the fast stream is refused.
Different here: of several any-resolution frames the base crops are used; slow frames stand in the
video's order; the streams take the first image columns of the prompt, so text between frames stands
between their tokens; positions are contiguous, without the code's RoPE scale. The paper has no
figures for images; another paper's (p-MoD, Table 10, LLaVA-NeXT) does not say what the frames were.
Crops as frames: five of them make 8 * 231 + 5 * 16 = 1928 tokens; patches of the padding, which the
model cut off, repeat the nearest that is left; where an image has fewer tokens than its streams
want, alpha is lowered to what fits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import Merge, ModelInfo, Positions, Tokens, on_device, param
from methods.budget import Budgeted
from methods.picking import unit, wide
from methods.question import DEFAULT, question_words, stripped

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 24  # patches in a row of the models that the defaults are for


@dataclass(frozen=True)
class FreeVideoLLM(Budgeted):
    """See the module docstring."""

    name: ClassVar[str] = "freevideollm"
    coarse: ClassVar[bool] = True
    mixes: ClassVar[bool] = True
    least_images: ClassVar[int] = 2  # or one in several crops

    slow: int = param(3, "frames, those most like the question, in the slow stream")
    middle: int = param(5, "evenly spaced frames in the middle stream")
    alpha: float = param(0.8, "share of a pooled frame that the box around the question covers")
    fast_grid: int = param(
        4, "side of the grid every frame is pooled to in the fast stream (of 24; scales)"
    )
    relevance: Literal["clip", "words"] = param(
        "clip", "compared with the question in CLIP's joint space, or by word embeddings"
    )
    grid: Literal["true", "as_released"] = param(
        "true",
        "cells read in the pooled grid's real shape, or in rows twice as long as the code does",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(min(self.slow, self.middle, self.fast_grid) >= 0, "streams must be 0 or more")
        self.require(0 < self.alpha <= 1, f"alpha={self.alpha} is outside 0..1")

    @property
    def numbering(self) -> Positions:
        return "compact"

    @property
    def reads_clip(self) -> bool:
        return self.relevance == "clip"

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [True] * info.layers

    def box(self, side: int) -> tuple[int, int, int, int]:
        """Rows and columns of the pooled grid (as read), and of the box in it."""
        high, across = side, side // 2
        if self.grid == "as_released":
            high, across = across, high
        root = math.sqrt(self.alpha)
        return high, across, max(1, round(high * root)), max(1, round(across * root))

    def cells(self, side: int) -> int:
        """Rows (and columns) of a fast frame."""
        return max(1, round(self.fast_grid * side / SIDE)) if self.fast_grid else 0

    def count(self, frames: int, side: int) -> int:
        """Tokens of a video of ``frames`` frames of side x side patches."""
        _, _, rows, cols = self.box(side)
        cropped = (min(self.slow, frames) + min(self.middle, frames)) * rows * cols
        return cropped + frames * self.cells(side) ** 2

    def fitted(self, n: int, frames: int, side: int, images: int | None = None) -> FreeVideoLLM:
        """With the alpha that a budget allows for ``n`` tokens of ``images`` images (``frames``).

        The crops of one image have no more room than its tokens.
        """
        wanted = self.target(n, frames if images is None else images)
        if wanted is None and (images is None or self.count(frames, side) <= n):
            return self
        wanted = float(n) if wanted is None else wanted
        tries = (replace(self, alpha=step / 200) for step in range(200, 0, -1))
        less = (one for one in tries if self.target(n) is not None or one.alpha <= self.alpha)
        found = next((one for one in less if one.count(frames, side) <= wanted), None)
        self.require(found is not None, f"{wanted:g} tokens are too few for {frames} frames")
        return found or self

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        length, device = seq.hidden.shape[1], seq.hidden.device
        assign = [list(range(length)) for _ in seq.counts]
        counts, states, first = list(seq.counts), seq.hidden.clone(), 0
        sides, texts, chunks = self._texts(seq)
        seen = [0] * len(counts)  # frames of each row
        for b, grids in enumerate(seq.grids):
            bases = [grid for grid in grids if grid["kind"] == "base"]
            crops = [first + sum(g["crops"] for g in grids[: grids.index(base)]) for base in bases]
            begin, first = first, first + sum(grid["crops"] for grid in grids)
            if not bases:
                continue
            side, images = bases[0]["rows"], None
            self.require(side % 2 == 0, f"frames of {side} rows cannot be pooled by 2")
            spots = [list(range(g["start"], g["start"] + side**2)) for g in bases]
            places = list(range(len(bases) * side**2))
            if len(bases) == 1:
                crops, images = list(range(begin, first)), 1
                spots, places = cut(grids, side)
            short = "it needs several frames, or an image in several crops"
            self.require(len(spots) > 1, f"a single image is no video: {short}")
            fitted = self.fitted(seq.image_counts[b], len(spots), side, images)
            columns = [c for start, n in seq.spans[b] for c in range(start, start + n)]
            made = fitted.count(len(spots), side)
            self.require(made <= len(columns), f"{len(spots)} frames are too few for its streams")
            frames = seq.hidden[b][on_device(spots, device)]
            video, alike = sides(crops, on_device(places, device), frames)
            seen[b] = len(spots)
            slots = on_device(columns[:made], device)
            new = fitted.streams(wide(frames), video @ texts[b], alike @ texts[b], side)
            states[b] = states[b].index_copy(0, slots, new.to(states.dtype))
            for column in columns[made:]:
                assign[b][column] = -1
            counts[b] += made - len(columns)
        self._note(seq, seen, chunks)
        table = on_device(assign, device)
        return Merge(table, counts, states=states, positions="compact")

    def _note(self, seq: Tokens, frames: list[int], chunks: list[int]) -> None:
        """What reading so many frames and chunks of text of each row costs."""
        patches = [n * seq.info.tower_side**2 for n in frames]
        pairs = [n + p for n, p in zip(frames, patches, strict=True)]
        if not self.reads_clip:
            seq.note("product", pairs)
            return
        seq.note("clip_text", [c if n else 0 for n, c in zip(frames, chunks, strict=True)])
        seq.note("clip_frame", frames)
        seq.note("clip_patches", patches)
        seq.note("clip_likeness", pairs)

    def _texts(self, seq: Tokens) -> tuple[Any, Any, list[int]]:
        """How to read a row's frames [F, p] and patches [F, P, p], its text's direction [p], and
        the chunks of CLIP's text."""
        import torch

        if self.reads_clip:
            asked = [stripped(text) for text in seq.questions or [DEFAULT] * len(seq.counts)]
            found = seq.clip.text(asked)
            texts = [unit(wide(t)).mean(dim=0) for t in found]

            def seen(crops: list[int], places: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
                squares = [seq.crops[c] for c in crops]
                video = torch.stack([seq.clip.frame(crop.states) for crop in squares])
                patches = torch.cat([seq.clip.patches(crop.patches) for crop in squares])
                return unit(wide(video)), unit(wide(patches))[places].view(*frames.shape[:2], -1)

            return seen, texts, [len(chunks) for chunks in found]
        words, real, _ = question_words(seq)
        total = (unit(wide(words)) * real.unsqueeze(2)).sum(dim=1)

        def projected(crops: list[int], places: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return unit(wide(frames).mean(dim=1)), unit(wide(frames))

        return projected, total, [0] * len(total)

    def streams(self, frames: Tensor, likeness: Tensor, patches: Tensor, side: int) -> Tensor:
        """[count, d] of ``frames`` [F, P, d]; ``likeness`` [F], ``patches`` [F, P] to the text."""
        import torch
        import torch.nn.functional as F

        total, _, width = frames.shape
        slow = likeness.argsort(descending=True, stable=True)[: self.slow].sort().values
        number = min(self.middle, total)
        middle = [(2 * i + 1) * total // (2 * number) for i in range(number)]
        chosen = torch.cat([slow, on_device(middle, frames.device).to(slow.dtype)])
        high, across, rows, cols = self.box(side)
        pooled = frames[chosen].view(len(chosen), side, side // 2, 2, width).amax(dim=3)
        score = patches[chosen].view(len(chosen), side, side // 2, 2).amax(dim=3).flatten(1)
        best = score.argsort(dim=1, descending=True, stable=True)
        best = best[:, : max(1, int(high * across * self.alpha))]
        top = (best // across).sum(dim=1) // best.shape[1] - rows // 2
        left = (best % across).sum(dim=1) // best.shape[1] - cols // 2
        down = torch.arange(rows, device=frames.device) + top.clamp(0, high - rows).unsqueeze(1)
        right = torch.arange(cols, device=frames.device) + left.clamp(0, across - cols).unsqueeze(1)
        place = (down.unsqueeze(2) * across + right.unsqueeze(1)).flatten(1)
        cropped = pooled.flatten(1, 2).gather(1, place.unsqueeze(-1).expand(-1, -1, width))
        whole = frames.view(total, side, side, width).permute(0, 3, 1, 2)
        size = self.cells(side)
        fast = [F.adaptive_avg_pool2d(whole, size).flatten(2).transpose(1, 2)] if size else []
        return torch.cat([part.flatten(0, 1) for part in (cropped, *fast)])


def cut(grids: list[dict[str, Any]], side: int) -> tuple[list[list[int]], list[int]]:
    """The columns of each crop's side x side patches, and their numbers among all crops' patches.

    Patches that un-padding cut off are the nearest that are left; of a picture that was shrunk, the
    token that lies there.
    """
    spots: list[list[int]] = []
    numbers: list[int] = []
    crop = 0
    for grid in grids:
        high, across = grid["tiles"]
        rows, cols = grid["rows"], grid["cols"]
        shown = grid.get("whole", (rows, cols))
        gone = (high * side - shown[0]) // 2, (across * side - shown[1]) // 2
        for tile in range(high * across):
            corner = tile // across * side, tile % across * side
            spots.append([])
            for place in range(side**2):
                y, x = (
                    min(max(c + i - g, 0), n - 1)
                    for c, i, g, n in zip(corner, divmod(place, side), gone, shown, strict=True)
                )
                column = y * rows // shown[0] * (cols + grid["newline"]) + x * cols // shown[1]
                spots[-1].append(grid["start"] + column)
                y, x = y + gone[0], x + gone[1]
                own = crop + y // side * across + x // side
                numbers.append(own * side**2 + y % side * side + x % side)
        crop += grid["crops"]
    return spots, numbers
