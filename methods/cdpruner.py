"""CDPruner: keep a diverse set of relevant image tokens (NeurIPS 2025, arXiv 2506.10967).

Before the language model, every crop on its own: K tokens by greedy MAP inference of the
determinantal point process with kernel diag(r) S diag(r). S is the cosine between projector
outputs, r the relevance to the question, scaled to 0..1 over an image with all its crops. No
training; the sequence order stays, positions are contiguous.

  relevance  ``clip``, as released: minus the cosine of patch and question in CLIP's joint space
             (the sign is the code's: CLIP's patches answer inversely), meaned over chunks of 77
             tokens. Needs the tower's CLIP checkpoint: --checkpoint cdpruner=PATH_OR_ID.
             ``words`` (ours, for models without one): the mean cosine of projector output and the
             embeddings of the question's words.
  question   ``stripped`` of LLaVA's instruction sentences, as released, or ``full``.
``keep`` counts tokens per 576 patches and scales with an image's patches (five whole crops of 64
are the paper's 320). Newline tokens leave, as released, unless the budget covers the image.
Different from the released code: r never depends on the other images of a batch; LLaVA-NeXT keeps
its own grid and un-padding, the budget split over its crops; exactly K tokens stay, as once the
kernel's rank is used up (remaining weight below 1e-6 of the first) the most relevant fill up;
float32 or better; batches. Without a known question ``clip`` asks what is in the image, and
``words`` takes the prompt's own text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import NUMBERING, Drop, Positions, Tokens, param
from methods.greedy import spread_out
from methods.picking import Board, Keeping, unit, wide
from methods.question import DEFAULT, question_words, stripped

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6


@dataclass(frozen=True)
class CDPruner(Keeping):
    """See the module docstring."""

    name: ClassVar[str] = "cdpruner"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    relevance: Literal["clip", "words"] = param(
        "clip", "compared with the question in CLIP's joint space, or by word embeddings"
    )
    question: Literal["stripped", "full"] = param(
        "stripped", "without LLaVA's instruction sentences, or whole"
    )
    positions: Positions = param("compact", NUMBERING)

    @property
    def reads_clip(self) -> bool:
        return self.relevance == "clip"

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        board = Board(seq)
        if not board.share(self):
            return None
        states = board.states()
        board.note("width", lambda g, n: g * n * n)
        steps = [k if k < n else 0 for k, n in zip(board.sizes, board.lengths, strict=True)]
        board.note(1, lambda g, n, k: g * n * (k * (k - 1) // 2), steps)
        found = self._clip(seq, board) if self.reads_clip else self._words(seq, board, states)
        relevance = scaled(found, board.there, board.images)
        return board.drop(pick(states, relevance, board.there, board.steps), self.positions)

    def _read(self, text: str) -> str:
        return stripped(text) if self.question == "stripped" else text.strip() or DEFAULT

    def _words(self, seq: Tokens, board: Board, states: Tensor) -> Tensor:
        words, real, _ = question_words(seq, self._read)
        board.note("width", lambda g, n: g * n)
        mean = (unit(wide(words)) * real.unsqueeze(2)).sum(dim=1)[board.rows]
        return (unit(states) @ mean.unsqueeze(2))[..., 0]

    def _clip(self, seq: Tokens, board: Board) -> Tensor:
        import torch

        texts = [self._read(text) for text in seq.questions or [DEFAULT] * len(seq.counts)]
        read = seq.clip.text(texts)
        seq.note("clip_text", [len(t) * (b in board.acting) for b, t in enumerate(read)])
        seq.note("clip_patches", board.crops(board.pictures[0].crop))
        pairs = [len(row) * max(row, default=0) for row in board.of_rows(board.lengths)]
        seq.note("clip_likeness", pairs)
        chunks = torch.stack([unit(wide(t)).mean(dim=0) for t in read])
        patches = torch.cat([unit(wide(seq.clip.patches(c.patches))) for c in seq.crops])
        return -(board.behind(patches) @ chunks[board.rows].unsqueeze(2))[..., 0]


def scaled(found: Tensor, there: Tensor, images: Tensor) -> Tensor:
    """``found`` [G, n] from 0 to 1 over all groups of an image; 1 where it is the same all over."""
    inf, count = float("inf"), len(images)
    low = found.masked_fill(~there, inf).amin(dim=1)
    high = found.masked_fill(~there, -inf).amax(dim=1)
    low = low.new_full((count,), inf).scatter_reduce(0, images, low, "amin")[images]
    high = high.new_full((count,), -inf).scatter_reduce(0, images, high, "amax")[images]
    span = (high - low).unsqueeze(1)
    relevance = (found - low.unsqueeze(1) + EPS) / span.clamp(min=EPS)
    return relevance.masked_fill(span < EPS, 1.0) * there


def pick(states: Tensor, relevance: Tensor, there: Tensor, steps: int) -> Tensor:
    """[G, steps] picks in order, of ``states`` [G, n, d] where ``there`` [G, n]."""
    states = unit(states)
    kernel = relevance.unsqueeze(2) * (states @ states.transpose(1, 2)) * relevance.unsqueeze(1)
    return spread_out(kernel, relevance, there, steps)
