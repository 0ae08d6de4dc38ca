"""ARank: the mean rank of a layer's attention maps, the redundancy score γ-MoD plans layers by.

Two definitions, because the paper and its code differ:
- `logits` (paper Eq. 5): rank of (x W_Q)(x W_K)^T per head, without rotation or mask;
- `probs` (released code): rank of the causal softmax map with its diagonal set to zero.
Both in float32 with `torch.linalg.matrix_rank`'s default tolerance, averaged over heads, then
over samples. ARank is not normalised by length, so its scale follows the sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

Variant = Literal["logits", "probs"]


@torch.inference_mode()
def arank(
    model: Any, samples: Iterable[dict[str, Any]], variant: Variant = "probs"
) -> torch.Tensor:
    """ARank of every decoder layer.

    Args:
        model: a transformers LLaVA-family model (plain, no method active).
        samples: keyword arguments of one unpadded prompt (batch 1) each.
        variant: `logits` or `probs`.

    Returns:
        float64 [samples, layers]. Raises ValueError on a batch larger than one.

    One layer's maps live at a time, so memory is heads * n^2 floats, whatever the depth.
    """
    if variant not in ("logits", "probs"):
        raise ValueError(f"ARank variant {variant!r}: expected 'logits' or 'probs'")
    layers = model.model.language_model.layers
    found: list[list[float]] = []

    def watch(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if hidden.shape[0] != 1:
            raise ValueError(f"ARank takes one sample at a time, got a batch of {hidden.shape[0]}")
        maps = _maps(module, hidden, kwargs["position_embeddings"], variant)
        found[-1].append(torch.linalg.matrix_rank(maps).double().mean().item())

    hooks = [x.self_attn.register_forward_pre_hook(watch, with_kwargs=True) for x in layers]
    try:
        for sample in samples:
            found.append([])
            model(**sample, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.tensor(found, dtype=torch.float64)


def dense_layers(scores: torch.Tensor, keep: int = 4) -> list[int]:
    """The `keep` layers of highest ARank (paper Eq. 3: they stay dense), ties to the lowest index.

    `scores` is [layers] or [samples, layers]; the result is ascending.
    """
    mean = scores.mean(0) if scores.dim() == 2 else scores
    order = torch.argsort(mean, descending=True, stable=True)
    return sorted(order[:keep].tolist())


def _maps(attn: Any, hidden: torch.Tensor, rotary: Any, variant: Variant) -> torch.Tensor:
    """float32 [heads, n, n] attention logits or probabilities of one layer and sample."""
    width, n = attn.head_dim, hidden.shape[1]
    q = attn.q_proj(hidden).view(n, -1, width).transpose(0, 1).float()
    k = attn.k_proj(hidden).view(n, -1, width).transpose(0, 1).float()
    k = k.repeat_interleave(q.shape[0] // k.shape[0], dim=0)
    if variant == "logits":
        return q @ k.transpose(1, 2)
    cos, sin = (part[0].float() for part in rotary)
    scores = _rotate(q, cos, sin) @ _rotate(k, cos, sin).transpose(1, 2) * attn.scaling
    future = torch.ones(n, n, dtype=torch.bool, device=scores.device).triu(1)
    probs = scores.masked_fill(future, float("-inf")).softmax(-1)
    return probs - torch.diag_embed(torch.diagonal(probs, dim1=1, dim2=2))


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), dim=-1) * sin
