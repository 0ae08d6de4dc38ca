"""Pretrain a Qwen2.5-VL tower: dense labels of every merged token, and what a mini LLaVA reads.

The merger's outputs must tell what stands on every token (kind, colour, spelling, glyphs), at any
size; where the scene has the size of a mini LLaVA's images, they are regressed on the projected
patches of that model as well, which the decoder reads already.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.minimodel.attention import TOWER
from harness.minimodel.compiling import quicken_tower
from harness.minimodel.labels import Vocabulary
from harness.minimodel.tower import DenseHeads


class MergedTokens(DenseHeads):
    """Tower with its merger, and dense heads; `forward` returns `{"loss": ...}` for `Trainer`."""

    accepts_loss_kwargs = False  # what `forward` takes as `labels` are labels, no counts

    def __init__(
        self,
        tower: nn.Module,
        vocabulary: Vocabulary,
        teacher: Any = None,
        teacher_weight: float = 1.0,
        compiled: bool = False,
    ) -> None:
        """`teacher`: a mini LLaVA in the decoder's width, which is not trained."""
        super().__init__(tower, tower.config.out_hidden_size, vocabulary)
        tower.config._attn_implementation = TOWER
        quicken_tower(tower, compiled)
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
