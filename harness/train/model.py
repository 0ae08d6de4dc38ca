"""The model that learns: a LLaVA-family model, its routers, and what of it is trained."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.common.errors import UsageError, one_line
from harness.families.catalog import family_of
from harness.families.towers import LAYERS
from harness.train.recipe import InstructRecipe

FROZEN_DTYPE = torch.bfloat16


class InstructModel(nn.Module):
    """LLaVA and routers; `forward` gives `Trainer` a loss that adds up over batches.

    Args:
        llava: a LLaVA-family model.
        routers: the method's modules, or None.
        run: an open `harness.engine.routed` context, or None for the plain model.
        whole_state: keep frozen weights in the state dict (sharded training wants them there).
    """

    accepts_loss_kwargs = True  # `Trainer` then counts labels over the whole optimiser step

    def __init__(self, llava: Any, routers: nn.Module | None, run: Any, whole_state: bool) -> None:
        super().__init__()
        self.llava, self.routers = llava, routers
        object.__setattr__(self, "run", run)  # a context, not a submodule
        # The engine calls a layer's parts, not the layer: those are what a sharding may wrap.
        layer = llava.model.language_model.layers[0]
        family = family_of(llava.config, type(llava).__name__)
        towers = {type(m).__name__ for m in family.tower(llava).modules()}
        self._no_split_modules = [type(layer.self_attn).__name__, type(layer.mlp).__name__]
        self._no_split_modules += sorted(towers & set(LAYERS.values()))
        self._keys_to_ignore_on_save: list[str] = []
        left_out = set() if whole_state else self._frozen()
        if llava.lm_head.weight is llava.get_input_embeddings().weight:
            left_out.add("llava.lm_head.weight")  # one tensor under two names cannot be saved
        if left_out:
            # Frozen weights come from the start model again; `Trainer` expects these to be missing.
            self._keys_to_ignore_on_save = sorted(left_out)
            self.register_state_dict_post_hook(_forget)

    def _frozen(self) -> set[str]:
        fixed = {n for n, p in self.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return fixed | {n for n, _ in self.named_buffers() if n in self.state_dict()}

    def tie_weights(self) -> None:
        """`Trainer` calls it after loading; a tied head becomes the embeddings again."""
        self.llava.tie_weights()

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor,
        num_items_in_batch: Any = None,
        step_tokens: Any = None,
        **images: Tensor,
    ) -> dict[str, Tensor]:
        """Loss of one micro-batch as its share of the optimiser step's loss.

        `num_items_in_batch` and `step_tokens` count labels and tokens of the whole step, over
        accumulation and processes. Cross-entropy is summed over labels and divided by the first;
        the auxiliary loss, a mean over this batch's tokens, is weighted by its share of the second.
        Summed over the step both are those of one big batch.
        """
        out = self.llava(
            input_ids=input_ids,
            labels=labels,
            attention_mask=attention_mask,
            use_cache=False,
            num_items_in_batch=num_items_in_batch,
            **images,
        )
        loss, extra = out.loss, self.run.aux_loss() if self.run is not None else None
        if extra is not None:
            share = 1.0 if step_tokens is None else attention_mask.sum() / step_tokens
            loss = loss + extra * share
        return {"loss": loss, "logits": out.logits}


def _forget(module: Any, state: dict, prefix: str, meta: Any) -> None:
    for name in module._keys_to_ignore_on_save:
        state.pop(prefix + name, None)


def load_start(recipe: InstructRecipe) -> tuple[Any, Any, Any]:
    """(model in float32, processor, the source it was found at or None if put together here)."""
    from harness.model.catalog import find_model
    from harness.model.loading import load_processor
    from harness.model.quiet import quiet_library
    from harness.train.assemble import assemble
    from harness.train.sizes import check_parts, check_trains

    check_parts(recipe)
    if not recipe.model:
        with quiet_library():
            return *assemble(recipe), None
    source = find_model(recipe.model)
    check_trains(source.family.kind, recipe.model)
    with quiet_library():
        return _load(source, recipe.attn), load_processor(source), source


def _load(source: Any, attn: str) -> Any:
    try:
        model, report = source.family.model_class().from_pretrained(
            source.folder, dtype=torch.float32, attn_implementation=attn, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
        raise UsageError(f"{source.folder}: cannot be loaded: {one_line(error, 200)}") from None
    if missing := sorted(map(str, report["missing_keys"])):
        raise UsageError(f"{source.folder}: weights are missing, the first is {missing[0]}")
    return model


def choose_trained(llava: Any, recipe: InstructRecipe) -> None:
    """Freeze what the recipe does not train; frozen weights go to bfloat16 where the run is.

    Sharded training keeps one dtype: FSDP shards need it, and DeepSpeed casts for itself.
    """
    tensors = family_of(llava.config, type(llava).__name__).tensors
    learning = tuple(name for part in recipe.train for name in tensors[part])
    halve = recipe.bf16 and not recipe.sharded
    for name, value in llava.named_parameters():
        value.requires_grad_(name.startswith(learning))
        if halve and not value.requires_grad:
            value.data = value.data.to(FROZEN_DTYPE)


def use_checkpointing(llava: Any) -> None:
    """Gradient checkpointing of the decoder's layers, routed ones too, without re-entrance.

    Re-entrant checkpointing would drop gradients where no input of a layer asks for one, and does
    not know keyword arguments.
    """
    enable = getattr(llava, "activation_checkpointing_enable", None)  # its newer name
    (enable or llava.gradient_checkpointing_enable)({"use_reentrant": False})


def trained_state(model: InstructModel, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The learnt tensors of `state` under the names of the bare LLaVA model."""
    learnt = {n for n, p in model.llava.named_parameters() if p.requires_grad}
    return {n: state[f"llava.{n}"] for n in sorted(learnt)}


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """(learning, all) parameters."""
    sizes = [(math.prod(p.shape), p.requires_grad) for p in model.parameters()]
    return sum(n for n, learns in sizes if learns), sum(n for n, _ in sizes)
