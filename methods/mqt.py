"""MQT-LLaVA: Matryoshka Query Transformer in place of the projector (Hu et al. 2024,
arXiv 2405.19315).

A resampler of one layer turns the P patches of a crop into ``queries`` tokens, of which the first
``m`` are used: q = LN(query + 2-D sin-cos), keys = LN(that table resized to the patch grid), values
= LN(patches the projector reads), attention, a matrix to the model's width. No key has content, so
every query pools with the same mask for every image. In training each step draws an even m from
2 to ``queries`` (``drawn``), so that any prefix of the queries serves.

Follows the released code: heads of 64 (16 at CLIP-L's width), norms with eps 1e-6, no bias and no
norm behind the attention, the table of the first queries in raster order. ``queries`` is 256, or
the number of patches where a crop has fewer. ``tokens``, ``ratio`` and ``kv`` take the place of
``m`` (``methods/budget.py``), split evenly over an image's crops.
Different here: any-resolution images (the paper has none) give ``m`` tokens a crop, the base first,
then the tiles as they were cut, padding included; newlines leave, and an image never gets more
tokens than it had. A resampled token stands for no patch: the record shows it in the image's first
columns. The model's own projector still runs and is counted as ever; of the resampler, the linear
layers that see patches or tokens count as ``router``, the masks (the same for all images) and their
products with the values do not.
"""

from __future__ import annotations

import dataclasses
import math
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import Merge, ModelInfo, Tokens, on_device
from methods.tower import Patches, Tower, split

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD, EPS = 64, 1e-6
NOTHING = nullcontext()


@dataclass(frozen=True)
class MQT(Tower):
    """See the module docstring."""

    name: ClassVar[str] = "mqt"
    trained: ClassVar[bool] = True

    m: int | None = None  # None: all queries
    queries: int | None = None  # None: 256, or as many as patches

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
        if self.tokens is None:  # of several images and crops only a prompt knows
            self.parts(patches, 1, have)

    def parts(self, n: int, crops: int, queries: int) -> list[int]:
        """Tokens of each crop of an image that had ``n``."""
        wanted, most = self.target(n), queries * crops
        total = (self.m or queries) * crops if wanted is None else round(wanted)
        self.require(total <= most, f"a budget of {total} tokens is above the {most} queries")
        return split(min(total, n), [queries] * crops)

    def drawn(self, info: ModelInfo, draw: random.Random) -> MQT:
        have = self.many(info)
        given = (self.m, self.tokens, self.ratio, self.kv) != (None,) * 4
        return (
            self
            if given or have < 2
            else dataclasses.replace(self, m=draw.randrange(2, have + 1, 2))
        )

    def build_modules(self, info: ModelInfo) -> nn.Module:
        from torch import nn

        width = info.tower_width
        parts: dict[str, nn.Module] = {"query": nn.Embedding(self.many(info), width)}
        parts |= {name: nn.LayerNorm(width, eps=EPS) for name in ("ln_q", "ln_k", "ln_v")}
        parts |= {name: nn.Linear(width, width) for name in ("q", "k", "v", "out")}
        modules = nn.ModuleDict(parts | {"proj": nn.Linear(width, info.width, bias=False)})
        nn.init.trunc_normal_(modules["query"].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.normal_(modules["proj"].weight, std=info.width**-0.5)  # type: ignore[arg-type]
        return modules

    @staticmethod
    def masks(modules: Any, side: int, m: int) -> Tensor:
        """[heads, m, P]: how the first m queries pool a crop of ``side`` x ``side`` patches."""
        import torch
        import torch.nn.functional as F

        query = modules["query"].weight
        table = sincos(math.isqrt(query.shape[0] - 1) + 1, query.shape[1]).to(query)
        grid = F.interpolate(table[None].float(), (side, side), mode="bicubic").to(query)
        places = table.flatten(1).transpose(0, 1), grid[0].flatten(1).transpose(0, 1)
        heads = max(1, query.shape[1] // HEAD)
        states = modules["ln_q"](query[:m] + places[0][:m]), modules["ln_k"](places[1])
        # Not through the layers' forward calls: what is the same for all images counts for none.
        q, k = (
            F.linear(x, modules[name].weight, modules[name].bias).unflatten(1, (heads, -1))
            for x, name in zip(states, "qk", strict=True)
        )
        scores = torch.einsum("mhc,phc->hmp", q, k) * q.shape[2] ** -0.5
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)

    def resample(
        self,
        modules: Any,
        states: Tensor,
        m: int,
        reading: AbstractContextManager[None] = NOTHING,
        making: AbstractContextManager[None] = NOTHING,
    ) -> Tensor:
        """[C, m, d]: the first m tokens of crops of patches [C, P, w].

        Layers that see patches run under ``reading``, layers that see tokens under ``making``.
        """
        import torch

        with reading:
            values = modules["v"](modules["ln_v"](states))
        masks = self.masks(modules, math.isqrt(states.shape[1]), m).to(values.dtype)
        values = values.unflatten(2, (masks.shape[0], -1))
        mixed = torch.einsum("hmp,cphd->cmhd", masks, values).flatten(2)
        with making:
            return modules["proj"](modules["out"](mixed))

    def before(self, seq: Tokens) -> Merge | None:
        if not any(seq.image_counts):
            return None
        import torch

        modules: Any = seq.modules
        patches, length, counts = Patches(seq), seq.kinds.shape[1], list(seq.counts)
        have, rows = modules["query"].num_embeddings, range(len(counts))
        plan = [self.parts(n, len(crops), have) for _, _, n, crops in patches.images]
        most = max(max(parts) for parts in plan)
        source = [[-1] * length for _ in rows]
        assign = [list(range(length)) for _ in rows]
        read, made = [0 for _ in rows], [0 for _ in rows]  # patches and tokens of each row
        for (b, start, n, crops), parts in zip(patches.images, plan, strict=True):
            slots = [c * most + i for c, k in zip(crops, parts, strict=True) for i in range(k)]
            end = start + len(slots)
            source[b][start:end] = slots
            assign[b][end : start + n] = [-1] * (start + n - end)
            counts[b] += len(slots) - n
            read[b], made[b] = read[b] + len(crops) * patches.per_crop, made[b] + len(slots)
        noted = seq.noted_as(read), seq.noted_as(made)
        tokens = self.resample(modules, patches.states[:, 1:], most, *noted)
        tokens = tokens.flatten(0, 1).to(seq.hidden.dtype)
        where = on_device(source, tokens.device)
        if most:
            new = tokens[where.clamp(min=0)]
            hidden = torch.where((where >= 0)[..., None], new, seq.hidden)
        else:
            hidden = seq.hidden
        return Merge(on_device(assign, tokens.device), counts, hidden, positions="compact")


def sincos(side: int, width: int) -> Tensor:
    """[width, side, side]: sines and cosines of the column, then those of the row."""
    import torch

    rate = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    turns = torch.arange(side)[None] * rate[:, None]
    line = torch.cat([turns.sin(), turns.cos()])  # [width / 2, side]
    wide, high = line[:, None].expand(-1, side, -1), line[:, :, None].expand(-1, -1, side)
    return torch.cat([wide, high]).float()
