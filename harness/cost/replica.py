"""A model of true depth and token counts at toy width, to ask methods how many tokens they keep.

How many tokens a layer processes depends on depth, token counts and the method, never on the
width, so the routing engine itself runs here in a second without any real weights. Methods whose
counts depend on weights or content (thresholds) are told apart and refused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from harness.common.torchvision_ops import declare_missing_ops
from harness.engine import routed
from harness.families.catalog import FAMILIES, family_of, shape_from_config
from harness.families.family import Family
from harness.families.tiny import Clip
from harness.store.record import RoutingRecord
from methods.vocabulary import ClipSizes

WIDTH, TOWER = 8, 12  # other widths, so that notes of linear layers tell them apart
IMAGE_TOKEN = 3
WORD = 4
# What stands beside a tower in its CLIP model, by the tower's width, depth and patch: CLIP-L/14.
CLIP_MODELS = {(1024, 24, 14): ClipSizes(layers=12, width=768, ffn=3072, out=768, behind=1)}
PREFIX = 35  # tokens before the image in LLaVA's Vicuna template; fewer for a short prompt


class DependsOnWeights(Exception):
    """How many tokens the method keeps is known only with its weights and the picture."""


def build_replica(config: Mapping[str, Any], seed: int = 0) -> Any:
    """A model of the family like `config`, two heads of four numbers wide."""
    declare_missing_ops()
    family = loading(config)
    full = family.completed({**config, "model_type": family.kind}, "replica")
    text = {
        "vocab_size": 8,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // 2,
        "max_position_embeddings": 16384,
    }
    tower = {"hidden_size": TOWER, "intermediate_size": TOWER, "num_attention_heads": 2}
    small = family.resized(full, text, tower)
    torch.manual_seed(seed)
    made = family.config_class()(**{**small, "image_token_id": IMAGE_TOKEN})
    model = family.model_class()._from_config(made, attn_implementation="sdpa").eval()
    model.generation_config.eos_token_id = None
    return model


def loading(config: Mapping[str, Any]) -> Family:
    """The family that runs in place of a config's: its own, or LLaVA where that only has sizes."""
    family = family_of(config, "replica", sizes_only=True)
    return family if family.loads else FAMILIES["llava"]


def replica_inputs(
    model: Any, n_text: int, seed: int = 0, image_tokens: int = 0
) -> dict[str, torch.Tensor]:
    """One prompt of `n_text` text tokens around an ordinary image, of noise.

    input_ids [1, n], attention_mask [1, n], pixel_values as the model wants them.
    `image_tokens` is the number of a model whose image has a fixed one: as many squares as make it
    (0: one image).
    """
    noise = torch.Generator().manual_seed(seed)
    family = family_of(model.config, "replica")
    shape = family.shape(model.config.to_dict(), "replica")
    one = family.image_sizes(shape)[0]
    count = max(1, image_tokens // one.tokens)
    inputs = dict(family.noise(shape, count, one.crops, one.size, noise))
    with torch.no_grad():
        features = model.get_image_features(**inputs, return_dict=True).pooler_output
    before = min(PREFIX, n_text // 2)
    n_image = sum(int(crop.shape[0]) for crop in features)
    ids = [WORD] * before + [IMAGE_TOKEN] * n_image + [WORD] * (n_text - before)
    inputs["input_ids"] = torch.tensor([ids])
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs | family.token_inputs(inputs["input_ids"], IMAGE_TOKEN)


def predicted_record(
    method: Any, config: Mapping[str, Any], n_text: int, n_out: int
) -> RoutingRecord:
    """The routing of one sample, the same for any weights and any picture.

    Raises DependsOnWeights when it is not.
    """
    shape = shape_from_config(config, "replica")
    vision, found = shape.vision, []
    tower = vision.hidden, vision.layers, vision.patch
    for seed in (0, 1):
        model = build_replica(config, seed)
        inputs = replica_inputs(model, n_text, seed, shape.image_tokens)
        found.append(_record(model, method, inputs, n_out, tower))
    first, second = found
    prompt = np.array_equal(first.processed_per_layer(), second.processed_per_layer())
    if not (prompt and np.array_equal(first.decode, second.decode)):
        raise DependsOnWeights(method.name)
    return found[0]


def _record(
    model: Any, method: Any, inputs: Mapping[str, Any], n_out: int, tower: tuple[int, int, int]
) -> RoutingRecord:
    watched = copy.copy(method)
    for name in ("before", "layer", "decode", "after_leaving"):
        if hasattr(method, name):
            object.__setattr__(watched, name, _watch(getattr(method, name), method.name))
    from harness.engine import model_info

    modules = method.build_modules(model_info(model))
    clip = Clip(model, CLIP_MODELS.get(tower))
    with torch.no_grad(), routed(model, watched, modules, clip=clip) as run:
        run.set_samples(["replica"])
        model.generate(**inputs, max_new_tokens=n_out, min_new_tokens=n_out, do_sample=False)
        return run.records()[0]


def _watch(ask: Any, name: str) -> Any:
    """A method's decision function that refuses decisions whose counts only the device knows."""

    def asked(*args: Any) -> Any:
        decision = ask(*args)
        if decision is not None and _unknown_counts(decision):
            raise DependsOnWeights(name)
        return decision

    return asked


def _unknown_counts(decision: Any) -> bool:
    chosen = getattr(decision, "keep", None)
    if chosen is None:
        chosen = getattr(decision, "assign", None)
    return chosen is not None and decision.counts is None
