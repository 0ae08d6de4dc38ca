"""Free Video-LLM on one any-resolution image, whose crops are its frames: against plain numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    unpad_image,
)

from harness.engine import routed
from harness.families.tiny import Clip
from harness.families.tiny import any_resolution_inputs as any_resolution
from methods import MethodError, parse
from tests.test_methods_video import naive_streams
from tests.tiny import tiny_llava_next

SIDE = 4
SPEC = "freevideollm:slow=1:middle=2:alpha=0.5:fast_grid=12"  # as `naive_streams`


def seen_crops(model: Any, inputs: Any) -> tuple[np.ndarray, np.ndarray]:
    """States of the tower's crops, the class token first, and projected patches, by the library."""
    pixels = inputs["pixel_values"][0]
    inner = model.model
    out = inner.vision_tower(pixels, output_hidden_states=True)
    states = out.hidden_states[model.config.vision_feature_layer]
    return states.numpy(), inner.multi_modal_projector(states[:, 1:]).numpy()


def frames_of(model: Any, size: tuple[int, int], crops: np.ndarray) -> np.ndarray:
    """[F, 4, 4, d] of crops [F, 16, d]: tiles joined, un-padded by the library, their edges
    repeated outwards, cut up again."""
    high, wide = get_anyres_image_grid_shape(size, model.config.image_grid_pinpoints, 4 * SIDE)
    width = crops.shape[-1]
    tiles = crops[1 : 1 + high * wide].reshape(high, wide, SIDE, SIDE, width)
    joined = tiles.transpose(0, 2, 1, 3, 4).reshape(high * SIDE, wide * SIDE, width)
    left = unpad_image(torch.tensor(joined).permute(2, 0, 1), size).permute(1, 2, 0).numpy()
    gone = [(a - b) // 2 for a, b in zip(joined.shape, left.shape, strict=True)]
    rest = [a - b - g for a, b, g in zip(joined.shape, left.shape, gone, strict=True)]
    full = np.pad(left, list(zip(gone, rest, strict=True)), mode="edge")
    cut = full.reshape(high, SIDE, wide, SIDE, width).transpose(0, 2, 1, 3, 4)
    return np.concatenate([crops[:1], cut.reshape(-1, SIDE**2, width)]).reshape(-1, 4, 4, width)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("size", [(20, 30), (32, 14), (30, 31)])  # cut above, at the sides, nowhere
@pytest.mark.parametrize("relevance", ["words", "clip"])
def test_crops_are_the_frames_of_a_single_image(size: tuple[int, int], relevance: str) -> None:
    model = tiny_llava_next(dtype=torch.float64)
    inputs = any_resolution(model, [size])
    seen: list[torch.Tensor] = []
    layer = model.model.language_model.layers[0]
    clip = Clip(model)
    with torch.no_grad(), routed(model, parse(f"{SPEC}:relevance={relevance}"), clip=clip) as run:
        hook = layer.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
        run.set_samples(["one"], ["What colour?"] if relevance == "clip" else None)
        model(**inputs)
        hook.remove()
        (record,) = run.records()
        states, projected = seen_crops(model, inputs)
        words = model.get_input_embeddings()(inputs["input_ids"][0, -3:]).numpy()
        text = clip.text(["What colour?"])[0].numpy()
    x = frames_of(model, size, projected)
    if relevance == "words":
        asked = unit(words).sum(axis=0)
        like = unit(x.reshape(len(x), 16, -1).mean(axis=1)) @ asked
        heat = unit(x) @ asked
    else:
        asked = unit(text).mean(axis=0)
        like, heat = (
            unit(states[: len(x), 0]) @ asked,
            unit(frames_of(model, size, states[:, 1:])) @ asked,
        )
    wanted = np.stack(naive_streams(x, like, heat))
    assert len(wanted) == 3 * 3 + 4 * len(x)
    np.testing.assert_allclose(seen[0][0, 2 : 2 + len(wanted)].numpy(), wanted, rtol=1e-6)
    assert record.processed_per_layer(2).tolist() == [len(wanted)] * record.layers
    assert record.images == [] and all(grid["mixed"] for grid in record.grid)  # of no one place


def test_a_budget_is_of_the_one_image() -> None:
    model = tiny_llava_next()
    inputs = any_resolution(model, [(32, 32)])  # 16 + 8 * 9 tokens
    method = parse("freevideollm:slow=1:middle=1:fast_grid=6:relevance=words:ratio=0.25")
    with torch.no_grad(), routed(model, method) as run:
        model(**inputs)
        (record,) = run.records()
    kept = int(record.processed_per_layer(2)[0])
    assert record.n_image == 88 and 22 - 2 * 4 <= kept <= 22


def test_streams_never_want_more_than_the_image_had() -> None:
    """A long image whose tiles lose most of their rows keeps alpha within what is left."""
    model = tiny_llava_next()
    inputs = any_resolution(model, [(5, 60)])
    method = parse("freevideollm:slow=3:middle=5:alpha=1:fast_grid=6:relevance=words")
    with torch.no_grad(), routed(model, method) as run:
        model(**inputs)
        (record,) = run.records()
    kept = int(record.processed_per_layer(2)[0])
    assert method.count(3, SIDE) > record.n_image >= kept > 3
    with pytest.raises(MethodError, match="tokens are too few for 3 frames"):
        parse("freevideollm:fast_grid=24:relevance=words").fitted(30, 3, SIDE, 1)
