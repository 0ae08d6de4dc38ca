"""DivPrune: keep the image tokens that lie farthest apart (Alvar et al., CVPR 2025, 2503.02175).

Before the language model, K of an image's N tokens are chosen for the largest smallest distance
1 - cos between projector outputs: first the token whose nearest other token is farthest away, then
again and again the one farthest from all chosen. No attention, no text, no training; the sequence
order stays, positions are contiguous. ``keep`` is the share kept: .098, 56 of 576 as released.

  space     ``packed``: the image's whole sequence, as the code does; ``crop``: each crop alone.
  newlines  ``candidate``: newline tokens are chosen like any other, as the code does; ``keep``:
            all stay and count.
Written from the formula. Different from the released code: distances in float32 or better, not in
the model's dtype; chosen tokens are never chosen again (the code repeats tokens where some are
equal, e.g. in blank areas); the lowest index wins a tie; every image of a prompt has its own
budget; batches; one distance a step, as the smallest distance so far is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.base import NUMBERING, Drop, Positions, Tokens, param
from methods.picking import Board, Picking, unit
from methods.pictures import Picture

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DivPrune(Picking):
    """See the module docstring."""

    name: ClassVar[str] = "divprune"
    neutral: ClassVar[dict[str, Any] | None] = {"ratio": 1.0}

    keep: float = param(0.098, "share of an image's tokens kept")
    space: Literal["packed", "crop"] = param(
        "packed", "what is spread out: an image's whole sequence, or each crop alone"
    )
    newlines: Literal["candidate", "keep"] = param(
        "candidate", "newline tokens are chosen like others, or all stay and count"
    )
    positions: Positions = param("compact", NUMBERING)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(0 <= self.keep <= 1, f"keep={self.keep} is outside 0..1")

    def kept(self, n: int) -> int:
        """Tokens kept of an image's ``n``, without a budget."""
        return round(self.keep * n)

    def own(self, picture: Picture) -> int:
        return self.kept(picture.tokens)

    def before(self, seq: Tokens) -> Drop | None:
        if not any(seq.image_counts):
            return None
        board = Board(seq, self.space == "crop", self.newlines)
        if not board.share(self):
            return None
        board.note("width", lambda g, n: g * n * n)
        return board.drop(pick(board.states(), board.there, board.steps), self.positions)


def pick(states: Tensor, there: Tensor, steps: int) -> Tensor:
    """[G, steps] picks in order, of ``states`` [G, n, d] where ``there`` [G, n]."""
    import torch

    out = float("-inf")
    states = unit(states)
    distance = 1 - states @ states.transpose(1, 2)
    own = torch.eye(states.shape[1], dtype=torch.bool, device=states.device)
    others = distance.masked_fill(own | ~there.unsqueeze(1), float("inf"))
    score = others.amin(dim=2).masked_fill(~there, out)  # of the first pick
    nearest = torch.full_like(score, float("inf")).masked_fill(~there, out)
    order = []
    for _ in range(steps):
        chosen = score.argmax(dim=1, keepdim=True)
        order.append(chosen)
        row = distance.gather(1, chosen.unsqueeze(2).expand(-1, 1, distance.shape[2]))[:, 0]
        nearest = torch.minimum(nearest, row).scatter(1, chosen, out)
        score = nearest
    return torch.cat(order, dim=1) if order else there.new_zeros(len(there), 0, dtype=torch.long)
