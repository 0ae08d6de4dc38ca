"""gamma-MoD: Mixture-of-Depths adaptation of LLaVA (Luo et al. 2024, arXiv 2410.13859).

One linear router (d -> 2, no bias), shared by all MoD layers, reads each layer's normed input;
p = softmax(logits)[1] is the keep probability. Kept tokens attend among themselves and their MLP
branch is scaled by p; skipped tokens pass unchanged. Layers, thresholds, numbering, ``aux`` and the
shared router are by default the released code's; ``ratio=0.34`` and ``mask=Q`` are the paper's
gamma-0.3 (the release has the ratio 0.5 and behaves as ``QA``). The two matter in training only,
unless ``rule=topk``.

  training   top-k with k = N - floor(A * ratio), where A counts the tokens up to the last image
             token (system text included). ``mask`` protects tokens from skipping:
             ``none``, ``Q`` question (the paper's default), ``QA`` all behind the image (what the
             released LLaVA-HR code does). Auxiliary loss: ``aux`` * sum over MoD layers of the
             cross-entropy between router logits and the (detached) selection.
  inference  p > ``threshold`` in the prompt, p >= ``decode_threshold`` for generated tokens; no
             ratio, no protection; a later question behind the cache counts as prompt. One question
             to the device per MoD layer, the price of a threshold.
  positions  renumbered 0..k-1 inside MoD layers (``compact``); at decode a layer counts on from
             its own cache length. ``original`` keeps the position ids.

Where this differs from the released code: A comes from the real prompt instead of the constant
1059; rows of a batch are selected and padded separately, and padding takes no part in the loss;
ties go to the lowest index; a layer that keeps nothing is the identity. Paper forms on request:
``weight_on=layer_output`` (Eq. 2), ``rule=topk`` (the training selection at inference, generated
tokens always processed), ``shared=false`` (Table 2). ``layers``: all but 0, 1, 2 and L-1, as the
release has it; see ``methods.placement`` for the other presets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from methods.base import (
    ANSWER,
    NUMBERING,
    QUESTION,
    Method,
    ModelInfo,
    Positions,
    Ranking,
    Route,
    Scope,
    Tokens,
    param,
    top_k_mask,
)
from methods.placement import check_layers, parse_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

PREFIX = 35  # tokens before the image in LLaVA's Vicuna template


@dataclass(frozen=True)
class Gamma(Method):
    """See the module docstring."""

    name: ClassVar[str] = "gamma"
    trained: ClassVar[bool] = True
    plans_layers: ClassVar[bool] = True
    routes_text: ClassVar[bool] = True

    layers: str = param("default", "layers that route: a preset, or numbers joined by + (0-based)")
    ratio: float = param(0.34, "share of tokens skipped, in training and under rule=topk")
    mask: Literal["none", "Q", "QA"] = param(
        "Q", "tokens no layer may skip in training: none, the question, all behind the image"
    )
    aux: float = param(0.01, "weight of the auxiliary loss in training")
    threshold: float = param(0.005, "a prompt token is processed above this keep probability")
    decode_threshold: float = param(
        0.5, "a generated token is processed from this keep probability on"
    )
    rule: Literal["threshold", "topk"] = param(
        "threshold",
        "which tokens are processed in answering: by threshold, or the best as in training",
    )
    shared: bool = param(True, "one router for all layers, or one each")
    positions: Positions = param("compact", NUMBERING)
    weight_on: Scope = param("mlp_branch", "what the keep probability scales")

    def __post_init__(self) -> None:
        check_layers(self.name, self.layers)
        self.require(0 <= self.ratio <= 1, f"ratio={self.ratio} is outside 0..1")
        self.require(0 <= self.threshold < 1, f"threshold={self.threshold} is outside 0..1")
        self.require(0 <= self.decode_threshold <= 1, "decode_threshold must lie in 0..1")
        self.require(self.aux >= 0, "aux must not be negative")

    def mod_layers(self, info: ModelInfo) -> Sequence[bool]:
        return parse_layers(self.name, self.layers, info.layers)

    def check(self, info: ModelInfo) -> None:
        self.require(any(self.mod_layers(info)), f"no MoD layer in a model of {info.layers}")

    @property
    def one_turn(self) -> str:
        ranks_text = self.rule == "topk" and self.mask == "none"
        return "its top-k ranks a question with what stands before it" if ranks_text else ""

    def build_modules(self, info: ModelInfo) -> nn.Module:
        """``router`` for all layers, or one per MoD layer by index; PyTorch's default init."""
        from torch import nn

        routed = [str(i) for i, r in enumerate(self.mod_layers(info)) if r]
        names = ["router"] if self.shared else routed
        return nn.ModuleDict({name: nn.Linear(info.width, 2, bias=False) for name in names})

    def module_parameters(self, info: ModelInfo) -> int:
        return 2 * info.width * (1 if self.shared else sum(self.mod_layers(info)))

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> list[int]:
        """Training takes the top k, whatever the rule at inference is."""
        head = min(PREFIX, n_text // 2) + n_image
        skipped = int(head * self.ratio)
        return [n_text + n_image - skipped * r for r in self.mod_layers(info)]

    def for_random_weights(self) -> tuple[Gamma, str]:
        """A threshold over a random router keeps every token, which would time nothing.

        The top-k rule of its training skips the intended share.
        """
        if self.rule == "topk":
            return self, ""
        why = "under random weights its threshold skips nothing"
        return replace(self, rule="topk"), f"{self.name} is timed with rule=topk: {why}"

    def logits(self, layer: int, seq: Tokens) -> Tensor:
        """[B, m, 2] router logits; index 1 is keep."""
        assert seq.modules is not None
        router = seq.modules["router" if self.shared else str(layer)]  # type: ignore[index]
        return router(seq.normed(layer))

    def layer(self, layer: int, seq: Tokens) -> Route | None:
        if not self.mod_layers(seq.info)[layer]:
            return None
        logits = self.logits(layer, seq)
        p = logits.softmax(dim=-1)[..., 1]
        if not (seq.training or self.rule == "topk"):
            keep = self._passed(p, seq.kinds) & seq.valid
            ranked = Ranking(p, group=(seq.kinds == ANSWER).long())  # of a threshold of their own
            return Route(keep, None, p, self.weight_on, None, self.positions, ranked)
        skipped = [int(a * self.ratio) for a in seq.head_counts]
        counts = [n - s for n, s in zip(seq.counts, skipped, strict=True)]
        score = p.detach().float() + 2 * self._protected(seq)
        keep = top_k_mask(score, seq.valid, counts)
        if seq.training:
            seq.add_loss(self.aux * self._loss(logits, keep, seq.valid))
        return Route(keep, counts, p, self.weight_on, None, self.positions, Ranking(score))

    def _passed(self, p: Tensor, kinds: Tensor) -> Tensor:
        """[B, m] bool: who is processed by the threshold of its kind."""
        return (p >= self.decode_threshold).where(kinds == ANSWER, p > self.threshold)

    def _protected(self, seq: Tokens) -> Tensor:
        kinds = seq.kinds
        if self.mask == "none":
            return (kinds == QUESTION) & False
        if self.mask == "Q":
            return kinds == QUESTION
        return (kinds == QUESTION) | (kinds == ANSWER)

    @staticmethod
    def _loss(logits: Tensor, keep: Tensor, valid: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(logits.float().transpose(1, 2), keep.long(), reduction="none")
        return (losses * valid).sum() / valid.sum()

    def decode(self, layer: int, seq: Tokens) -> Route | None:
        if not self.mod_layers(seq.info)[layer]:
            return None
        p = self.logits(layer, seq).softmax(dim=-1)[..., 1]
        keep = None if self.rule == "topk" else self._passed(p, seq.kinds)
        return Route(keep, None, p, self.weight_on, None, self.positions)
