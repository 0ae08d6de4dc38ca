"""Attention maps of a few layers of the plain model, for pictures: mean over heads, made small."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from harness.families.catalog import family_of

LAYERS = 4  # first, last and evenly spaced ones between
SIDE = 192  # larger maps are averaged down to this many rows and columns
LONGEST = 4096  # tokens; above it the full map of one layer takes gigabytes


@torch.inference_mode()
def head_mean_maps(model: Any, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """``layers`` [k], ``maps`` float16 [k, m, m] (queries, keys) and ``tokens`` of one prompt.

    ``inputs``: arguments of one unpadded prompt for a model without any method. A map larger than
    ``SIDE`` has block means instead of entries. None where the maps do not fit into memory.
    """
    if int(inputs["input_ids"].shape[1]) > LONGEST:
        return None
    layers = family_of(model.config, type(model).__name__).decoder(model).layers
    chosen = sorted({round(i * (len(layers) - 1) / (LAYERS - 1)) for i in range(LAYERS)})
    found: dict[int, Any] = {}
    handles = [layers[i].self_attn.register_forward_hook(_keep(found, i)) for i in chosen]
    try:
        with _eager(model):
            model(**inputs, use_cache=False, logits_to_keep=1)
    except (torch.OutOfMemoryError, MemoryError):
        return None
    finally:
        for handle in handles:
            handle.remove()
    maps = np.stack([found[i] for i in chosen])
    return {"layers": chosen, "maps": maps, "tokens": int(inputs["input_ids"].shape[1])}


def _keep(found: dict[int, Any], layer: int) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        mean = output[1][0].float().mean(0)
        if mean.shape[0] > SIDE:
            mean = torch.nn.functional.adaptive_avg_pool2d(mean[None], SIDE)[0]
        found[layer] = mean.to(torch.float16).cpu().numpy()

    return hook


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The decoder under the one backend that gives its weights out."""
    config = model.config.text_config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
