"""Closed-form FLOPs and KV bytes of one sample, from the tokens each layer really processed.

Torch-free. Unit: 1 FLOP = one multiply or one add, so a multiply-accumulate counts 2. Real tokens
only (padding never counts); every row of every table goes through these functions, whatever the
attention kernel was, so eager and fused kernels are never mixed.

Conventions
    ``causal``       the one rule: linear layers, half of n^2 attention in the language model's
                     prefill, LM head on the last position, and what a method spends on deciding.
    ``full``         the same with all of n^2.
    ``paper-pmod``   prefill only: no attention at all, LM head on every position that reaches it
                     (what a profiler that cannot see fused attention prints).
    ``paper-gamma``  prefill only: D·F(n) + (L-D)·F(int(n·(1-s))), F(n) = 8nd² + 4n²d + 6ndm, no
                     LM head; D the layers the method leaves alone, s its skip on the others.
    ``paper-fastv``  prefill only: the sum over layers of 8nd² + 4n²d + 4ndm, n the tokens of the
                     layer: all of n^2, two FFN matrices where Llama has three, no LM head. FastV
                     prints multiply-accumulates; here, as everywhere, they are doubled.

Where layers have experts, a token counts those it is sent to and their gate; m of the two formulas
is the width of all that a token meets, in ``paper-gamma`` its mean over the layers.

A model whose tower is not known in full has no vision line: None, which tables show as empty.

All FLOPs and all cache sizes are of one sample; who shows a batch multiplies.

Scopes: vision, projector, llm_prefill, llm_decode and router add up to the total. `router` is
what a method has computed of its own, from the record's ``scoring``: its linear layers, the
attention rows it asks for, the whole n x n of them where it asks for all (they are formed whole,
so ``causal`` and ``full`` agree), class rows and similarities of patches, merging products,
distances, and another text tower. None where a part of that is not known: not counted is never 0.
`projector` has the tokens that a method sends through the model's projector again beside those
that the model sends. `lm_head`, the last prompt position and one for each token fed back, is part
of llm_prefill and llm_decode already, as the papers' anchors have it: a row of its own says how
much of them it is, and the total does not count it again. The papers' conventions know neither.

Left out on purpose, as in every published table: norms, activations, softmax, rotary embedding,
embedding look-up, and a method's element-wise arithmetic (sorting, pooling, greedy comparisons).
What is left equals the matrix products that a sample alone executes, under ``full``: the
conformance suite compares them (`harness.cost.executed`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from harness.cost.ownwork import projected_again, router_flops
from harness.families.catalog import REGISTRY
from harness.families.shapes import ModelShape, Part
from harness.families.sight import summed
from harness.store.record import IMAGE, SKIPPED, RoutingRecord

TERA = 1e12
MIB = 1024.0**2
CONVENTIONS = ("causal", "full", "paper-pmod", "paper-gamma", "paper-fastv")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class SampleCost:
    """One sample's cost: TFLOP by scope, ratios in 0..1, cache sizes in MiB."""

    vision: float | None  # None where the tower is not counted
    projector: float
    prefill: Mapping[str, float]  # by convention
    decode: float  # all generated tokens that were fed back, exact under either convention
    router: float | None  # what the method computed of its own; None where it is not known
    lm_head: float  # part of prefill and decode: the last prompt position, each fed token
    kv_ratio_vision: float | None  # None without image tokens
    kv_ratio_all: float
    kv_mib: float  # after the prompt
    kv_mib_end: float  # after the last token that is fed back
    skip_mod_layers: float
    skip_all_layers: float

    @property
    def whole(self) -> float | None:
        """All scopes under ``full``: what the sample alone executes; None where a part is."""
        if self.vision is None or self.router is None:
            return None
        return self.vision + self.projector + self.prefill["full"] + self.decode + self.router


def sample_cost(
    record: RoutingRecord,
    shape: ModelShape,
    itemsize: int,
    vision_runs: bool = True,
    by_kind: Counts | None = None,
) -> SampleCost:
    """What one sample cost under its recorded routing.

    `itemsize` is bytes per cached number; `vision_runs` is False for a method that never runs the
    tower; `by_kind` is `record.processed_by_kind()` where it is known already. Raises ValueError
    when the record has another depth than the model.
    """
    if record.layers != shape.layers:
        raise ValueError(f"record of {record.layers} layers, model of {shape.layers}")
    by_kind = record.processed_by_kind() if by_kind is None else by_kind
    counts = by_kind.sum(1)
    n_image = record.n_image
    parts = sight_of(shape, record) if vision_runs else []
    vision, projector = summed(parts, "vision"), summed(parts, "projector")
    own, again = router_flops(shape, record.scoring), projected_again(shape, record.scoring)
    entry = shape.kv_bytes_per_entry(itemsize)
    return SampleCost(
        vision=None if vision is None else vision / TERA,
        projector=((projector or 0.0) + again) / TERA,
        prefill={c: prefill_flops(shape, record, c, counts) / TERA for c in CONVENTIONS},
        decode=decode_flops(shape, counts, record.decode) / TERA,
        router=None if own is None else own / TERA,
        lm_head=2.0 * shape.head_weights * (1 + record.n_out) / TERA,
        kv_ratio_vision=float(by_kind[:, IMAGE].mean() / n_image) if n_image else None,
        kv_ratio_all=float(counts.mean() / record.n) if record.n else 1.0,
        kv_mib=int(counts.sum()) * entry / MIB,
        kv_mib_end=int(counts.sum() + record.decode.sum()) * entry / MIB,
        skip_mod_layers=skipped(counts[record.mod_layers], record.n),
        skip_all_layers=skipped(counts, record.n),
    )


def sight_of(shape: ModelShape, record: RoutingRecord) -> list[Part]:
    """What ran for the images of one sample (`Family.sight`)."""
    family = REGISTRY[shape.family]
    return family.sight(shape, record.grid, record.n_image, tuple(record.tower))


def skipped(counts: Counts, n: int) -> float:
    """Share (0..1) of n tokens that these layers left out; 0 without layers."""
    return 1.0 - float(counts.sum()) / (counts.size * n) if counts.size and n else 0.0


def linear_flops(shape: ModelShape, counts: Counts) -> float:
    """The decoder's linear layers, for the tokens [L] that each of them processed."""
    return 2.0 * int(np.dot(_weights_met(shape), counts))


@lru_cache(maxsize=8)
def _weights_met(shape: ModelShape) -> Counts:
    return np.array(shape.all_weights_met, dtype=np.int64)


def attention_flops(shape: ModelShape, counts: Counts, convention: str) -> float:
    """Scores and values of all layers: 4·n²·width for ``full``, half of it for ``causal``."""
    per_pair = {"full": 4, "causal": 2}[convention]
    return float(per_pair * shape.attention_width * int((counts.astype(np.int64) ** 2).sum()))


def prefill_flops(
    shape: ModelShape, record: RoutingRecord, convention: str, counts: Counts | None = None
) -> float:
    """FLOPs of the language model on the prompt, from the tokens each layer processed.

    `counts` [L] is `record.processed_per_layer()` where it is known already.
    """
    counts = record.processed_per_layer() if counts is None else counts
    if convention == "paper-gamma":
        acting = int(record.mod_layers.sum())
        skip = skipped(counts[record.mod_layers], record.n)
        return gamma_rule(shape, record.n, skip, dense_layers=shape.layers - acting)
    if convention == "paper-fastv":
        return fastv_rule(shape, counts)
    linear = linear_flops(shape, counts)
    if convention == "paper-pmod":
        return linear + 2.0 * shape.head_weights * tokens_at_head(record)
    return linear + attention_flops(shape, counts, convention) + 2.0 * shape.head_weights


def fastv_rule(shape: ModelShape, counts: Counts) -> float:
    """FastV's published formula, doubled to FLOPs, for the tokens of the first layers or of all.

    One layer of LLaVA-1.5-7B at n = 612 gives 2 x 99.3e9: the "99.3 B" of its README.
    """
    d, n = shape.hidden, counts.astype(np.int64)
    weights = 4 * d * d + 2 * d * _ffn_met(shape)[: n.size]
    return 2.0 * int(np.dot(weights, n)) + 4.0 * d * int((n**2).sum())


@lru_cache(maxsize=8)
def _ffn_met(shape: ModelShape) -> Counts:
    return np.array(shape.ffn_met, dtype=np.int64)


def eager_attention(shape: ModelShape, counts: Counts) -> float:
    """What the profiler behind p-MoD's tables adds when attention runs eagerly: n^2 and softmax.

    4·n²·d a layer and one FLOP an entry of the heads·n² map, for the tokens [L] of each layer. Its
    table has this in FastV's row only.
    """
    softmax = shape.heads * int((counts.astype(np.int64) ** 2).sum())
    return attention_flops(shape, counts, "full") + softmax


def tokens_at_head(record: RoutingRecord) -> int:
    """Prompt tokens still in the sequence after the last layer (neither dropped nor merged)."""
    last = record.route[-1]
    return int(((last == np.arange(record.n)) | (last == SKIPPED)).sum())


def gamma_rule(shape: ModelShape, n: int, skip: float, dense_layers: int) -> float:
    """γ-MoD's published formula in FLOPs, for n tokens and a mean `skip` (0..1).

    With the paper's own inputs (dense_layers 4, nominal lengths 800, 1400 and 4000) it gives the
    TFLOPs column of its tables.
    """

    ffn = int(_ffn_met(shape).sum()) / shape.layers

    def layer(tokens: int) -> float:
        d = shape.hidden
        return 8.0 * tokens * d * d + 4.0 * tokens**2 * d + 6.0 * tokens * d * ffn

    # The tiny shift keeps int() from turning 13.999999999 tokens into 13.
    kept = int(n * (1.0 - skip) + 1e-9)
    return dense_layers * layer(n) + (shape.layers - dense_layers) * layer(kept)


def decode_flops(shape: ModelShape, counts: Counts, decode: NDArray[np.bool_]) -> float:
    """FLOPs of the decode steps: each fed token meets every earlier entry of a layer's cache.

    counts [L]: cache entries after the prompt; decode [L, n_out]: layer processed that token.
    """
    steps = decode.astype(np.int64)
    seen = counts[:, None] + np.cumsum(steps, axis=1)  # entries including the token itself
    linear = linear_flops(shape, steps.sum(1))
    attention = 4.0 * shape.attention_width * int((steps * seen).sum())
    return linear + attention + 2.0 * shape.head_weights * steps.shape[1]
