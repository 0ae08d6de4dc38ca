"""A recipe of `stage: instruct`: LLaVA-format data on a LLaVA-family model, at any size."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.typed import make

TEMPLATES = ("vicuna_v1", "plain", "model")
ASPECTS = ("pad", "anyres", "processor")
PARTS = ("projector", "decoder", "tower")


@dataclass(frozen=True)
class InstructRecipe:
    """Settings of one instruction tuning (or of LLaVA's projector pretraining).

    `model` is a hub id or a folder of a LLaVA-family model. Where it is empty the model is put
    together from `decoder`, `vision` and, if given, the weights in `projector`; a missing projector
    starts fresh, as LLaVA's first stage does.
    `stages` switches the method by the optimiser's step, in equal parts of the schedule:
    LLaVolta's staged training. A resumed run goes on in its stage.
    """

    stage: str = "instruct"
    method: str = "dense"  # the method that is saved; also trained where there are no stages
    stages: tuple[str, ...] = ()  # method specs, one an equal part of the schedule
    plan: str = ""  # "arank": all layers but the `plan_dense` of highest ARank route
    plan_samples: int = 50
    plan_dense: int = 4
    # model
    model: str = ""
    decoder: str = ""
    vision: str = ""
    projector: str = ""
    vision_layer: int = -2
    train: tuple[str, ...] = ("projector", "decoder")  # which parts learn, beside the routers
    attn: str = "sdpa"
    # data
    data: str = ""  # LLaVA conversation JSON (one array) or JSON lines
    images: str = ""  # folder the `image` entries are relative to
    template: str = "vicuna_v1"
    image_aspect: str = "pad"
    max_length: int = 2048  # tokens, image tokens included
    group_by_modality: bool = True
    # optimisation
    epochs: float = 1.0
    max_steps: int = -1
    batch: int = 16  # samples per device and step
    accumulation: int = 1
    learning_rate: float = 2e-5
    module_learning_rate: float = 0.0  # routers; 0: the same as everything else
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    bf16: bool = True
    tf32: bool = True
    checkpointing: bool = True  # gradient checkpointing
    deepspeed: str = ""  # a DeepSpeed configuration file
    fsdp: str = ""  # e.g. "full_shard auto_wrap"
    # running
    workers: int = 4  # processes that prepare data
    save_steps: int = 500
    keep: int = 2  # newest checkpoints kept
    logging_steps: int = 1
    seed: int = 42

    @property
    def sharded(self) -> bool:
        """FSDP or DeepSpeed, by this recipe or by `accelerate launch`."""
        launched = (os.environ.get(f"ACCELERATE_USE_{w}", "") for w in ("FSDP", "DEEPSPEED"))
        asked = any(word.lower() in ("1", "true", "yes") for word in launched)
        return bool(self.fsdp or self.deepspeed) or asked

    @classmethod
    def load(cls, path: Path, values: dict[str, Any], **changes: Any) -> InstructRecipe:
        """From the content of the YAML file `path`; `changes` that are not None override it.

        Raises UsageError, one line, for unknown keys, values of another type than their field's
        and values outside the closed lists.
        """
        merged = {**values, **{k: v for k, v in changes.items() if v is not None}}
        for key in ("stages", "train"):
            if isinstance(merged.get(key, ()), str | None):  # one alone, or nothing behind the key
                merged[key] = (merged[key],) if merged[key] else ()
        recipe = make(cls, merged, f"recipe {path}")
        for key, value, allowed in (
            ("template", recipe.template, TEMPLATES),
            ("image_aspect", recipe.image_aspect, ASPECTS),
            ("plan", recipe.plan, ("", "arank")),
            *(("train", part, PARTS) for part in recipe.train),
        ):
            if value not in allowed:
                raise UsageError(f"recipe {path}: {unknown(key, str(value), allowed)}")
        return recipe
