"""What a method sees and what it may answer: the vocabulary between methods and the engine.

A method sees token sequences and tensors, nothing else: it never imports the engine, and the
engine never asks which method it runs. Per layer a method answers with

* ``None``   - every running token is processed;
* ``Route``  - some tokens are processed, the others skip the layer (residual only, maybe scaled);
* ``Drop``   - tokens leave the sequence for good, before this layer;
* ``Merge``  - tokens are folded into fewer slots, before this layer.

This module imports no torch at run time.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.crop import Crop

# Token kinds, shared with the routing record: text before the first image, text after it
# (the question), image tokens, answer tokens (teacher-forced or generated).
SYSTEM, QUESTION, IMAGE, ANSWER = 0, 1, 2, 3

Scope = Literal["mlp_branch", "layer_output", "residual_update"]
# What a parameter of that type means.
NUMBERING = "numbering of what stays: its old position ids, or anew without gaps"
Positions = Literal["original", "compact"]
# What a method computes of its own that the engine cannot see, for the ledger (``Tokens.note``).
Work = Literal["product", "distance", "clip_text", "clip_patches", "clip_frame", "clip_likeness"]
CLIP_CHUNK = 77  # tokens that CLIP's text tower takes at once


@dataclass(frozen=True)
class ModelInfo:
    """The few facts about a model that a method may depend on."""

    layers: int  # decoder layers L
    width: int  # hidden size d
    heads: int  # query heads
    kv_heads: int
    head_dim: int
    tower_layers: int = 0
    tower_width: int = 0
    tower_side: int = 0  # patches along one side of a crop
    image_tokens: int = 0  # of an image, where every image has as many; else 0
    class_tokens: int = 1  # that the tower has in front of a crop's patches: CLIP 1, SigLIP 0
    unread: str = ""  # why no method can read the tower's states, where that is so
    joins: int = 1  # patches that a token joins, for methods with ``reads_joined``
    unshrunk: str = ""  # why its tower cannot be shown smaller images, where that is so


@dataclass
class Ranking:
    """What a decision chose by, for the record and the conformance suite; it decides nothing.

    score    [B, m], any real dtype: of each group the tokens with the highest were chosen.
    chosen   [B, m] bool, those chosen; None: the image tokens that the decision keeps (all kept
             tokens for a method with ``routes_text``).
    group    [B, m] long, tokens ranked against each other (a crop, say); -1: not ranked. None: all
             image tokens of a row are one group (all tokens with ``routes_text``).
    """

    score: Tensor
    chosen: Tensor | None = None
    group: Tensor | None = None


@dataclass
class Route:
    """Process some tokens in this layer; the others take the residual path only.

    keep        [B, m] bool, tokens to process (None: all). Padding is never processed.
    counts      kept tokens per row, known on the host; None makes the engine ask the device
                once (the price of a threshold rule).
    weight      [B, m], model dtype; multiplies what ``scope`` names, on processed tokens.
    scope       ``mlp_branch``: x + attn + w * mlp; ``layer_output``: w * T(x);
                ``residual_update``: x + w * (T(x) - x).
    skip_scale  [B, m] or None; skipped tokens become ``skip_scale * x`` instead of ``x``.
    positions   ``original`` keeps the running position ids (with gaps), ``compact`` renumbers
                the processed tokens 0, 1, 2, ... inside this layer, at decode too.
    ranked      what the kept tokens were chosen by, if they were ranked.
    """

    keep: Tensor | None = None
    counts: list[int] | None = None
    weight: Tensor | None = None
    scope: Scope = "mlp_branch"
    skip_scale: Tensor | None = None
    positions: Positions = "original"
    ranked: Ranking | None = None


@dataclass
class Drop:
    """Remove tokens from the sequence before this layer, for all deeper layers.

    keep       [B, m] bool; ``counts`` as in :class:`Route`.
    positions  ``original`` or ``compact`` (renumbered from here on, at decode too).
    order      [B, m] sort key of the survivors, ascending; None keeps the sequence order.
    ranked     as in :class:`Route`.
    """

    keep: Tensor
    counts: list[int] | None = None
    positions: Positions = "original"
    order: Tensor | None = None
    ranked: Ranking | None = None


@dataclass
class Merge:
    """Fold tokens into fewer slots before this layer, for all deeper layers.

    assign     [B, m] long: the running index (0..m-1) of the slot that takes this token in;
               itself for a token that stays; -1 drops the token.
    counts     slots per row, known on the host (None: the engine asks the device once).
    states     [B, m, d]: new states, read at the slots. None: the slot becomes the weighted sum
               of its members, or their mean where ``weight`` is None too.
    weight     [B, m] weights of that sum.
    same       how ``states`` came of other [B, m, d] states, where not as that mean or sum: what a
               model adds to tokens in later layers (deepstack) is mixed alike.
    place      [B, m] long, read at the slots: the running index of the token whose position the
               slot takes, for ``original`` positions (None: its own).
    positions, order, ranked: as in :class:`Drop`.
    """

    assign: Tensor
    counts: list[int] | None = None
    states: Tensor | None = None
    weight: Tensor | None = None
    place: Tensor | None = None
    positions: Positions = "original"
    order: Tensor | None = None
    ranked: Ranking | None = None
    same: Callable[[Tensor], Tensor] | None = None


Decision = Route | Drop | Merge | None


@dataclass(frozen=True)
class Seen:
    """What a method sees of a tower layer in which patches may merge: C crops, p patches left.

    states    [C, c + p, w] behind the layer's self-attention, c class tokens (0 or 1) first.
    received  [C, p] float32 or better: attention a patch receives, mean over heads and queries.
    total     patches of a crop before any merge.
    """

    states: Tensor
    received: Tensor
    total: int
    info: ModelInfo


@dataclass(frozen=True)
class ClipSizes:
    """Sizes of the rest of a CLIP model, for the ledger."""

    layers: int  # of the text tower
    width: int
    ffn: int
    out: int  # of the joint space
    behind: int  # tower layers behind the one that the projector reads


class Clip(typing.Protocol):
    """The rest of the CLIP model that a vision tower comes from."""

    sizes: ClipSizes | None  # None: not known, so its work cannot be counted

    def patches(self, states: Tensor) -> Tensor: ...  # [..., w] tower states -> [..., p] joint
    def frame(self, states: Tensor) -> Tensor: ...  # [1 + P, w] a crop's -> [p], as CLIP pools it
    def text(self, texts: list[str]) -> list[Tensor]: ...  # [chunks of 77 tokens, p] each


class Tokens(typing.Protocol):
    """What a method sees of the running sequence: B rows, m columns, padded columns invalid."""

    hidden: Tensor  # [B, m, d] states entering this layer
    kinds: Tensor  # [B, m] uint8: SYSTEM, QUESTION, IMAGE or ANSWER
    valid: Tensor  # [B, m] bool
    index: Tensor  # [B, m] long: column in the original sequence
    counts: list[int]  # valid tokens per row
    image_counts: list[int]  # image tokens still running, per row
    head_counts: list[int]  # prompt tokens up to and including the last image token, per row
    training: bool  # model.train(): training rules, gradients
    generated: bool  # this is a decode step (or several tokens after a cache)
    info: ModelInfo
    modules: nn.Module | None  # what build_modules made, with its weights
    memo: dict[str, Any]  # scratch space that lives for one forward pass

    @property
    def full(self) -> bool: ...  # no invalid column at all
    @property
    def image(self) -> Tensor: ...  # [B, m] bool: valid image tokens
    @property
    def identities(self) -> list[str]: ...  # one stable name per sample
    @property
    def spans(self) -> list[list[tuple[int, int]]]: ...  # per row: (first column, length) an image
    @property
    def grids(self) -> list[list[dict[str, Any]]]: ...  # per row: image geometry, `start`=column
    def normed(self, layer: int) -> Tensor: ...  # [B, m, d] after that layer's input norm
    def last_row(self, layer: int, turned: bool = True) -> Tensor:
        """[B, m] float32: attention of the last prompt token, mean over heads.

        ``turned``: by the rotary embedding, as the layer has it; else without positions.
        """

    def mean_row(self, layer: int) -> Tensor: ...  # [B, m] fp32: mean attention of all prompt rows
    def attention(self, layer: int, rows: Tensor, factor: Tensor | None = None) -> Tensor: ...
    def rotary(self) -> tuple[Tensor, Tensor]: ...  # cos and sin of the positions, [B or 1, m, h]
    @property
    def crops(self) -> list[Crop]: ...  # what the tower kept of every crop, in prompt order
    @property
    def origins(self) -> Tensor: ...  # [B, m] long: crop * P + patch of a token, -1 = no patch
    def project(self, states: Tensor) -> Tensor: ...  # [..., w] tower states -> [..., d]
    @property
    def questions(self) -> list[str] | None: ...  # the text of each row's question, if known
    def words(self, texts: list[str]) -> list[Tensor] | None: ...  # input embeddings [t, d] each
    @property
    def clip(self) -> Clip: ...  # for methods with ``reads_clip``
    def noted_as(self, tokens: list[int]) -> AbstractContextManager[None]: ...  # see Scoring
    def note(self, kind: Work, tokens: Sequence[int], width: str | int = "width") -> None:
        """Count work that the method did with its own tensors, as a row costs alone.

        ``product``: of each row so many pairs of tokens whose vectors, ``width`` long, were
        multiplied, or weighted and added up; [m, k] @ [k, n] is m·n pairs of width k, whichever
        of the three is a width. ``distance`` likewise. ``clip_text``: chunks of text;
        ``clip_patches``, ``clip_frame``: crops' patches, whole crops; ``clip_likeness``: pairs in
        CLIP's joint space. Widths of the model by name: ``width``, ``head`` (of one head),
        ``tower``, ``tower_head``. Linear layers, attention rows and ``project`` note themselves.
        """

    def add_loss(self, loss: Tensor) -> None: ...  # auxiliary training loss, already weighted


def top_k_mask(scores: Tensor, candidates: Tensor, counts: Sequence[int]) -> Tensor:
    """[B, m] bool mask of exactly ``counts[b]`` candidates with the highest scores.

    Order is stable descending in float32: at a tie the lowest index wins. ``counts[b]`` must not
    exceed the row's candidates. No synchronisation with the device.
    """
    import torch

    ranked = scores.detach().float().masked_fill(~candidates, float("-inf"))
    order = torch.argsort(ranked, dim=1, descending=True, stable=True)
    ranks = torch.arange(order.shape[1], device=scores.device).unsqueeze(0)
    first = ranks < on_device([[k] for k in counts], scores.device)
    return torch.zeros_like(candidates).scatter(1, order, first) & candidates


def keep_best(seq: Tokens, scores: Tensor, counts: Sequence[int], positions: Positions) -> Drop:
    """Of each row's image tokens the ``counts`` best by ``scores`` [B, m] stay, and all text."""
    image = seq.image
    keep = top_k_mask(scores, image, counts) | (seq.valid & ~image)
    left = [c - n + k for c, n, k in zip(seq.counts, seq.image_counts, counts, strict=True)]
    return Drop(keep, left, positions, ranked=Ranking(scores))


def on_device(values: Sequence[Any], device: torch.device) -> Tensor:
    """A small tensor made on the host, sent without waiting for the device."""
    import torch

    if device.type != "cuda":
        return torch.tensor(values, device=device)
    return torch.tensor(values).pin_memory().to(device, non_blocking=True)
