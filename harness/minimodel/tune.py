"""Instruction tuning on packed questions, dense or through the routing engine."""

from __future__ import annotations

from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from harness.minimodel.parts import parts_of
from harness.minimodel.scenes import IGNORE
from harness.minimodel.tower import DenseHeads


class TuneModel(nn.Module):
    """A mini model on packed questions; `forward` returns `{"loss": ...}` for `Trainer`.

    Fed with cached `features` of a frozen tower, or with `pixel_values` and dense labels: then
    `dense` (the tower with its pretraining heads) trains along, its loss times `dense_weight`.

    With `run` (an open `harness.engine.routed` context) the decoder executes the method's routing
    and the method's auxiliary loss is added.
    """

    accepts_loss_kwargs = False  # what `forward` takes as `images` are images, no counts

    def __init__(
        self,
        llava: Any,
        modules: nn.Module | None = None,
        run: Any = None,
        dense: DenseHeads | None = None,
        dense_weight: float = 0.0,
    ) -> None:
        super().__init__()
        # Longer sequences run as they are written, though the decoder is compiled (0: none does).
        self.compiled = 0
        # Checkpoints of a training name the model so, whatever its architecture.
        self.llava, self.routers = llava, modules
        self.parts = parts_of(llava.config.model_type)
        self.heads = dense.heads if dense is not None else None
        object.__setattr__(self, "dense", dense)
        self.dense_weight = dense_weight
        object.__setattr__(self, "run", run)  # a context, not a submodule
        self._keys_to_ignore_on_save: list[str] | None = None  # `Trainer` asks on resuming
        if llava.config.tie_word_embeddings:
            # One tensor under two names cannot be saved; the tie restores the head on loading.
            self.register_state_dict_post_hook(_forget_tied_head)
            self._keys_to_ignore_on_save = ["llava.lm_head.weight"]

    def tie_weights(self) -> None:
        """Make head and embeddings one tensor again; `Trainer` calls it after loading."""
        self.llava.tie_weights()

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        **images: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`images`: features or pixels, as the architecture's parts see them; `attention_mask`
        bool [B, 1, n, n], or as `packed_attention` wants it; `position_ids` [B, n] or, of several
        axes, [A, B, n]; the rest [B, n]. The `logits` [M, V] are those of the M tokens with a
        label, in order."""
        reads = self.run is not None and self.run.method.reads_tower
        image, losses = self.parts.see(self.llava, self.dense, images, reads)
        extra = None if losses is None else self.dense_weight * losses["loss"]
        if attention_mask.shape[1] == 1 and self._eager:
            # Eager attention adds its mask; a boolean one would be added as 0 and 1.
            low = torch.finfo(torch.bfloat16).min
            attention_mask = torch.zeros_like(attention_mask, dtype=torch.bfloat16).masked_fill_(
                ~attention_mask, low
            )
        if self.run is not None:
            self.run.set_labels(labels)
        as_written = 0 < self.compiled < input_ids.shape[1]
        with torch.compiler.set_stance("force_eager") if as_written else nullcontext():
            hidden = self.llava.model(
                input_ids=input_ids,
                mm_encoder_outputs={"image": image},
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
            ).last_hidden_state
        # The head reads the few tokens that have a label; of all tokens its logits would be larger
        # than everything a layer keeps.
        asked = labels[:, 1:] != IGNORE
        logits = self.llava.lm_head(hidden[:, :-1][asked]).float()
        loss = nn.functional.cross_entropy(logits, labels[:, 1:][asked])
        routing = self.run.aux_loss() if self.run is not None else None
        for more in (extra, routing):
            loss = loss if more is None else loss + more
        return {"loss": loss, "logits": logits}

    @property
    def _eager(self) -> bool:
        return self.llava.config.text_config._attn_implementation == "eager"


def _forget_tied_head(module: nn.Module, state: dict, prefix: str, meta: Any) -> None:
    state.pop(prefix + "llava.lm_head.weight", None)


@torch.no_grad()
def held_out_accuracy(
    model: TuneModel, batches: list[dict], benches: list[list[str]], bf16: bool
) -> dict:
    """Share of questions per bench whose every answer token is the arg max (teacher-forced).

    `bf16`: under autocast, as the model was trained; else in the weights' float32.
    """
    right: dict[str, list[float]] = defaultdict(list)
    was_training = model.training
    model.eval()
    device = model.llava.device
    for batch, names in zip(batches, benches, strict=True):
        # Shapes differ here, so a compiled decoder runs as it was written.
        half = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        with half, torch.compiler.set_stance("force_eager"):
            moved = {name: value.to(device) for name, value in batch.items()}
            guess = model(**moved)["logits"].argmax(-1).cpu()
        target = batch["labels"][:, 1:]
        ok = torch.ones_like(target, dtype=torch.bool)
        ok[target != IGNORE] = guess == target[target != IGNORE]
        names = list(names)
        for row in range(target.shape[0]):
            marked = (target[row] != IGNORE).int()
            edges = torch.diff(marked, prepend=marked.new_zeros(1), append=marked.new_zeros(1))
            starts, ends = (edges == 1).nonzero()[:, 0], (edges == -1).nonzero()[:, 0]
            for s, e in zip(starts.tolist(), ends.tolist(), strict=True):
                right[names.pop(0)].append(float(ok[row, s:e].all()))
    model.train(was_training)
    return {name: sum(v) / len(v) for name, v in sorted(right.items())}
