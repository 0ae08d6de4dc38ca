"""Tokens a layer processes in training, and FLOPs of one training sample. Torch-free.

Closed forms of what the engine does with a training sample; the tests compare them with the
engine's own record. Conventions are the ledger's: 2 FLOPs a multiply-accumulate, causal attention.
The LM head runs over every position, as the library's models do when they get labels.

    trained decoder   linear layers and attention: forward 1 + backward 2
    frozen decoder    linear layers: forward 1 + gradients of their inputs 1; attention 1 + 2
    checkpointing     one more forward of every layer (not of the LM head)
    tower             forward only while frozen, else as the decoder's layers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.common.errors import UsageError
from harness.cost.ledger import Counts, attention_flops, linear_flops
from harness.families.catalog import REGISTRY, info_of
from harness.families.shapes import ModelShape
from harness.families.sight import summed
from harness.train.recipe import InstructRecipe
from methods.base import Method


@dataclass(frozen=True)
class ImageTokens:
    """One image: its tokens in the sequence and the crops the tower saw."""

    tokens: int
    crops: int


def image_of(shape: ModelShape) -> ImageTokens:
    """The image of a sample: one crop, or base and two by two tiles (the most, of a square)."""
    side = shape.vision.image_size // shape.vision.patch
    if shape.tiles:
        return ImageTokens(side**2 + (2 * side) ** 2 + 2 * side, 5)
    tokens = shape.image_tokens or shape.vision.patches
    return ImageTokens(tokens, max(1, tokens // shape.vision.patches))


def training_counts(method: Method, shape: ModelShape, n_text: int, n_image: int) -> Counts:
    """Tokens [L] that each layer processes of a training sample with one image.

    Raises UsageError for a method that does not declare it, or declares what cannot be.
    """
    n = n_text + n_image
    if not n_image:
        return np.full(shape.layers, n, np.int64)
    said = method.training_counts(info_of(shape), n_text, n_image)
    if said is None:
        missing = "it declares no training_counts(info, n_text, n_image), the tokens of each layer"
        raise UsageError(f"--method: no closed form of {method.name}'s training: {missing}")
    counts = np.array(said)
    if counts.shape != (shape.layers,) or counts.dtype.kind not in "iu":
        wanted = f"{shape.layers} whole numbers, one a layer"
        raise UsageError(f"--method: {method.name}'s training_counts gives no {wanted}")
    if counts.min() < 0 or counts.max() > n:
        raise UsageError(f"--method: {method.name}'s training_counts leaves 0..{n}, the sample")
    return counts.astype(np.int64)


@dataclass(frozen=True)
class SampleWork:
    """FLOPs of one sample: `forward` by scope, and everything a training step does for it."""

    forward: dict[str, float]
    training: float


def sample_work(
    recipe: InstructRecipe, method: Method, shape: ModelShape, n_text: int
) -> SampleWork:
    """FLOPs of a sample with `n_text` text tokens and one image, under the recipe's settings."""
    image = image_of(shape)
    counts = training_counts(method, shape, n_text, image.tokens)
    linear = linear_flops(shape, counts)
    attention = attention_flops(shape, counts, "causal")
    head = 2.0 * shape.head_weights * (n_text + image.tokens)
    grid = [{"rows": 1, "cols": 1, "crops": image.crops}]
    parts = REGISTRY[shape.family].sight(shape, grid, image.tokens)
    tower, projector = summed(parts, "vision"), summed(parts, "projector")
    if tower is None or projector is None:
        raise UsageError(f"{shape.name}: its second tower's FLOPs are not known")
    again = int(recipe.checkpointing)
    learns = {part: part in recipe.train for part in ("decoder", "projector", "tower")}
    below = learns["projector"] or learns["tower"]  # something under the decoder learns
    own = 3 if learns["decoder"] else 2
    training = linear * (own + again) + attention * (3 + again) + head * own
    training += tower * (3 + again if learns["tower"] else 1) + projector * (3 if below else 1)
    forward = {
        "decoder": linear + attention,
        "head": head,
        "tower": tower,
        "projector": projector,
    }
    return SampleWork(forward, training)


def scheduled_work(
    recipe: InstructRecipe, schedule: Sequence[Method], shape: ModelShape, n_text: int
) -> float:
    """FLOPs of a sample, the mean over the equal stages of a schedule."""
    works = [sample_work(recipe, method, shape, n_text).training for method in schedule]
    return sum(works) / len(works)
