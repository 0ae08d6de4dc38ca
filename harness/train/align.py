"""Align the projector: make each patch look like the words for what it shows.

LLaVA's first stage teaches the projector from captions. The rendered scenes say what stands on
every patch, so here the projector learns it directly: the target of a patch is the mean of the
decoder's own input embeddings of its label ("cat"), its colour ("red") or its written word.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from harness.train.packing import tower_features
from harness.train.scenes import DenseScenes, Scenes


class PatchWords(Dataset):
    """Cached patch features and, for each patch, the number of the text that names it (0 none).

    Args:
        scenes: rendered scenes.
        features: float16 [M, P, D] of the first M of them.
        dense: knows which patches a box covers.
    """

    def __init__(self, scenes: Scenes, features: np.ndarray, dense: DenseScenes) -> None:
        self.features, self.names = features, [""]
        number = {"": 0}
        side = dense.side
        self.words = np.zeros((len(features), side, side), dtype=np.int64)
        for i in range(len(features)):
            for box in scenes.records[i]["boxes"]:
                text = f"{box['label']} {box['attrs'].get('color', '')}".strip()
                if text not in number:
                    number[text] = len(self.names)
                    self.names.append(text)
                rows, cols = dense.cells(box["box"])
                self.words[i, rows, cols] = number[text]

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {
            "features": torch.from_numpy(self.features[i].astype(np.float32)),
            "words": torch.from_numpy(self.words[i].reshape(-1)),
        }


class AlignModel(nn.Module):
    """The projector and its targets; `forward` returns the relative squared error as loss."""

    def __init__(
        self,
        llava: LlavaForConditionalGeneration,
        names: list[str],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        self.projector = llava.model.multi_modal_projector
        embed = llava.model.language_model.embed_tokens.weight.detach()
        rows = [tokenizer(" " + n).input_ids[1:] for n in names]
        target = torch.stack([embed[r].mean(0) if r else torch.zeros_like(embed[0]) for r in rows])
        self.register_buffer("target", target)
        self.scale = float(target.square().sum(-1).mean())

    def forward(self, features: torch.Tensor, words: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features` float32 [B, P, D], `words` int64 [B, P]. Empty patches count a tenth."""
        error = (self.projector(features) - self.target[words]).square().sum(-1)
        weight = torch.where(words > 0, 1.0, 0.1)
        return {"loss": (error * weight).sum() / weight.sum() / self.scale}


@torch.no_grad()
def whiten(projector: nn.Module, features: np.ndarray) -> None:
    """Start the projector's first layer on centred, unit-variance channels of `features`."""
    sample = torch.from_numpy(features[:200].astype(np.float32)).flatten(0, 1)
    mean, spread = sample.mean(0), sample.std(0) + 1e-5
    first = projector.linear_1
    nn.init.normal_(first.weight, std=first.in_features**-0.5)
    first.weight.div_(spread)
    first.bias.copy_(-(first.weight @ mean))


def patch_features(tower: nn.Module, scenes: Scenes, count: int, layer: int) -> np.ndarray:
    """float16 [count, P, D] of the first scenes, kept in memory only."""
    return np.concatenate([part for _, part in tower_features(tower, scenes, layer, count)])
