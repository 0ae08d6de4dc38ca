"""Tiny random LLaVA-HR and Mini-Gemini-HD models and their inputs."""

from __future__ import annotations

from typing import Any

import torch

from harness.common.torchvision_ops import declare_missing_ops
from harness.families.catalog import REGISTRY
from tests.tiny import EOS, IMAGE, PAD, batch

declare_missing_ops()


def build(
    kind: str,
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    layers: int = 6,
    **changes: Any,
) -> Any:
    """A model with random weights, the same ones every time; ``changes`` are of its config."""
    family = REGISTRY[kind]
    said = {**family.tiny(), **changes}
    said["text_config"] = {**said["text_config"], "num_hidden_layers": layers}
    config = family.config_class()(**{k: v for k, v in said.items() if k != "model_type"})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = family.model_class()._from_config(config, attn_implementation=attn)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 or name.endswith((".bias", "norm.weight", "norm1.weight")):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model.to(dtype).eval()


def pixels(model: Any, count: int, seed: int = 0) -> torch.Tensor:
    """Noise for so many images, as the model takes it."""
    generator = torch.Generator().manual_seed(seed)
    side = model.config.image_size
    return torch.randn((count, 3, side, side), generator=generator).to(model.dtype)


def prompts(model: Any, rows: list[tuple[int, list[int], int]], seed: int = 0) -> dict[str, Any]:
    """`tests.tiny.batch` with pixels that these models take."""
    inputs = batch(model, rows, seed)
    count = sum(len(images) for _, images, _ in rows)
    assert model.config.image_token_index == IMAGE
    return inputs | ({"pixel_values": pixels(model, count, seed)} if count else {})
