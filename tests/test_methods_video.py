"""Free Video-LLM: published counts, and its three streams against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.families.tiny import any_resolution_inputs as any_resolution
from methods import MethodError, parse
from tests.similarity_tools import kept, run
from tests.tiny import batch, tiny_llava, tiny_llava_next


# --- Free Video-LLM
def test_freevideollm_counts() -> None:
    method = parse("freevideollm")
    assert method.box(24)[2:] == (21, 11)
    assert parse("freevideollm:grid=as_released").box(24)[2:] == (11, 21)
    assert method.count(50, 24) == 2648
    for amount in ("tokens=40", "ratio=0.05", "kv=0.09"):
        fitted = parse(f"freevideollm:{amount}")
        wanted = fitted.target(28800, 50)
        assert 0 <= wanted - fitted.fitted(28800, 50, 24).count(50, 24) <= 8 * 21


def naive_streams(x: np.ndarray, like: np.ndarray, heat: np.ndarray) -> list[np.ndarray]:
    """slow=1, middle=2, fast 2x2, alpha=.5 on frames [F, 4, 4, d] and patch likeness [F, 4, 4]."""
    made = []
    for f in [int(like.argmax()), len(x) // 4, 3 * len(x) // 4]:
        cells = np.maximum(x[f][:, 0::2], x[f][:, 1::2])  # [4, 2, d]
        warm = np.maximum(heat[f][:, 0::2], heat[f][:, 1::2])
        best = sorted(((r, c) for r in range(4) for c in range(2)), key=lambda at: -warm[at])[:4]
        top = sum(r for r, _ in best) // 4 - 3 // 2
        left = sum(c for _, c in best) // 4 - 1 // 2
        top, left = min(max(top, 0), 1), min(max(left, 0), 1)
        made += list(cells[top : top + 3, left : left + 1].reshape(-1, x.shape[-1]))
    for f in range(len(x)):
        made += [x[f][r : r + 2, c : c + 2].mean(axis=(0, 1)) for r in (0, 2) for c in (0, 2)]
    return made


def test_freevideollm_streams_against_a_plain_reference() -> None:
    draw = np.random.default_rng(4)
    method = parse("freevideollm:slow=1:middle=2:alpha=0.5:fast_grid=12")
    for _ in range(5):
        x, like, heat = draw.normal(size=(5, 4, 4, 3)), draw.random(5), draw.random((5, 4, 4))
        frames, patches = torch.tensor(x).flatten(1, 2), torch.tensor(heat).flatten(1)
        found = method.streams(frames, torch.tensor(like), patches, 4)
        assert len(found) == method.count(5, 4)
        np.testing.assert_allclose(found, np.stack(naive_streams(x, like, heat)))


@pytest.mark.parametrize("tiles", [False, True])
def test_freevideollm_takes_frames_and_refuses_a_single_image_of_one_crop(tiles: bool) -> None:
    spec = "freevideollm:slow=1:middle=1"
    model = tiny_llava_next() if tiles else tiny_llava()
    frames = [(3, [16] * 3, 4)]
    inputs = any_resolution(model, [(20, 30)] * 3) if tiles else batch(model, frames)
    _, (record,) = run(model, inputs, spec)
    assert len(kept(record)) == parse(spec).count(3, 4)
    if not tiles:
        with pytest.raises(MethodError, match="a single image is no video: it needs"):
            run(model, batch(model, [(3, [16], 4)]), spec)
