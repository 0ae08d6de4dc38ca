"""Pretrain a Qwen2.5-VL tower: dense labels of every merged token, and what a mini LLaVA reads.

The merger's outputs must tell what stands on every token (kind, colour, spelling, glyphs), at any
size; where the scene has the size of a mini LLaVA's images, they are regressed on the projected
patches of that model as well, which the decoder reads already.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from harness.minimodel.scenes import Vocabulary
from harness.minimodel.tower import DenseHeads

# Plain matrix products train faster on a CPU than its fused kernel, but keep every weight.
FUSED = 600  # tokens of a window from which on the fused kernel is used


class MergedTokens(DenseHeads):
    """Tower with its merger, and dense heads; `forward` returns `{"loss": ...}` for `Trainer`."""

    def __init__(
        self,
        tower: nn.Module,
        vocabulary: Vocabulary,
        teacher: Any = None,
        teacher_weight: float = 1.0,
    ) -> None:
        """`teacher`: a mini LLaVA in the decoder's width, which is not trained."""
        super().__init__(tower, tower.config.out_hidden_size, vocabulary)
        object.__setattr__(self, "teacher", teacher)  # not a submodule: it is not saved
        self.teacher_weight = teacher_weight

    def forward(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        native: Tensor | None = None,
        **labels: Tensor,
    ) -> dict[str, Tensor]:
        """A batch of one size, as `harness.minimodel.canvas.Canvas` makes it. Loss in nats, and
        the regression's relative squared error times its weight."""
        tokens = self.merged(pixel_values, image_grid_thw)
        losses = self.losses(tokens, **labels)
        if native is not None and self.teacher is not None:
            target = self._target(native)
            error = (tokens.float() - target).square().mean() / target.var()
            losses["regression"] = error.detach()
            losses["loss"] = losses["loss"] + self.teacher_weight * error
        return losses

    def merged(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
        """[B, P, H]: what the decoder gets of images of one size."""
        seen = self.tower(pixel_values, grid_thw=image_grid_thw).pooler_output
        return seen.unflatten(0, (len(image_grid_thw), -1))

    def losses(self, tokens: Tensor, **labels: Tensor) -> dict[str, Tensor]:
        """Dense losses of merged tokens [B, P, H]."""
        losses = self.read(F.layer_norm(tokens, tokens.shape[-1:]), **labels)
        return {k: v if k == "loss" else v.detach() for k, v in losses.items()}

    def patches(self, batch: dict[str, Tensor]) -> Tensor:
        """Normalised [B, P, H] that the heads read."""
        tokens = self.merged(batch["pixel_values"], batch["image_grid_thw"])
        return F.layer_norm(tokens, tokens.shape[-1:])

    @torch.no_grad()
    def _target(self, native: Tensor) -> Tensor:
        """float32 [B, P, H] of the teacher; its patches are as large as the tokens."""
        layer = self.teacher.config.vision_feature_layer
        out = self.teacher.model.vision_tower(native, output_hidden_states=True)
        target: Tensor = self.teacher.model.multi_modal_projector(out.hidden_states[layer][:, 1:])
        return target.float()


def batch_windows(tower: nn.Module) -> None:
    """Let a tower attend to all windows of one length at once, instead of one after the other.

    Sixteen images of 192 pixels have 144 windows of 64. The numbers are the same; for training
    only, where no attention mask and no kernel for packed lengths is used.
    """
    for block in tower.blocks:
        block.attn.forward = MethodType(_attend, block.attn)
    tower.patch_embed.forward = MethodType(_embed, tower.patch_embed)


def _embed(module: Any, rows: Tensor) -> Tensor:
    """The convolution, whose step is its kernel, as the matrix product it is."""
    return F.linear(rows.to(module.proj.weight.dtype), module.proj.weight.flatten(1))


def _attend(
    module: Any,
    hidden_states: Tensor,
    cu_seqlens: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    **_: Any,
) -> Tensor:
    """`hidden_states` [n, D] in windows that begin at `cu_seqlens`."""
    qkv = module.qkv(hidden_states).unflatten(-1, (3, module.num_heads, -1))
    query, key = apply_rotary_pos_emb_vision(qkv[:, 0], qkv[:, 1], *position_embeddings)
    starts, lengths = cu_seqlens[:-1], cu_seqlens.diff()
    out, places = [], []
    for length in lengths.unique().tolist():
        at = starts[lengths == length, None] + torch.arange(length, device=starts.device)
        q, k, v = (t[at].transpose(1, 2) for t in (query, key, qkv[:, 2]))
        if length > FUSED:
            seen = F.scaled_dot_product_attention(q, k, v, scale=module.scaling)
        else:
            weights = (q @ k.mT * module.scaling).softmax(-1, dtype=torch.float32).to(v.dtype)
            seen = weights @ v
        out.append(seen.transpose(1, 2).flatten(2).flatten(0, 1))
        places.append(at.flatten())
    whole = torch.cat(out)
    if len(places) > 1:
        whole = whole[torch.cat(places).argsort()]
    return module.proj(whole)
