"""Bytes a device needs to train a recipe, by arithmetic. Torch-free.

States, with P trained and F frozen parameters over N devices (mixed precision AdamW: bf16 weights
2, bf16 gradients 2, fp32 master copy and two moments 12 bytes a parameter; Rajbhandari et al.
2020, arXiv 1910.02054, and FSDP divides as ZeRO-3):

    ddp      2 (P+F)      + 2 P      + 12 P
    zero1    2 (P+F)      + 2 P      + 12 P / N
    zero2    2 (P+F)      + 2 P / N  + 12 P / N
    zero3    2 (P+F) / N  + 2 P / N  + 12 P / N   and up to 10^9 gathered weights of 2 bytes
    host     2 (P+F)      + 2 P                   optimiser in the host's memory, 12 P / N there

Activations of t tokens on one device (fused attention, bf16), read off a Llama layer's saved
tensors; w query and k key width:

    layer          16 d + 4 w + 4 k + 8 m bytes a token it processes (fp32 inputs of both norms,
                   normed states before and after their gains, q, k, v, attention, four of the FFN)
    checkpointing  2 d bytes a token and layer, and the largest single layer in full
    LM head        12 vocab bytes a token: bf16 logits, their fp32 copy and its gradients
    tower          16 d + 4 m bytes a token and layer, where it learns

Not counted: the projector's activations, gradients between layers, a second tower's activations.
`RESERVE` stands for what cannot be had by arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.families.shapes import ModelShape
from harness.train.recipe import InstructRecipe
from harness.train.work import image_of, training_counts

GIB = 1024.0**3
RESERVE = 4 * GIB  # assumption: CUDA context, communication buffers, fragmentation
GATHERED = 2e9  # ZeRO-3: stage3_max_live_parameters of recipes/deepspeed/zero3.json, 2 bytes each
MODES = {
    "ddp": "DDP",
    "zero1": "ZeRO-1",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3, FSDP",
    "host": "AdamW on host",
}


@dataclass(frozen=True)
class States:
    """Bytes on one device that do not depend on the batch; `host` lie in its host's memory."""

    weights: float
    gradients: float
    optimiser: float
    gathered: float = 0.0
    host: float = 0.0

    @property
    def device(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.gathered


def states(trained: int, frozen: int, mode: str, devices: int) -> States:
    """The states of `mode` over `devices`."""
    n = devices
    weights, gradients, optimiser = 2.0 * (trained + frozen), 2.0 * trained, 12.0 * trained
    if mode == "host":
        return States(weights, gradients, 0.0, host=optimiser / n)
    return States(
        weights / n if mode == "zero3" else weights,
        gradients / n if mode in ("zero2", "zero3") else gradients,
        optimiser / n if mode != "ddp" else optimiser,
        min(GATHERED, weights) if mode == "zero3" and n > 1 else 0.0,
    )


def layer_bytes(shape: ModelShape) -> int:
    """Saved bytes of one decoder layer a token it processes."""
    kv = shape.kv_heads * shape.head_dim
    return 16 * shape.hidden + 4 * shape.attention_width + 4 * kv + 8 * shape.ffn


def sample_bytes(recipe: InstructRecipe, method: Any, shape: ModelShape) -> float:
    """Activation bytes of one sample of the recipe's full length, on one device."""
    n = recipe.max_length
    image = image_of(shape)
    counts = training_counts(method, shape, max(n - image.tokens, 0), min(image.tokens, n))
    own = layer_bytes(shape) * counts.astype(np.float64)
    if recipe.checkpointing:
        total = 2.0 * shape.hidden * shape.layers * n + float(own.max())
    else:
        total = float(own.sum())
    total += 12.0 * shape.vocab * n
    if "tower" in recipe.train:
        vision = shape.vision
        tokens = image.crops * (vision.patches + vision.class_tokens)
        layer = 16.0 * vision.hidden + 4.0 * vision.ffn
        if recipe.checkpointing:
            total += tokens * (2.0 * vision.hidden * vision.layers + layer)
        else:
            total += tokens * layer * vision.layers
    return total


def peak_sample_bytes(recipe: InstructRecipe, schedule: Sequence[Any], shape: ModelShape) -> float:
    """`sample_bytes` of the stage that needs most."""
    return max(sample_bytes(recipe, method, shape) for method in schedule)


def largest_batch(memory: float, fixed: float, sample: float) -> int:
    """Samples a device of `memory` bytes takes at once beside its states; 0 when none fits."""
    return max(0, int((memory - RESERVE - fixed) // sample))
