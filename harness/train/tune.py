"""Instruction tuning on packed questions, dense or through the routing engine."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn
from transformers import LlavaForConditionalGeneration, Trainer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.train.scenes import IGNORE
from harness.train.tower import DenseTower


class TuneModel(nn.Module):
    """LLaVA on packed questions; `forward` returns `{"loss": ...}` for `Trainer`.

    Fed with cached `features` of a frozen tower, or with `pixel_values` and dense labels: then
    `dense` (the tower with its pretraining heads) trains along, its loss times `dense_weight`.

    With `run` (an open `harness.engine.routed` context) the decoder executes the method's routing
    and the method's auxiliary loss is added.
    """

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        modules: nn.Module | None = None,
        run: Any = None,
        dense: DenseTower | None = None,
        dense_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.llava, self.routers = llava, modules
        self.heads = dense.heads if dense is not None else None
        object.__setattr__(self, "dense", dense)
        self.dense_weight = dense_weight
        object.__setattr__(self, "run", run)  # a context, not a submodule
        if llava.config.tie_word_embeddings:
            # One tensor under two names cannot be saved; the tie restores the head on loading.
            self.register_state_dict_post_hook(_forget_tied_head)

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        features: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        kind: torch.Tensor | None = None,
        color: torch.Tensor | None = None,
        spell: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """`features` [B, P, D] from the tower or `pixel_values` [B, 3, H, W]; `attention_mask`
        bool [B, 1, n, n]; the dense labels as in `DenseScenes`; the rest [B, n]."""
        extra = None
        if features is None:
            assert self.dense is not None and kind is not None and color is not None
            assert spell is not None and present is not None
            seen = self.dense.tower(pixel_values, output_hidden_states=True)
            features = seen.hidden_states[self.llava.config.vision_feature_layer][:, 1:]
            extra = self.dense_weight * self.dense.losses(seen, kind, color, spell, present)["loss"]
        projected = self.llava.model.multi_modal_projector(features)
        image = BaseModelOutputWithPooling(pooler_output=list(projected))
        out = self.llava(
            input_ids=input_ids,
            mm_encoder_outputs={"image": image},
            attention_mask=attention_mask,
            position_ids=position_ids,
            labels=labels,
            use_cache=False,
        )
        loss = out.loss if extra is None else out.loss + extra
        routing = self.run.aux_loss() if self.run is not None else None
        return {"loss": loss if routing is None else loss + routing, "logits": out.logits}


def _forget_tied_head(module: nn.Module, state: dict, prefix: str, meta: Any) -> None:
    state.pop(prefix + "llava.lm_head.weight", None)


class TuneTrainer(Trainer):
    """`Trainer` with learning rates of their own for new modules and for the tower."""

    optimizer: torch.optim.Optimizer | None
    module_learning_rate: float = 1e-3  # routers, projector
    tower_learning_rate: float = 3e-4  # vision tower and its heads

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            groups: dict[float, list[nn.Parameter]] = defaultdict(list)
            for name, parameter in self.model.named_parameters():
                if parameter.requires_grad:
                    groups[self._rate(name)].append(parameter)
            self.optimizer = torch.optim.AdamW(
                [{"params": found, "lr": rate} for rate, found in groups.items()],
                betas=(0.9, 0.98),
                weight_decay=self.args.weight_decay,
            )
        return self.optimizer

    def _rate(self, name: str) -> float:
        if "routers." in name or "projector" in name:
            return self.module_learning_rate
        if "vision_tower" in name or name.startswith("heads."):
            return self.tower_learning_rate
        return self.args.learning_rate


@torch.no_grad()
def held_out_accuracy(model: TuneModel, batches: list[dict], benches: list[list[str]]) -> dict:
    """Share of questions per bench whose every answer token is the arg max (teacher-forced)."""
    right: dict[str, list[float]] = defaultdict(list)
    was_training = model.training
    model.eval()
    for batch, names in zip(batches, benches, strict=True):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = model(**batch)["logits"][:, :-1].argmax(-1)
        target = batch["labels"][:, 1:]
        ok = (guess == target) | (target == IGNORE)
        names = list(names)
        for row in range(target.shape[0]):
            marked = (target[row] != IGNORE).int()
            edges = torch.diff(marked, prepend=marked.new_zeros(1), append=marked.new_zeros(1))
            starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
            for s, e in zip(starts.tolist(), ends.tolist(), strict=True):
                right[names.pop(0)].append(float(ok[row, s:e].all()))
    model.train(was_training)
    return {name: sum(v) / len(v) for name, v in sorted(right.items())}
