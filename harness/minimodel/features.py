"""What a frozen tower makes of the scenes, computed once and kept beside the trainings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from harness.minimodel.labels import MEAN, STD
from harness.minimodel.scenes import Scenes


def cache_features(
    tower: torch.nn.Module, scenes: Scenes, path: Path, layer: int, batch: int = 128
) -> np.ndarray:
    """Patch features of every scene from `hidden_states[layer]`, float16 [N, P, D], kept in `path`.

    The tower is frozen during instruction tuning (as in LLaVA), so each image passes it once.
    """
    return kept(path, len(scenes), tower_features(tower, scenes, layer, len(scenes), batch))


def kept(path: Path, count: int, parts: Iterator[tuple[int, np.ndarray]]) -> np.ndarray:
    """float16 [count, P, D] from `path`, or from (first row, float16 [b, P, D]) and then there.

    Of trainings side by side one computes them, and the others wait.
    """
    if path.exists():
        return np.load(path, mmap_mode="r")
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            part, out = path.with_suffix(".part.npy"), None
            for at, hidden in parts:
                if out is None:
                    shape = (count, *hidden.shape[1:])
                    out = np.lib.format.open_memmap(part, "w+", np.float16, shape)
                out[at : at + len(hidden)] = hidden
            assert out is not None
            out.flush()
            part.rename(path)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def tower_features(
    tower: torch.nn.Module, scenes: Scenes, layer: int, count: int, batch: int = 128
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float16 [b, P, D]) of `hidden_states[layer]` of the first `count` scenes."""
    device = next(tower.parameters()).device
    for at in range(0, count, batch):
        images = scenes.images[at : min(at + batch, count)]
        pixels = (images.astype(np.float32) / 255.0 - MEAN) / STD
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(device)
        hidden = tower(x, output_hidden_states=True).hidden_states[layer][:, 1:]
        yield at, hidden.half().cpu().numpy()
