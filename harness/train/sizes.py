"""Parameters of a recipe's model by part, from sizes alone. Torch-free."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.families.catalog import (
    FAMILIES,
    KNOWN,
    REGISTRY,
    config_for,
    info_of,
    shape_from_config,
)
from harness.families.convnext import second_parameters
from harness.families.llava import VICUNA_13B, config_of
from harness.families.shapes import ModelShape, VisionShape
from harness.families.towers import CLIP_L_336
from harness.train.recipe import InstructRecipe
from methods.base import Method

_NEXT = KNOWN["llava-hf/llava-v1.6-vicuna-7b-hf"]["image_grid_pinpoints"]
DECODERS = {
    "lmsys/vicuna-7b-v1.5": config_of("llava", {}, 32000)["text_config"],  # no rows for <image>
    "lmsys/vicuna-13b-v1.5": config_of("llava", VICUNA_13B, 32000)["text_config"],
}
TOWERS = {"openai/clip-vit-large-patch14-336": CLIP_L_336}
PARTS = ("decoder", "projector", "newline", "tower", "routers")


def check_trains(kind: str, model: str) -> None:
    """Raise UsageError unless images of this family are known to the trainer."""
    if not REGISTRY[kind].trains:
        able = ", ".join(name for name, family in FAMILIES.items() if family.trains)
        raise UsageError(f"model: {model} is of type {kind}, which is not trained here: {able} are")


def check_parts(recipe: InstructRecipe) -> None:
    """Raise UsageError where a recipe names a model and parts of one, or neither."""
    if bool(recipe.model) == bool(recipe.decoder or recipe.vision):
        raise UsageError("give the recipe either a model, or a decoder and a vision tower")


def recipe_shape(recipe: InstructRecipe) -> ModelShape:
    """Sizes of the model that a recipe trains.

    Raises UsageError for a decoder or a tower whose sizes are not known here.
    """
    check_parts(recipe)
    if recipe.model:
        shape = shape_from_config(config_for(recipe.model), recipe.model)
        check_trains(shape.family, recipe.model)
        return shape
    if recipe.decoder not in DECODERS:
        raise UsageError("--decoder: no sizes of " + unknown("decoder", recipe.decoder, DECODERS))
    if recipe.vision not in TOWERS:
        raise UsageError("vision: no sizes of " + unknown("tower", recipe.vision, TOWERS))
    config: dict[str, Any] = {
        "model_type": "llava",
        "text_config": DECODERS[recipe.decoder],
        "vision_config": TOWERS[recipe.vision],
    }
    if recipe.image_aspect == "anyres":
        config |= {"model_type": "llava_next", "image_grid_pinpoints": _NEXT}
    return shape_from_config(config, recipe.decoder)


def decoder_parameters(shape: ModelShape) -> int:
    """Llama: layers with two norms each and all their experts, final norm, embedding and head."""
    layers = shape.stored_weights + shape.layers * 2 * shape.hidden
    return layers + shape.hidden + (1 if shape.tied else 2) * shape.head_weights


def tower_parameters(vision: VisionShape) -> int:
    """A CLIP tower: class token, positions, three kinds of norms. SigLIP's: a bias in the patch
    embedding, one norm behind the layers, and the pooling head, where it has one.
    """
    d, m = vision.hidden, vision.ffn
    attention, mlp = 4 * (d * d + d), 2 * d * m + m + d
    layers = vision.layers * (attention + mlp + 4 * d)
    patches = vision.channels * vision.patch**2 * d + vision.patches * d
    if vision.kind == "clip_vision_model":
        return patches + 2 * d + layers + 4 * d
    head = d + attention + mlp + 2 * d
    return patches + d + layers + 2 * d + vision.head * head


def projector_parameters(shape: ModelShape) -> int:
    """The two-layer projector with its biases."""
    return (shape.projector_in + 1) * shape.hidden + (shape.hidden + 1) * shape.hidden


def router_parameters(method: Method, shape: ModelShape) -> int:
    """What `build_modules` makes, without making it. Raises UsageError where it is not declared."""
    found = method.module_parameters(info_of(shape))
    if found is None:
        missing = "it declares no module_parameters(info), the numbers in what it builds"
        raise UsageError(f"--method: no parameter count of {method.name}: {missing}")
    return found


def parameters(shape: ModelShape, method: Method) -> dict[str, int]:
    """Parameters by part; the newline vector exists for any-resolution models only."""
    vision, slow = shape.vision, shape.slow
    if slow is not None and not slow.grid:  # LLaVA-HR resizes the positions of a 336-pixel tower
        vision = dataclasses.replace(vision, image_size=CLIP_L_336["image_size"])
    tower = tower_parameters(vision)
    if slow is not None:
        tower += second_parameters(shape.vision, slow)
    return {
        "decoder": decoder_parameters(shape),
        "projector": projector_parameters(shape),
        "newline": shape.hidden if shape.tiles else 0,
        "tower": tower,
        "routers": router_parameters(method, shape),
    }


def trained_parts(recipe: InstructRecipe) -> set[str]:
    """The parts that learn: the recipe's, the routers, and the newline with the projector."""
    learn = {*recipe.train, "routers"}
    return learn | ({"newline"} if "projector" in learn else set())
