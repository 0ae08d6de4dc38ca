"""What `benchmarks/training.py` trains: a random model at a size that fits, and its batch."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch

from harness.common.errors import UsageError
from harness.families.catalog import config_for, shape_from_config
from harness.families.shapes import ModelShape
from harness.model.loading import pick_device
from harness.timing.shape import random_config, random_name
from harness.timing.subject import Bench, build_random
from harness.train.memory import GIB, layer_bytes
from harness.train.sizes import projector_parameters, tower_parameters

SPARE = 6 * GIB  # left free on a GPU beside what is counted


@dataclass(frozen=True)
class Batch:
    """What every step trains on: the model's inputs and labels, the same for all methods."""

    inputs: dict[str, torch.Tensor]
    n_image: int
    n_text: int


def reduced(config: dict[str, Any], name: str, options: Any) -> dict[str, Any]:
    """The config that is timed; a reduced width takes a vocabulary of the same share of work."""
    full = shape_from_config(config, name)
    made = random_config(config, name, options.layers, options.width)
    if options.width is not None:
        small = shape_from_config(made, name)
        share = full.head_weights / (full.layers * full.layer_weights)
        rows = round(share * small.layers * small.layer_weights / small.hidden)
        made["text_config"]["vocab_size"] = max(64, rows)
        made["image_token_index"] = max(64, rows) - 1
    return made


def layers_that_fit(shape: ModelShape, tokens: int, itemsize: int, free: float) -> int:
    """Decoder layers that train in `free` bytes: weights, gradients and two moments alike.

    `tokens` is those of the whole batch; their activations are counted at two bytes a number.
    """
    held = 4 * itemsize
    fixed = held * (2 * shape.head_weights + projector_parameters(shape))
    fixed += itemsize * tower_parameters(shape.vision) + 12 * shape.vocab * tokens
    layer = held * shape.layer_weights + layer_bytes(shape) * tokens * itemsize / 2
    return int(min(shape.layers, (free - SPARE - fixed) // layer))


def make_batch(bench: Bench, n_text: int, rows: int, seed: int) -> Batch:
    """`rows` samples: half of the text, one image, the other half, of which half is the answer."""
    shape, config = bench.shape, bench.model.config
    generator = torch.Generator().manual_seed(seed)
    n_image, token = shape.vision.patches, int(config.image_token_index)
    ids = torch.randint(0, token, (rows, n_text + n_image), generator=generator)
    before = min(35, n_text // 2)
    ids[:, before : before + n_image] = token
    labels = ids.clone()
    labels[:, : -max(1, (n_text - before) // 2)] = -100
    side = shape.vision.image_size
    pixels = torch.randn(rows, 3, side, side, generator=generator).to(bench.model.dtype)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "pixel_values": pixels,
    }
    on_device = {name: value.to(bench.device) for name, value in inputs.items()}
    return Batch(on_device, n_image, n_text)


def build(options: argparse.Namespace) -> tuple[Bench, str, torch.dtype]:
    """The random model at the size asked for, or the largest that fits a GPU; and its name."""
    device = pick_device(options.device)
    dtype = getattr(torch, options.dtype or ("float32" if device.type == "cpu" else "bfloat16"))
    config = config_for(options.model)
    full = shape_from_config(config, options.model)
    if device.type == "cpu":
        options.layers, options.width = options.layers or 8, options.width or 512
    elif options.layers is None and device.type == "cuda":
        tokens = options.batch * (options.text + full.vision.patches)
        free = torch.cuda.mem_get_info(device)[0]
        options.layers = layers_that_fit(full, tokens, dtype.itemsize, free)
        if options.layers < 1:
            raise UsageError(f"not one layer fits {free / GIB:.0f} GiB: give a smaller --batch")
    name = random_name(options.model, options.layers, options.width)
    made = reduced(config, options.model, options)
    print(f"{name}: {made['text_config']['num_hidden_layers']} of {full.layers} decoder layers")
    model = build_random(made, device, dtype, options.attn, options.seed)
    return Bench(model, shape_from_config(made, name)), name, dtype
