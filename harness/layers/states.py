"""One pass over prompts that measures every layer: ARank, block influence, cosine similarity."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness.engine.model import find_parts
from harness.layers.ranks import VARIANTS, Variant, head_ranks

COSINES = ("block_influence", "cosine")
TOP = 4  # γ-MoD keeps the layers of the four highest ARanks dense


@dataclass
class Measured:
    """What was found, sample by sample, in the order of the samples.

    ranks            variant -> samples of [layers][heads] ranks
    block_influence  1 - cosine of a token's state before and after the layer, mean over all real
                     tokens (ShortGPT), samples of [layers]
    cosine           that cosine over the image tokens alone; over all where there is no image
    """

    ranks: dict[Variant, list[list[list[int]]]] = field(default_factory=dict)
    block_influence: list[list[float]] = field(default_factory=list)
    cosine: list[list[float]] = field(default_factory=list)

    def per_layer(self, measure: str) -> Tensor:
        """float64 [samples, layers] of a variant (mean over heads) or a cosine."""
        if measure in COSINES:
            return torch.tensor(getattr(self, measure), dtype=torch.float64)
        return torch.tensor(self.ranks[measure], dtype=torch.float64).mean(dim=2)  # type: ignore[index]


@torch.inference_mode()
def measure(
    model: Any, batches: Iterable[dict[str, Any]], variants: Sequence[Variant] = VARIANTS
) -> Measured:
    """Run a plain model over prompts and measure its layers.

    Args:
        model: a transformers LLaVA-family model, no method active.
        batches: keyword arguments of one forward call each; padding on either side is left out by
            the attention mask, positions are those each prompt has alone.
        variants: which ARanks; none measures the cosines only.

    One layer's maps of one sample live at a time, heads in groups (`ranks.MAP_BYTES`), whatever
    the depth and the batch.
    """
    found = Measured(ranks={name: [] for name in variants})
    parts = find_parts(model)
    watch = _Watch(found, variants, parts.image_token)
    hooks = []
    for layer in parts.layers:
        attention: Any = layer.self_attn
        hooks += [
            layer.register_forward_pre_hook(watch.enter, with_kwargs=True),
            layer.register_forward_hook(watch.leave, with_kwargs=True),
            attention.register_forward_pre_hook(watch.attend, with_kwargs=True),
        ]
    try:
        for batch in batches:
            watch.begin(batch)
            model(**watch.arguments(batch), use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def arank(model: Any, samples: Iterable[dict[str, Any]], variant: Variant = "probs") -> Tensor:
    """float64 [samples, layers]: ARank of every decoder layer, mean over heads.

    Raises ValueError for an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"ARank variant {variant!r}: expected 'logits' or 'probs'")
    return measure(model, samples, (variant,)).per_layer(variant)


def dense_layers(scores: Tensor, keep: int = TOP) -> list[int]:
    """The `keep` layers of highest ARank (paper Eq. 3: they stay dense), ties to the lowest index.

    `scores` is [layers] or [samples, layers]; the result is ascending.
    """
    mean = scores.mean(0) if scores.dim() == 2 else scores
    order = torch.argsort(mean, descending=True, stable=True)
    return sorted(order[:keep].tolist())


class _Watch:
    """The hooks, and where they write."""

    def __init__(self, found: Measured, variants: Sequence[Variant], image_token: int) -> None:
        self.found, self.variants, self.image_token = found, variants, image_token
        self.real: list[Tensor] = []  # columns of each row's real tokens
        self.image: list[Tensor] = []  # of its image tokens, of all where there is none
        self.before: Tensor | None = None
        self.first = 0  # number of the batch's first sample

    def arguments(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The call's arguments, with the positions each row has without padding."""
        mask = batch.get("attention_mask")
        if mask is None or bool(mask.all()):
            return batch
        return batch | {"position_ids": (mask.long().cumsum(dim=1) - 1).clamp(min=0)}

    def begin(self, batch: dict[str, Any]) -> None:
        ids = batch["input_ids"]
        mask = batch.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        self.real = [row.nonzero().flatten() for row in mask.bool()]
        images = [r.nonzero().flatten() for r in (ids == self.image_token) & mask.bool()]
        self.image = [i if len(i) else r for i, r in zip(images, self.real, strict=True)]
        self.first = len(self.found.cosine)
        for ranks in self.found.ranks.values():
            ranks += [[] for _ in self.real]
        for cosines in (self.found.block_influence, self.found.cosine):
            cosines += [[] for _ in self.real]

    def enter(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        self.before = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    def leave(self, module: Any, args: tuple, kwargs: dict[str, Any], out: Any) -> None:
        after = out[0] if isinstance(out, tuple) else out
        assert self.before is not None
        alike = torch.cosine_similarity(self.before.double(), after.double(), dim=-1)
        for i, (real, image) in enumerate(zip(self.real, self.image, strict=True)):
            row = alike[i]
            self.found.block_influence[self.first + i].append(1 - float(row[real].mean()))
            self.found.cosine[self.first + i].append(float(row[image].mean()))
        self.before = None

    def attend(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        cos, sin = kwargs["position_embeddings"]
        for i, real in enumerate(self.real):
            row = i if cos.shape[0] > 1 else 0
            turn = cos[row, real], sin[row, real]
            ranks = head_ranks(module, hidden[i, real], turn, self.variants)
            for name, value in ranks.items():
                self.found.ranks[name][self.first + i].append(value)
