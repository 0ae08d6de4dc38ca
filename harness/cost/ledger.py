"""Closed-form FLOPs and KV bytes of one sample, from the tokens each layer really processed.

Torch-free. Unit: 1 FLOP = one multiply or one add, so a multiply-accumulate counts 2. Real tokens
only (padding never counts); every row of every table goes through these functions, whatever the
attention kernel was, so eager and fused kernels are never mixed.

Conventions
    ``causal``       the one rule: linear layers, half of n^2 attention in the language model's
                     prefill, LM head on the last position.
    ``full``         the same with all of n^2.
    ``paper-pmod``   prefill only: no attention at all, LM head on every position that reaches it
                     (what a profiler that cannot see fused attention prints).
    ``paper-gamma``  prefill only: D·F(n) + (L-D)·F(int(n·(1-s))), F(n) = 8nd² + 4n²d + 6ndm, no
                     LM head; D the layers the method leaves alone, s its skip on the others.

Left out on purpose, as in every published table: norms, activations, softmax, rotary embedding,
embedding look-up, and what a method spends on deciding (a router is 2·d or 4·d per candidate,
0.003 % of p-MoD's prefill at 7B; one attention row is 2·d·n). Selection is timed, not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.cost.shapes import ModelShape, VisionShape
from harness.record import SKIPPED, RoutingRecord

TERA = 1e12
MIB = 1024.0**2
CONVENTIONS = ("causal", "full", "paper-pmod", "paper-gamma")
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class SampleCost:
    """One sample's cost: TFLOP by scope, ratios in 0..1, cache size in MiB after the prompt."""

    vision: float
    projector: float
    prefill: Mapping[str, float]  # by convention
    decode: float  # all generated tokens that were fed back, exact under either convention
    kv_ratio_vision: float | None  # None without image tokens
    kv_ratio_all: float
    kv_mib: float
    skip_mod_layers: float
    skip_all_layers: float


def sample_cost(
    record: RoutingRecord, shape: ModelShape, itemsize: int, vision_runs: bool = True
) -> SampleCost:
    """What one sample cost under its recorded routing.

    `itemsize` is bytes per cached number; `vision_runs` is False for a method that never runs the
    tower. Raises ValueError when the record has another depth than the model.
    """
    if record.layers != shape.layers:
        raise ValueError(f"record of {record.layers} layers, model of {shape.layers}")
    crops = crop_count(record.grid, shape.vision, record.n_image) if vision_runs else 0
    counts = record.processed_per_layer()
    return SampleCost(
        vision=crops * vision_flops(shape.vision) / TERA,
        projector=crops * projector_flops(shape) / TERA,
        prefill={c: prefill_flops(shape, record, c) / TERA for c in CONVENTIONS},
        decode=decode_flops(shape, counts, record.decode) / TERA,
        kv_ratio_vision=record.kv_ratio_vision,
        kv_ratio_all=record.kv_ratio_all,
        kv_mib=int(counts.sum()) * shape.kv_bytes_per_entry(itemsize) / MIB,
        skip_mod_layers=record.skip_mod_layers,
        skip_all_layers=record.skip_all_layers,
    )


def crop_count(grid: Sequence[Mapping[str, Any]], vision: VisionShape, n_image: int) -> int:
    """How many crops went through the tower.

    An image entry may say so itself (``crops``). Otherwise a tile grid is counted by the tiles its
    un-padded rows and columns touch; without any geometry, by the number of image tokens.
    """
    side = vision.image_size // vision.patch
    crops = 0
    for image in grid:
        touched = math.ceil(int(image["rows"]) / side) * math.ceil(int(image["cols"]) / side)
        crops += int(image.get("crops", touched))
    return crops if grid else math.ceil(n_image / vision.patches)


def vision_flops(vision: VisionShape) -> float:
    """FLOPs of one crop: patch embedding and every layer, class token included, full attention."""
    n, d = vision.patches + 1, vision.hidden
    embed = 2 * vision.patches * vision.channels * vision.patch**2 * d
    layer = 2 * n * (4 * d * d + 2 * d * vision.ffn) + 4 * n * n * d
    return float(embed + vision.layers * layer)


def projector_flops(shape: ModelShape) -> float:
    """FLOPs of the two-layer projector on one crop's patches."""
    weights = shape.projector_in * shape.hidden + shape.hidden * shape.hidden
    return float(2 * shape.vision.patches * weights)


def attention_flops(shape: ModelShape, counts: Counts, convention: str) -> float:
    """Scores and values of all layers: 4·n²·width for ``full``, half of it for ``causal``."""
    per_pair = {"full": 4, "causal": 2}[convention]
    return float(per_pair * shape.attention_width * int((counts.astype(np.int64) ** 2).sum()))


def prefill_flops(shape: ModelShape, record: RoutingRecord, convention: str) -> float:
    """FLOPs of the language model on the prompt, from the tokens each layer processed."""
    if convention == "paper-gamma":
        acting = int(record.mod_layers.sum())
        skip = record.skip_mod_layers
        return gamma_rule(shape, record.n, skip, dense_layers=shape.layers - acting)
    counts = record.processed_per_layer()
    linear = 2.0 * shape.layer_weights * int(counts.sum())
    if convention == "paper-pmod":
        return linear + 2.0 * shape.head_weights * tokens_at_head(record)
    return linear + attention_flops(shape, counts, convention) + 2.0 * shape.head_weights


def tokens_at_head(record: RoutingRecord) -> int:
    """Prompt tokens still in the sequence after the last layer (neither dropped nor merged)."""
    last = record.route[-1]
    return int(((last == np.arange(record.n)) | (last == SKIPPED)).sum())


def gamma_rule(shape: ModelShape, n: int, skip: float, dense_layers: int) -> float:
    """γ-MoD's published formula in FLOPs, for n tokens and a mean `skip` (0..1).

    With the paper's own inputs (dense_layers 4, nominal lengths 800, 1400 and 4000) it gives the
    TFLOPs column of its tables.
    """

    def layer(tokens: int) -> float:
        d = shape.hidden
        return 8.0 * tokens * d * d + 4.0 * tokens**2 * d + 6.0 * tokens * d * shape.ffn

    # The tiny shift keeps int() from turning 13.999999999 tokens into 13.
    kept = int(n * (1.0 - skip) + 1e-9)
    return dense_layers * layer(n) + (shape.layers - dense_layers) * layer(kept)


def decode_flops(shape: ModelShape, counts: Counts, decode: NDArray[np.bool_]) -> float:
    """FLOPs of the decode steps: each fed token meets every earlier entry of a layer's cache.

    counts [L]: cache entries after the prompt; decode [L, n_out]: layer processed that token.
    """
    steps = decode.astype(np.int64)
    seen = counts[:, None] + np.cumsum(steps, axis=1)  # entries including the token itself
    linear = 2.0 * shape.layer_weights * int(steps.sum())
    attention = 4.0 * shape.attention_width * int((steps * seen).sum())
    return linear + attention + 2.0 * shape.head_weights * steps.shape[1]
