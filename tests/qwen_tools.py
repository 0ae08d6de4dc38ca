"""Tiny Qwen-VL models, ragged batches of images of several sizes, and the reference's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from harness.families.tiny import build
from methods.base import Method
from tests import naive_choosers
from tests.naive import METHODS, Sample, run
from tests.naive_qwen import NaiveQwen
from tests.naive_routers import ROUTERS
from tests.routing_tools import exact_norms, naive_params

FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
IMAGE, START, END = 60, 62, 63
# Rows of a batch: (text before, (rows, columns) of tokens of each image, text behind).
Row = tuple[int, list[tuple[int, int]], int]
ROWS: list[Row] = [(3, [(5, 9)], 4), (2, [], 5), (2, [(3, 6), (6, 4)], 2), (5, [(2, 7)], 7)]


def tiny_qwen(family: str, attn: str = "sdpa", layers: int = 6, exact: bool = True) -> Any:
    """A random float64 model; ``exact``: it normalises in float64, too."""
    model = build(family, attn, layers=layers)
    return exact_norms(model) if exact else model


def rows_of(model: Any, rows: list[Row], seed: int = 0) -> list[dict[str, Tensor]]:
    """Each row's inputs alone: a word stands between an image's marks and the next one's."""
    draw = torch.Generator().manual_seed(seed)
    vision = model.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    found = []
    for before, images, after in rows:
        words = torch.randint(3, IMAGE, (before + after,), generator=draw).tolist()
        ids = words[:before]
        for high, wide in images:
            ids += [START, *[IMAGE] * (high * wide), END]
        ids = torch.tensor([ids + words[before:]])
        one = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        one["mm_token_type_ids"] = (ids == IMAGE).int()
        if images:
            grids = torch.tensor([[1, 2 * high, 2 * wide] for high, wide in images])
            pixels = torch.randn((int(grids.prod(1).sum()), width), generator=draw)
            one |= {"pixel_values": pixels.to(model.dtype), "image_grid_thw": grids}
        found.append(one)
    return found


def batched(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Rows left-padded into one batch."""
    width = max(one["input_ids"].shape[1] for one in rows)
    found = {
        name: torch.cat([
            torch.nn.functional.pad(one[name], (width - one[name].shape[1], 0)) for one in rows
        ])
        for name in ("input_ids", "attention_mask", "mm_token_type_ids")
    }  # fmt: skip
    for name in ("pixel_values", "image_grid_thw"):
        parts = [one[name] for one in rows if name in one]
        if parts:
            found[name] = torch.cat(parts)
    return found


class Forced(LogitsProcessor):
    """Lets ``generate`` choose the given tokens [B, t]."""

    def __init__(self, answer: Tensor, prompt: int) -> None:
        self.answer, self.prompt = answer, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = input_ids.shape[1] - self.prompt
        wanted = self.answer[:, step : step + 1] if step < self.answer.shape[1] else None
        out = torch.full_like(scores, -torch.inf)
        return out.scatter(1, wanted, 0.0) if wanted is not None else scores


def forced(model: Any, inputs: dict[str, Tensor], answer: Tensor, **options: Any) -> Tensor:
    """Logits [B, t + 1, V] in full precision of ``generate`` while it says ``answer`` [B, t]."""
    seen: list[Tensor] = []
    hook = model.lm_head.register_forward_hook(lambda _, __, out: seen.append(out[:, -1]))
    processor = Forced(answer, inputs["input_ids"].shape[1])
    size = {"max_new_tokens": answer.shape[1] + 1, "do_sample": False}
    model.generate(**inputs, **size, logits_processor=[processor], **options)
    hook.remove()
    return torch.stack(seen, dim=1)


def sample_of(model: Any, single: dict[str, Tensor], answer: Tensor, name: str) -> Sample:
    """One unpadded row as the reference takes it: each image's features by itself."""
    features: list[Tensor] = []
    deep: list[list[Tensor]] = []
    grids = single.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long))
    pixels = single["pixel_values"].split(grids.prod(1).tolist()) if len(grids) else ()
    for patches, grid in zip(pixels, grids, strict=True):
        with torch.no_grad():
            out = model.model.get_image_features(patches, grid[None], return_dict=True)
        features.append(out.pooler_output[0])
        deep.append([table[0] for table in getattr(out, "deepstack_features", None) or []])
    tables = [torch.cat(parts) for parts in zip(*deep, strict=True)]
    sizes = [[(int(high) // 2, int(wide) // 2, False)] for _, high, wide in grids]
    ids = single["input_ids"][0].tolist()
    return Sample(ids, answer.tolist(), features, IMAGE, sizes, name, tables)


def reference(model: Any, method: Method, modules: Any, sample: Sample) -> NaiveQwen:
    """The finished pass of a method."""
    if method.name in naive_choosers.CHOOSERS:
        found = NaiveQwen(model, sample, modules)
        naive_choosers.run(found, method)
        return found
    assert method.name in {**METHODS, **ROUTERS}, f"no reference for {method.name}"
    depth = len(model.model.language_model.layers)
    params = naive_params(method, depth)
    done = run(model, sample, method.name, params, modules, NaiveQwen)
    assert isinstance(done, NaiveQwen)
    return done
