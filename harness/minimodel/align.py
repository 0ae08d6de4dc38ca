"""Align the projector: make each patch look like the words for what it shows and where it is.

LLaVA's first stage teaches the projector from captions. The rendered scenes say what stands on
every patch, so here the projector learns it directly: the target of a patch is built from the
decoder's own input embeddings of its label ("cat", or the written word), its colour ("red") and
its place ("top left corner").
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from harness.minimodel.features import tower_features
from harness.minimodel.labels import DenseScenes
from harness.minimodel.scenes import Scenes
from minidata.vocab import PLACES

FADE = 0.6  # weight of each next token of a label: a plain mean could not tell 37 from 73
PLACE = 0.5  # weight of the place beside label and colour


class PatchWords(Dataset):
    """Cached patch features and, for each patch, the number of the text that names it (0 none).

    Args:
        scenes: rendered scenes.
        features: float16 [M, P, D] of the first M of them.
        dense: knows which patches a box covers.

    `names` lists the (label, colour) pairs that the numbers stand for.
    """

    def __init__(self, scenes: Scenes, features: np.ndarray, dense: DenseScenes) -> None:
        self.features = features
        self.names: list[tuple[str, str]] = [("", "")]
        number = {self.names[0]: 0}
        side = dense.side
        self.words = np.zeros((len(features), side, side), dtype=np.int64)
        for i in range(len(features)):
            for box in scenes.records[i]["boxes"]:
                name = (box["label"], box["attrs"].get("color", ""))
                if name not in number:
                    number[name] = len(self.names)
                    self.names.append(name)
                rows, cols = dense.cells(box["box"])
                self.words[i, rows, cols] = number[name]

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
        names: list[tuple[str, str]],
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        self.projector = llava.model.multi_modal_projector
        embed = llava.model.language_model.embed_tokens.weight.detach()

        def look(text: str) -> torch.Tensor:
            rows = embed[tokenizer(" " + text).input_ids[1:]]
            fade = FADE ** torch.arange(len(rows))[:, None]
            return (rows * fade).sum(0) / fade.square().sum().sqrt().clamp(min=1.0)

        blank = torch.zeros_like(embed[0])
        words = [
            look(label) + (look(color) if color else blank) if label else blank
            for label, color in names
        ]
        self.register_buffer("target", torch.stack(words))
        side = int(llava.config.image_seq_length**0.5)
        third = (torch.arange(side) * 3) // side
        cell = (third[:, None] * 3 + third).flatten()
        places = torch.stack([look(place) for place in PLACES])
        self.register_buffer("place", PLACE * places[cell])
        self.scale = float(self.target[1:].square().sum(-1).mean())

    def forward(self, features: torch.Tensor, words: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features` float32 [B, P, D], `words` int64 [B, P]. Empty patches count a fifth."""
        target = self.target[words] + self.place
        error = (self.projector(features) - target).square().sum(-1)
        weight = torch.where(words > 0, 1.0, 0.2)
        return {"loss": (error * weight).sum() / weight.sum() / self.scale}


class Refit(nn.Module):
    """A projector that learns to send a new tower's patches where the old pair sent its own.

    What the decoder has learned to read stays as it is; tuning then starts from there instead of
    from an unknown input. `forward` returns the relative squared error as loss.
    """

    def __init__(self, projector: nn.Module, scale: float) -> None:
        super().__init__()
        self.projector, self.scale = projector, scale

    def forward(self, features: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features` float32 [B, P, D] of the new tower, `target` float32 [B, P, H]."""
        error = (self.projector(features) - target).square().mean()
        return {"loss": error / self.scale}


class Pairs(Dataset):
    """Features of the new tower beside the projected ones of the old, float16 [M, P, .] both."""

    def __init__(self, features: np.ndarray, target: np.ndarray) -> None:
        self.features, self.target = features, target

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {
            "features": torch.from_numpy(self.features[i].astype(np.float32)),
            "target": torch.from_numpy(self.target[i].astype(np.float32)),
        }


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


@torch.inference_mode()
def projected(projector: nn.Module, features: np.ndarray, batch: int = 128) -> np.ndarray:
    """float16 [M, P, H]: what the projector makes of float16 features [M, P, D]."""
    parts = [
        projector(torch.from_numpy(features[at : at + batch].astype(np.float32))).half().numpy()
        for at in range(0, len(features), batch)
    ]
    return np.concatenate(parts)
