"""Pretrain a CLIP-shaped vision tower on dense labels of the rendered scenes.

No registry ships a CLIP tower, so this one is made here: a stock `CLIPVisionModel` whose
penultimate layer (the one LLaVA reads) must tell for every patch what stands there, its colour
and, on words, how the word is spelled; its CLS token must tell what the image contains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from harness.common.errors import UsageError
from harness.minimodel.folders import weights_in
from harness.minimodel.labels import ALPHABET, DIGITS, GLYPHS, SLOTS, Vocabulary
from harness.minimodel.scenes import IGNORE


class DenseHeads(nn.Module):
    """A tower and linear heads for what stands on every patch (or merged token) of its output."""

    def __init__(self, tower: nn.Module, width: int, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.tower, self.vocabulary = tower, vocabulary
        characters = len(ALPHABET) + 1
        self.heads = nn.ModuleDict(
            {
                "kind": nn.Linear(width, len(vocabulary.kinds) + 1),
                "color": nn.Linear(width, len(vocabulary.colors)),
                "spell": nn.Linear(width, SLOTS * characters),
                "glyph": nn.Linear(width, GLYPHS * characters),
            }
        )

    def load_heads(self, folder: Path, strict: bool = True) -> None:
        """The heads that a training left in `folder`; not `strict`: those it has.

        Raises UsageError where there are none, or of other classes.
        """
        state = weights_in(folder, "heads.safetensors")
        for name, value in self.heads.state_dict().items():
            given = state.get(name, value)
            if given.shape != value.shape:
                raise UsageError(
                    f"{folder}: its heads tell other classes ({name}: {len(given)}, these scenes "
                    f"have {len(value)}): expected the scenes that its tower was trained on"
                )
        self.heads.load_state_dict(state, strict=strict)

    def read(
        self,
        patches: torch.Tensor,
        kind: torch.Tensor,
        color: torch.Tensor,
        spell: torch.Tensor,
        glyph: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The four losses of normalised `patches` [B, P, D], in nats; labels as in `DenseScenes`.

        `loss` is their weighted sum.
        """
        losses = {
            "kind": self._naming(patches, kind),
            "color": _cross_entropy(self.heads["color"](patches), color),
            "spell": self._spelling(patches, spell, "spell"),
            "glyph": self._spelling(patches, glyph, "glyph"),
        }
        total = losses["kind"] + 0.5 * losses["color"] + losses["spell"] + losses["glyph"]
        return {"loss": total, **losses}

    def _naming(self, patches: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of what stands on each patch; an empty patch counts a quarter."""
        logits = self.heads["kind"](patches).float().flatten(0, 1)
        weight = torch.ones(logits.shape[-1], device=logits.device)
        weight[0] = 0.25
        return F.cross_entropy(logits, kind.reshape(-1), weight=weight)

    def _spelling(self, patches: torch.Tensor, spell: torch.Tensor, head: str) -> torch.Tensor:
        """Cross-entropy of the characters, computed on the patches that show a word only."""
        written = (spell != IGNORE).any(-1)
        return _cross_entropy(self.letters(patches[written], head), spell[written])

    def letters(self, patches: torch.Tensor, head: str) -> torch.Tensor:
        """Logits [..., places, characters + 1] of the head `spell` or `glyph`; patches [..., D]."""
        return self.heads[head](patches).unflatten(-1, (-1, len(ALPHABET) + 1))


class DenseTower(DenseHeads):
    """Tower plus linear heads; `forward` returns `{"loss": ...}` as `Trainer` expects."""

    def __init__(self, tower: CLIPVisionModel, vocabulary: Vocabulary) -> None:
        width, kinds = tower.config.hidden_size, len(vocabulary.kinds) + 1
        super().__init__(tower, width, vocabulary)
        self.heads["present"] = nn.Linear(width, kinds)
        self.heads["pooled"] = nn.Linear(width, kinds)

    def forward(
        self,
        pixel_values: torch.Tensor,
        kind: torch.Tensor,
        color: torch.Tensor,
        spell: torch.Tensor,
        glyph: torch.Tensor,
        present: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """`pixel_values` [B, 3, H, W]; labels as in `DenseScenes`. Loss in nats."""
        out = self.tower(pixel_values, output_hidden_states=True)
        return self.losses(out, kind, color, spell, glyph, present)

    def losses(
        self,
        out: Any,
        kind: torch.Tensor,
        color: torch.Tensor,
        spell: torch.Tensor,
        glyph: torch.Tensor,
        present: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The dense losses of one tower output (hidden states included), shapes as above."""
        hidden = F.layer_norm(out.hidden_states[-2], out.hidden_states[-2].shape[-1:])
        cls, patches = hidden[:, 0], hidden[:, 1:]
        losses = self.read(patches, kind, color, spell, glyph)
        whole = {
            "present": self.heads["present"](cls),
            "pooled": self.heads["pooled"](out.pooler_output),
        }
        seen = {k: F.binary_cross_entropy_with_logits(v, present) for k, v in whole.items()}
        total = losses.pop("loss") + 2.0 * (seen["present"] + seen["pooled"])
        return {"loss": total, **{k: v.detach() for k, v in {**losses, **seen}.items()}}

    def patches(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Normalised [B, P, D] that the heads read."""
        out = self.tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2]
        return F.layer_norm(out, out.shape[-1:])[:, 1:]


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    chosen = target.reshape(-1) != IGNORE
    flat = logits.reshape(-1, logits.shape[-1])[chosen].float()
    if flat.shape[0] == 0:
        return flat.sum()
    return F.cross_entropy(flat, target.reshape(-1)[chosen])


@torch.no_grad()
def accuracy(model: Any, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of labelled patches (words: of characters) each head gets right on one batch.

    `digits` is the share of the characters of `spell` that are digits; reading numbers is harder
    than reading words, which are few. `model`: a `DenseTower`, or heads with a `patches` like it.
    """
    patches = model.patches(batch)
    guesses = {
        "kind": model.heads["kind"](patches),
        "color": model.heads["color"](patches),
        "spell": model.letters(patches, "spell"),
        "glyph": model.letters(patches, "glyph"),
    }
    found = {}
    for name, logits in guesses.items():
        keep = batch[name] > 0 if name == "kind" else batch[name] != IGNORE
        found[name] = float((logits.argmax(-1) == batch[name])[keep].float().mean())
    digit = (batch["spell"] >= DIGITS[0]) & (batch["spell"] <= DIGITS[-1])
    right = guesses["spell"].argmax(-1) == batch["spell"]
    found["digits"] = float(right[digit].float().mean())
    return found
