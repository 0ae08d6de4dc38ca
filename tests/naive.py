"""An independent reference: one sample, full length, masked, float64, no cache, no engine code.

Every method is written here a second time, as plainly as possible, straight from its description.
Nothing is gathered: tokens a layer skips or that left are masked as keys, and their states are
simply not updated. The prompt and the tokens generated after it go through in one pass.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Sample:
    """One sample in full: ids with image tokens, then ``answer`` ids; features of its images."""

    ids: list[int]
    answer: list[int]
    features: list[Tensor]  # one [tokens, d] per image
    image_token: int
    grids: list[list[tuple[int, int, bool]]] = field(default_factory=list)  # rows, cols, newline
    name: str = ""
    deep: list[Tensor] = field(default_factory=list)  # [tokens, d] that layer 0, 1, ... adds
    asked: Sequence[int] = ()  # a later question among the tokens of ``answer``

    def __post_init__(self) -> None:
        self.image = [i for i, t in enumerate(self.ids) if t == self.image_token]
        self.prompt = len(self.ids)
        self.total = self.prompt + len(self.answer)

    @property
    def spans(self) -> list[tuple[int, int]]:
        spans, offset = [], 0
        for f in self.features:
            spans.append((self.image[offset], len(f)))
            offset += len(f)
        return spans


class Naive:
    """The decoder of a LLaVA model, recomputed token by token in float64."""

    def __init__(self, model: Any, sample: Sample, modules: Any = None) -> None:
        self.model, self.sample, self.modules = model, sample, modules
        text = model.model.language_model
        self.text, self.config = text, text.config
        self.depth = len(text.layers)
        heads = self.config.num_attention_heads
        self.heads, self.groups = heads, heads // self.config.num_key_value_heads
        self.size = getattr(self.config, "head_dim", None) or self.config.hidden_size // heads
        x = text.embed_tokens(torch.tensor(sample.ids + sample.answer)).double()
        if sample.features:
            x[sample.image] = torch.cat(sample.features).double()
        self.x = x
        self.alive = torch.ones(sample.total, dtype=torch.bool)
        self.position = torch.arange(sample.total)
        self.active: list[Tensor] = []  # per layer, who was processed

    # --- parts ------------------------------------------------------------------------------
    @staticmethod
    def norm(module: Any, x: Tensor) -> Tensor:
        return module(x)  # the library's own: its rounding rule is not what is tested here

    def turned(self, x: Tensor, position: Tensor) -> Tensor:
        """RoPE on [n, heads, size], or on the first numbers of it that there are angles for."""
        angle = position.float()[:, None] * self.text.rotary_emb.inv_freq.float()[None]
        cos, sin = angle.cos().double()[:, None], angle.sin().double()[:, None]
        pairs = angle.shape[-1]
        a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)

    def probabilities(self, layer: int, active: Tensor, position: Tensor) -> Tensor:
        """[heads, n, n] attention of a layer, rows of inactive tokens meaningless."""
        attention = self.text.layers[layer].self_attn
        h = self.norm(self.text.layers[layer].input_layernorm, self.x)
        q = attention.q_proj(h).view(len(h), self.heads, self.size)
        k = attention.k_proj(h).view(len(h), -1, self.size)
        if hasattr(attention, "q_norm"):
            q, k = self.norm(attention.q_norm, q), self.norm(attention.k_norm, k)
        q, k = self.turned(q, position), self.turned(k, position)
        causal = torch.ones(len(h), len(h), dtype=torch.bool).tril()
        rows = []
        for head in range(self.heads):
            score = q[:, head] @ k[:, head // self.groups].T / math.sqrt(self.size)
            allowed = (causal & active[None]) | torch.eye(len(h), dtype=torch.bool)
            rows.append(torch.softmax(score.masked_fill(~allowed, -math.inf), dim=-1))
        return torch.stack(rows)

    def attend(self, layer: int, active: Tensor, position: Tensor) -> Tensor:
        attention = self.text.layers[layer].self_attn
        h = self.norm(self.text.layers[layer].input_layernorm, self.x)
        v = attention.v_proj(h).view(len(h), -1, self.size)
        p = self.probabilities(layer, active, position)
        out = [p[head] @ v[:, head // self.groups] for head in range(self.heads)]
        return attention.o_proj(torch.cat(out, dim=-1))

    def run_layer(
        self,
        layer: int,
        active: Tensor | None = None,
        position: Tensor | None = None,
        weight: Tensor | None = None,
        scope: str = "mlp_branch",
        skip: Tensor | None = None,
    ) -> None:
        active = self.alive.clone() if active is None else active & self.alive
        self.active.append(active)
        module = self.text.layers[layer]
        h = self.x + self.attend(layer, active, self.position if position is None else position)
        mlp = module.mlp(self.norm(module.post_attention_layernorm, h))
        w = torch.ones(len(h)).double() if weight is None else weight
        y = h + mlp
        if scope == "mlp_branch":
            y = h + w[:, None] * mlp
        elif scope == "layer_output":
            y = w[:, None] * y
        else:
            y = self.x + w[:, None] * (y - self.x)
        rest = self.x if skip is None else skip[:, None] * self.x
        self.x = torch.where(active[:, None], y, torch.where(self.alive[:, None], rest, self.x))

    @staticmethod
    def merged(x: Tensor, groups: dict[int, list[int]]) -> Tensor:
        out = x.clone()
        for slot, members in groups.items():
            out[slot] = x[members].mean(0)
        return out

    def merge(self, groups: dict[int, list[int]]) -> None:
        """Each slot becomes the mean of its members."""
        self.x = self.merged(self.x, groups)

    @staticmethod
    def means(x: Tensor, groups: list[list[int]]) -> Tensor:
        return torch.stack([x[members].mean(0) for members in groups])

    def rebuild(self, groups: list[list[int]], position: Tensor) -> None:
        """Another sequence, whose tokens are the means of groups of the old ones."""
        self.x, self.position = self.means(self.x, groups), position
        self.alive = torch.ones(len(groups), dtype=torch.bool)

    def logits(self) -> Tensor:
        """[answer + 1, vocabulary]: at the last prompt token and at every answer token."""
        behind = self.x[len(self.x) - len(self.sample.answer) - 1 :]
        return self.model.lm_head(self.norm(self.text.norm, behind))

    def ranks(self, active: Tensor) -> Tensor:
        """Number of active tokens before each token."""
        return (active.long().cumsum(0) - active.long()).clamp(min=0)

    def best(self, score: Tensor, candidates: list[int], k: int) -> list[int]:
        order = sorted(candidates, key=lambda i: (-float(score[i].float()), i))
        return order[:k]


def run(
    model: Any,
    sample: Sample,
    name: str,
    params: dict[str, Any],
    modules: Any,
    kind: type[Naive] = Naive,
) -> Naive:
    """The finished pass of method ``name``; ``params`` are all its parameters."""
    from tests.naive_routers import ROUTERS

    with torch.no_grad():
        naive = kind(model, sample, modules)
        (METHODS.get(name) or ROUTERS[name])(naive, **params)
    return naive


def dense(naive: Naive) -> None:
    for layer in range(naive.depth):
        naive.run_layer(layer)


def blind(naive: Naive) -> None:
    naive.alive[naive.sample.image] = False
    naive.position = naive.ranks(naive.alive)
    dense(naive)


def _leave(naive: Naive, kept: list[int], positions: str) -> None:
    gone = set(naive.sample.image) - set(kept)
    naive.alive[sorted(gone)] = False
    if positions == "compact":
        naive.position = naive.ranks(naive.alive)


def random(naive: Naive, keep: float, k: int, seed: int, positions: str) -> None:
    image = naive.sample.image
    digest = hashlib.sha256(f"{seed}:{naive.sample.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(len(image), generator=generator).tolist()
    for layer in range(naive.depth):
        if layer == k:
            _leave(naive, [image[i] for i in order[: round(keep * len(image))]], positions)
        naive.run_layer(layer)


def uniform(naive: Naive, keep: float, k: int, positions: str) -> None:
    image = naive.sample.image
    kept = round(keep * len(image))
    for layer in range(naive.depth):
        if layer == k:
            chosen = [math.floor((i + 0.5) * len(image) / kept) for i in range(kept)]
            _leave(naive, [image[i] for i in chosen], positions)
        naive.run_layer(layer)


def fastv(naive: Naive, k: int, r: float, score: str, rounding: str, positions: str) -> None:
    image = naive.sample.image
    values = None
    for layer in range(naive.depth):
        if layer == k - 1:
            p = naive.probabilities(layer, naive.alive, naive.position).mean(0)
            prompt = naive.sample.prompt
            values = p[prompt - 1] if score == "last" else p[:prompt].mean(0)
        if layer == k:
            share = len(image) * (1 - r)
            m = round(share) if rounding == "round" else int(share)
            _leave(naive, naive.best(values, image, m), positions)
        naive.run_layer(layer)


def llavolta(naive: Naive, k: int, stride: int, remainder: str) -> None:
    for layer in range(naive.depth):
        if layer == max(k, 0):
            groups = {}
            for start, n in naive.sample.spans:
                for first in range(start, start + n, stride):
                    window = list(range(first, min(first + stride, start + n)))
                    naive.alive[window] = False
                    if len(window) < stride and remainder == "drop":
                        continue
                    naive.alive[first] = True
                    naive.position[first] = naive.position[first + (len(window) - 1) // 2]
                    groups[first] = window
            naive.merge(groups)
        naive.run_layer(layer)


def pool(naive: Naive, keep: float, side: int | None, positions: str) -> None:
    groups = {}
    for (start, _), grids in zip(naive.sample.spans, naive.sample.grids, strict=True):
        offset = start
        for rows, cols, newline in grids:
            step = cols + newline
            high = min(side, rows) if side else max(1, round(rows * math.sqrt(keep)))
            wide = min(side, cols) if side else max(1, round(cols * math.sqrt(keep)))
            naive.alive[offset : offset + rows * step] = False
            for i in range(high):
                top, bottom = i * rows // high, math.ceil((i + 1) * rows / high)
                middle = (top + bottom - 1) // 2
                for j in range(wide):
                    left, right = j * cols // wide, math.ceil((j + 1) * cols / wide)
                    cells = [
                        offset + a * step + b
                        for a in range(top, bottom)
                        for b in range(left, right)
                    ]
                    slot = offset + middle * step + (left + right - 1) // 2
                    groups[slot], naive.alive[slot] = cells, True
                if newline:
                    naive.alive[offset + middle * step + cols] = True
            offset += rows * step
    naive.merge(groups)
    if positions == "compact":
        naive.position = naive.ranks(naive.alive)
    dense(naive)


METHODS = {
    "dense": dense, "blind": blind, "random": random, "uniform": uniform, "fastv": fastv,
    "llavolta": llavolta, "pool": pool,
}  # fmt: skip
