"""MQT-LLaVA: Matryoshka Query Transformer in place of the projector (Hu et al. 2024,
arXiv 2405.19315).

A resampler of one layer turns the P patches of a crop into ``queries`` tokens, of which the first
``m`` are used: q = LN(query + 2-D sin-cos), keys = LN(that table resized to the patch grid), values
= LN(patches the projector reads), attention, a matrix to the model's width. No key has content, so
every query pools with the same mask for every image. In training each step draws an even m from
2 to ``queries`` (``drawn``), so that any prefix of the queries serves.

Follows the released code: heads of 64 (16 at CLIP-L's width), norms with eps 1e-6, no norm behind
the attention, no bias in the last matrix, queries placed in raster order. ``queries`` is 256, or
the number of patches where a crop has fewer. ``tokens``, ``ratio`` and ``kv`` take the place of
``m`` (``methods/budget.py``), split evenly over an image's crops.
Different here: any-resolution images (the paper has none) give ``m`` tokens a crop, the base first,
then the tiles as they were cut, padding included; newlines leave, and an image never gets more
tokens than it had. A resampled token stands for no patch: the record shows it in the image's first
columns. The model's own projector still runs and is counted as ever; all of the resampler counts as
``router``, its masks (the same for all images) once a prompt.
"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import NUMBERING, Merge, ModelInfo, Positions, Tokens, on_device, param
from methods.picking import Picking, split
from methods.pictures import pictures
from methods.resampler import fresh, parameters, resample

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class MQT(Picking):
    """See the module docstring."""

    name: ClassVar[str] = "mqt"
    trained: ClassVar[bool] = True

    m: int | None = param(None, "tokens of a crop (none: all queries)")
    queries: int | None = param(None, "learned queries (none: 256, or as many as patches)")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.m is None or self.m >= 1, f"m={self.m} is below 1")
        self.require(self.queries is None or self.queries >= 1, f"queries={self.queries} < 1")

    @property
    def reads_tower(self) -> bool:
        return True

    def many(self, info: ModelInfo) -> int:
        """Queries on this model."""
        return self.queries or min(256, info.tower_side**2)

    def check(self, info: ModelInfo) -> None:
        have, width, patches = self.many(info), info.tower_width, info.tower_side**2
        self.require(width > 0 and width % 4 == 0, f"no sin-cos table for a tower {width} wide")
        self.require(have <= patches, f"queries={have} is above the {patches} patches of a crop")
        self.require((self.m or 1) <= have, f"m={self.m} is above the {have} queries there are")
        if self.tokens is None or info.image_tokens:  # how many crops there are, a prompt knows
            self.parts(patches, 1, have)
            super().check(info)

    def parts(self, n: int, crops: int, queries: int) -> list[int]:
        """Tokens of each crop of an image that had ``n``."""
        wanted, most = self.target(n), queries * crops
        total = (self.m or queries) * crops if wanted is None else round(wanted)
        self.require(total <= most, f"a budget of {total} tokens is above the {most} queries")
        return split(min(total, n), [queries] * crops)

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [sum(self.parts(n, 1, self.many(info)))] * info.layers

    def drawn(self, info: ModelInfo, draw: random.Random) -> MQT:
        have = self.many(info)
        if have < 2 or (self.m, self.tokens, self.ratio, self.kv) != (None,) * 4:
            return self
        return dataclasses.replace(self, m=draw.randrange(2, have + 1, 2))

    def build_modules(self, info: ModelInfo) -> nn.Module:
        return fresh(self.many(info), info.tower_width, info.width)

    def module_parameters(self, info: ModelInfo) -> int:
        return parameters(self.many(info), info.tower_width, info.width)

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        import torch

        modules: Any = seq.modules
        images, length, counts = pictures(seq, True, False), seq.kinds.shape[1], list(seq.counts)
        states = torch.stack([crop.patches for crop in seq.crops])
        have, rows = modules["query"].num_embeddings, range(len(counts))
        plan = [self.parts(image.tokens, len(image.crops), have) for image in images]
        most = max(max(parts) for parts in plan)
        source = [[-1] * length for _ in rows]
        assign = [list(range(length)) for _ in rows]
        crops, queries = [0 for _ in rows], [0 for _ in rows]  # of each row, as it runs alone
        for image, parts in zip(images, plan, strict=True):
            b, start, n = image.row, image.start, image.tokens
            pairs = zip(image.crops, parts, strict=True)
            slots = [c * most + i for c, k in pairs for i in range(k)]
            end = start + len(slots)
            source[b][start:end] = slots
            assign[b][end : start + n] = [-1] * (start + n - end)
            counts[b] += len(slots) - n
            crops[b], queries[b] = crops[b] + len(parts), max(queries[b], *parts)
        patches, made = states.shape[1], [c * m for c, m in zip(crops, queries, strict=True)]
        seen = [patches * (c > 0) for c in crops]
        work = [[c * patches for c in crops], made, queries, seen]
        # One mask for all crops of a row, and what it makes of each crop's patches.
        pairs = zip(queries, crops, strict=True)
        seq.note("product", [m * patches * (1 + c) for m, c in pairs], "tower")
        tokens = resample(modules, states, most, *map(seq.noted_as, work))
        tokens = tokens.flatten(0, 1).to(seq.hidden.dtype)
        where = on_device(source, tokens.device)
        if most:
            new = tokens[where.clamp(min=0)]
            hidden = torch.where((where >= 0)[..., None], new, seq.hidden)
        else:
            hidden = seq.hidden
        return Merge(on_device(assign, tokens.device), counts, hidden, positions=self.positions)
