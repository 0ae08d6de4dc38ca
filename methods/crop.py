"""What the vision tower kept of one crop, as methods read it: states, queries, keys, attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

QUERIES = 1024  # whose attention is formed at a time, which bounds the memory


@dataclass(frozen=True)
class Crop:
    """One picture as it went through the tower: c class tokens (0 or 1), then P patches.

    A square of pixels; where a tower packs patches, an image of any size.

    states   [c + P, w] what the projector reads (the class token, which LLaVA leaves out, too).
    taps     tower layer -> (queries, keys), [c + P, w] each, of the layers in ``taps``, as they
             meet: turned by the layer's rotary embedding where it has one.
    joined   [T, n] long: the patches that each of the crop's tokens joins; None: one each, T = P.
    windows  tower layer -> [c + P] long, of layers that attend within windows: each patch's.
    """

    states: Tensor
    taps: dict[int, tuple[Tensor, Tensor]]
    heads: int
    class_tokens: int = 1
    joined: Tensor | None = None
    windows: Mapping[int, Tensor] = field(default_factory=dict)

    @property
    def patches(self) -> Tensor:
        """[P, w] what the projector reads; [T, n w], side by side, where it reads joined ones."""
        patches = self.states[self.class_tokens :]
        return patches if self.joined is None else patches[self.joined].flatten(1)

    def keys(self, layer: int) -> Tensor:
        """[P, w] the patches' keys; of tokens that join patches, the mean of theirs [T, w]."""
        keys = self.taps[layer][1][self.class_tokens :]
        return keys if self.joined is None else keys[self.joined].mean(dim=1)

    def cls_row(self, layer: int) -> Tensor:
        """[heads, P] float32 or better: the class token's softmax row over 1 + P, patches only.

        Of tokens that join patches, the mean of theirs [heads, T].

        For methods with ``needs_class_token``, which no tower without one gets.
        """
        import torch

        query, key = self.taps[layer]
        size = query.shape[-1] // self.heads
        q = query[0].view(self.heads, 1, size)
        k = key.view(-1, self.heads, size).permute(1, 2, 0)
        scores = (torch.matmul(q, k) * size**-0.5)[:, 0]
        row = scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(dim=-1)
        return row[:, 1:] if self.joined is None else row[:, 1:][:, self.joined].mean(dim=-1)

    def received(self, layer: int) -> Tensor:
        """[P] float32 or better: attention a patch receives, mean over heads and all queries.

        Of tokens that join patches, the mean of theirs [T]. A query outside a patch's window gives
        it nothing.
        """
        query, key = self.taps[layer]
        given = received(query[None], key[None], self.heads, self.windows.get(layer))[0]
        given = given[self.class_tokens :]
        return given if self.joined is None else given[self.joined].mean(dim=-1)


def received(queries: Tensor, keys: Tensor, heads: int, windows: Tensor | None = None) -> Tensor:
    """[C, n] attention that each token receives, mean over heads and all queries [C, n, w].

    In float32 or better, one head and some queries at a time. ``windows`` [n] long: tokens attend
    to those of their own number only.
    """
    import torch

    kind = torch.promote_types(queries.dtype, torch.float32)
    size, n = queries.shape[-1] // heads, queries.shape[1]
    total = torch.zeros(keys.shape[:2], dtype=kind, device=keys.device)
    for query, key in zip(
        queries.to(kind).split(size, -1), keys.to(kind).split(size, -1), strict=True
    ):
        for first in range(0, n, QUERIES):
            part = slice(first, first + QUERIES)
            scores = query[:, part] @ key.transpose(1, 2) * size**-0.5
            if windows is not None:
                apart = windows[part, None] != windows
                scores = scores.masked_fill(apart, float("-inf"))
            total += scores.softmax(dim=-1).sum(dim=1)
    return total / (heads * n)
