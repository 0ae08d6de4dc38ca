"""Start a resampler (`mqt`): its tokens learn what the projector makes of parts of the picture.

The paper's first stage trains a fresh resampler on 558,000 captions with the language model frozen.
Here its tokens are regressed instead on the outputs of the projector it replaces, which the decoder
reads already: token j on their mean over region j of the patches. Regions run from the whole
picture over ever finer grids to single patches, so that the first m of them cover it at any m, and
most patches have a token of their own, in the order that the decoder knows them in.
"""

from __future__ import annotations

import itertools
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

    The whole picture, then the parts of a grid that gets finer by the prime factors of `side`, the
    largest first, each grid row by row. Of the parts that one region splits into the last is left
    out: it follows from the others and the whole. For 12: 1 + 8 + 27 + 108, the last ones patches.
    """
    table = [torch.ones(side, side) / side**2]
    parts = 1
    for factor in sorted(_primes(side), reverse=True):
        parts *= factor
        size = side // parts
        for row, column in itertools.product(range(parts), repeat=2):
            if (row + 1) % factor or (column + 1) % factor:
                mean = torch.zeros(side, side)
                mean[row * size : (row + 1) * size, column * size : (column + 1) * size] = size**-2
                table.append(mean)
    return torch.stack(table).flatten(1)


def _primes(number: int) -> list[int]:
    """Its prime factors, smallest first."""
    for factor in range(2, number + 1):
        if number % factor == 0:
            return [factor, *_primes(number // factor)]
    return []


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
