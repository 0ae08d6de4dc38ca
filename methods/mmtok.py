"""MMTok: keep the image tokens that cover question and image (ICLR 2026, arXiv 2508.18264).

Before the language model, every crop on its own: P = softmax over image tokens of cos(word, token)
/ tau_t, divided by the number of words; Q = softmax of cos(patch, patch) / tau_v, divided by the
number of patches. K tokens are chosen one by one for the largest growth of how much of the rows of
[P; alpha * Q] their best chosen column covers. Words are the question's key words (without a stop
list and LLaVA's instructions) by the language model's input embeddings; patches are the tower's
states. No training; the sequence order stays, positions are contiguous. alpha .5, tau_t .02 and
tau_v .2 as released.

``keep`` counts tokens per 576 patches and scales with an image's patches (five whole crops of 64
are the paper's 320). Newline tokens leave, as released, unless the budget covers the image.
Different from the released code: LLaVA-NeXT keeps its own grid and un-padding, the budget split
over its crops; float32 or better; padding is not excluded, since these processors crop and do not
pad to a square; the lowest index wins a tie; batches with a question a row; without a known
question the prompt's own text stands in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from methods.base import NUMBERING, Drop, Positions, Tokens, param
from methods.greedy import cover
from methods.picking import Keeping, unit, wide
from methods.question import question_words, stripped
from methods.tower import Patches

if TYPE_CHECKING:
    from torch import Tensor

# Articles and verbs; pronouns; question words; joints; words of the task; prepositions.
STOP = "a an the is are was were be been being have has had do does did it they he she we you i"
STOP += " what where when why how who which and or but so if then question answer"
STOP += " to for with by from at into onto upon"


@dataclass(frozen=True)
class MMTok(Keeping):
    """See the module docstring."""

    name: ClassVar[str] = "mmtok"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    alpha: float = param(0.5, "weight of covering the image against covering the question")
    tau_t: float = param(0.02, "temperature of word against token")
    tau_v: float = param(0.2, "temperature of patch against patch")
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.alpha >= 0, f"alpha={self.alpha} is below 0")
        self.require(min(self.tau_t, self.tau_v) > 0, "tau_t and tau_v must be above 0")

    @property
    def reads_tower(self) -> bool:
        return True

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        board = Patches(seq)
        if not board.share(self):
            return None
        words, real, lengths = question_words(seq, keywords)
        asked = [lengths[group.row] for group in board.groups]
        board.note("width", lambda g, n, t: g * n * t, asked)
        board.note("tower", lambda g, n: g * n * n)
        words, real = wide(words)[board.rows], real[board.rows]
        worth = self.worth(board.states(), board.features(), board.there, words, real)
        return board.drop(cover(worth, board.there, board.steps)[0], self.positions)

    def worth(
        self, states: Tensor, patches: Tensor, there: Tensor, words: Tensor, real: Tensor
    ) -> Tensor:
        """[G, t + n, n]: the rows [P; alpha * Q] to cover."""
        import torch

        out, columns = float("-inf"), ~there.unsqueeze(1)
        states, patches = unit(states), unit(patches)
        text = (unit(words) @ states.transpose(1, 2) / self.tau_t).masked_fill(columns, out)
        mine = (patches @ patches.transpose(1, 2) / self.tau_v).masked_fill(columns, out)
        found = []
        for scores, rows in ((text, real), (mine, there)):
            share = scores.softmax(dim=2) * rows.unsqueeze(2)
            found.append(share / rows.sum(dim=1).clamp(min=1).view(-1, 1, 1))
        return torch.cat([found[0], self.alpha * found[1]], dim=1)


def keywords(text: str) -> str:
    """The words of a question that say what to look for; all of it where nothing is left."""
    text = stripped(text)
    return (
        " ".join(w for w in re.findall(r"\b\w+\b", text) if w.lower() not in STOP.split()) or text
    )
