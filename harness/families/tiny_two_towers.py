"""Tiny random LLaVA-HR and Mini-Gemini-HD models in memory, as `harness.families.tiny` has LLaVA's.

Every rule of the published geometry is met at small numbers: positions resized from 3 x 3 to 4 x 4,
adapters between layers, crops of 4 x 4 patches over a map with 4 x 4 positions in each.
"""

from __future__ import annotations

from typing import Any

import torch

from harness.families import tiny
from harness.families.llava_hr import LlavaHr
from harness.families.mini_gemini import MiniGeminiHd
from harness.families.two_towers import slow_config

PIXELS = 128  # a side; 4 x 4 positions of the last map
TOWER_LAYERS = 4
SLOW = slow_config(((4, 6, 8, 10), (1, 1, 2, 1)))
TOKENS = {LlavaHr.kind: 16, MiniGeminiHd.kind: 5 * 16}  # of an image


def config_of(kind: str, layers: int = tiny.LAYERS) -> dict[str, Any]:
    """A tiny config of one of the two families."""
    text = {"model_type": "llama", "vocab_size": tiny.VOCAB, "hidden_size": tiny.WIDTH}
    text |= {"intermediate_size": 2 * tiny.WIDTH, "num_hidden_layers": layers}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"eos_token_id": None, "pad_token_id": 0}
    sight = {"model_type": "clip_vision_model", "hidden_size": tiny.WIDTH}
    sight |= {"intermediate_size": 2 * tiny.WIDTH, "num_hidden_layers": TOWER_LAYERS}
    sight |= {"num_attention_heads": 2, "image_size": tiny.SIDE * tiny.PATCH}
    sight |= {"patch_size": tiny.PATCH}
    config = {"model_type": kind, "text_config": text, "vision_config": sight}
    config |= {"slow_config": SLOW, "image_size": PIXELS, "image_token_index": tiny.IMAGE}
    if kind == LlavaHr.kind:
        return config | {"vision_feature_layer": -1, "position_size": 3 * tiny.PATCH}
    return config | {"vision_feature_layer": -2, "image_grid": 2}


def build(
    kind: str,
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    layers: int = tiny.LAYERS,
    **changes: Any,
) -> Any:
    """A model with random weights, the same ones every time; ``changes`` are of its config."""
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from harness.families.catalog import REGISTRY

    family = REGISTRY[kind]
    said = {**config_of(kind, layers), **changes}
    said.pop("model_type")
    made = family.config_class()(**said)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family.model_class()._from_config(made, attn_implementation=attn)
    tiny.randomise(model)
    with torch.no_grad():  # a layer scale of 1e-6 would hide its block
        for name, value in model.named_parameters():
            if name.endswith("layer_scale_parameter"):
                value.fill_(0.5)
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def pixels(model: Any, count: int, seed: int = 0) -> torch.Tensor:
    """Noise for so many images, as the model takes it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, model.config.image_size, model.config.image_size)
    return torch.randn(shape, generator=generator).to(model.dtype)
