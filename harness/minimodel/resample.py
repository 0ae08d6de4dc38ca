"""Start a resampler (`mqt`): its tokens learn what the projector makes of parts of the picture.

The paper's first stage trains a fresh resampler on 558,000 captions with the language model frozen.
Here its tokens are regressed instead on the outputs of the projector it replaces, which the decoder
reads already: token j on their mean over region j of the patches. Regions come from halving the
picture again and again, the longer side first, so they run from the whole picture to single patches
and the first m of them cover it about evenly at any m.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Trainer, set_seed

import methods
from harness.common.errors import UsageError
from harness.engine import model_info
from harness.fitting.fit import fit
from harness.minimodel.align import Pairs, patch_features, projected
from harness.minimodel.folders import LOG, start_folder, start_model
from harness.minimodel.log import facts, progress, write_log
from harness.minimodel.rates import arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.model.checkpoints import save_checkpoint
from harness.model.weights import SINGLE, file_hash
from methods.resampler import places, resample

SAMPLE = 200  # scenes that the targets' variance is measured on


def regions(side: int) -> torch.Tensor:
    """[P, P]: row j holds the weights of a mean over region j of `side` x `side` patches.

    The whole picture first, then one half of every region that is split, breadth first: the other
    half follows from the two.
    """
    queue, found = [(0, side, 0, side)], [(0, side, 0, side)]
    for top, bottom, left, right in queue:
        high, wide = bottom - top, right - left
        if high * wide == 1:
            continue
        down, across = top + (high + 1) // 2, left + (wide + 1) // 2
        if high > wide:
            halves = [(top, down, left, right), (down, bottom, left, right)]
        else:
            halves = [(top, bottom, left, across), (top, bottom, across, right)]
        queue += halves
        found.append(halves[1])
    table = torch.zeros(len(found), side, side)
    for row, (top, bottom, left, right) in zip(table, found, strict=True):
        row[top:bottom, left:right] = 1 / ((bottom - top) * (right - left))
    return table.flatten(1)


class Pooled(nn.Module):
    """The resampler and its targets; `forward` returns the relative squared error as loss."""

    def __init__(self, modules: nn.Module, sample: np.ndarray) -> None:
        """`sample` float16 [M, P, H]: projected patches of some scenes."""
        super().__init__()
        self.routers = modules
        side = int(sample.shape[1] ** 0.5)
        self.register_buffer("mean", regions(side)[: modules["query"].num_embeddings])  # type: ignore
        target = self.mean @ torch.from_numpy(sample.astype(np.float32))
        self.register_buffer("spread", target.var(dim=0).mean(dim=-1))

    @torch.no_grad()
    def place(self) -> None:
        """Let every query start at the middle of its region."""
        query = self.routers["query"].weight  # type: ignore[index]
        side = int(self.mean.shape[1] ** 0.5)
        own, patches = (t.to(query) for t in places(len(query), side, query.shape[1]))
        query.copy_(self.mean @ patches - own)

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features` float32 [B, P, D] from the tower, `target` float32 [B, P, H] projected."""
        tokens = resample(self.routers, features, len(self.mean))
        error = (tokens - self.mean @ target).square().mean(dim=(0, 2))
        return {"loss": (error / self.spread).mean()}


def start_resampler(
    recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None
) -> None:
    """Fit a resampler to the start model's projector; writes a method checkpoint. It resumes."""
    set_seed(recipe.seed)
    scenes = Scenes(data)
    llava, _ = start_model(recipe, scenes, work, decoder)
    method, info = methods.parse(recipe.method), model_info(llava)
    modules = method.build_modules(info)
    if modules is None:
        raise UsageError(f"recipe: stage resample: {method.name} has no modules: expected mqt")
    count, layer = min(recipe.scenes, len(scenes)), llava.config.vision_feature_layer
    features = patch_features(llava.model.vision_tower, scenes, count, layer)
    target = projected(llava.model.multi_modal_projector, features)
    model = Pooled(modules, target[:SAMPLE])
    model.place()
    started = time.time()
    trainer = Trainer(
        model, arguments(recipe, work / f"{out.name}-run"), train_dataset=Pairs(features, target)
    )
    started -= fit(trainer)
    log = {"seconds": time.time() - started, **progress(trainer.state)}
    base = file_hash(start_folder(recipe, work) / SINGLE)
    (out / LOG).unlink(missing_ok=True)
    save_checkpoint(out, method, modules, info, base=base, training=facts(recipe, log))
    write_log(out, recipe, log)
