"""FLOPs of what a method computes of its own, from a record's ``scoring``. Torch-free.

One sample, 2 FLOPs per multiply-accumulate, as everywhere in `harness.cost.ledger`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.families.convnext import encoder_flops
from harness.families.shapes import ModelShape
from harness.store.record import PROJECTOR, UNKNOWN

DISTANCE = 3  # FLOPs of one number of a distance: difference, square, sum


def router_flops(shape: ModelShape, scoring: Sequence[Mapping[str, Any]] | None) -> float | None:
    """FLOPs of what a record's ``scoring`` says, the projector aside; None where it is not known.

    Records of versions that took fewer notes have no ``scoring``.
    """
    if scoring is None or any(call["kind"] == UNKNOWN for call in scoring):
        return None
    own = [call for call in scoring if call["kind"] != PROJECTOR]
    return float(sum(call["calls"] * scoring_flops(shape, call) for call in own))


def projected_again(shape: ModelShape, scoring: Sequence[Mapping[str, Any]] | None) -> float:
    """FLOPs of the tokens that a method itself sent through the model's projector."""
    own = [call for call in scoring or () if call["kind"] == PROJECTOR]
    return float(sum(call["calls"] * scoring_flops(shape, call) for call in own))


def by_phase(
    shape: ModelShape, scoring: Sequence[Mapping[str, Any]] | None
) -> dict[str, float] | None:
    """FLOPs of all of it by when it runs: ``vision``, ``prefill``, ``decode``; None as above."""
    if router_flops(shape, scoring) is None:
        return None
    found = {"vision": 0.0, "prefill": 0.0, "decode": 0.0}
    for call in scoring or ():
        phase = "decode" if call["phase"] == "decode" else "prefill"
        phase = "vision" if call["kind"] == "tower_rows" else phase
        found[phase] += call["calls"] * scoring_flops(shape, call)
    return found


def width_of(shape: ModelShape, name: str | int) -> int:
    """A width in ``scoring``, where widths of the model stand by name."""
    vision = shape.vision
    named = {
        "width": shape.hidden,
        "head": shape.head_dim,
        "tower": vision.hidden,
        "tower_head": vision.hidden // vision.heads,
        "tower_ffn": vision.ffn,
    }
    return named[name] if isinstance(name, str) else int(name)


def linear_sizes(shape: ModelShape, call: Mapping[str, Any]) -> tuple[int, int]:
    """In and out features of a linear layer in ``scoring``."""
    return width_of(shape, call.get("in", "width")), width_of(shape, call["out"])


def scoring_flops(shape: ModelShape, call: Mapping[str, Any]) -> float:
    """FLOPs of one call in a record's ``scoring``, at the model's true sizes.

    linear     2·in·out for each token (the bias, like every bias here, is not counted).
    last_row   one query's projection, all keys' projections and one row of scores.
    mean_row   all queries' and keys' projections and all n x n scores.
    tower_rows all n x n scores of a tower layer, whose own projections serve.
    product    2·width for each of `tokens` pairs: vectors multiplied, or weighted and added up.
    distance   3·width for each of `tokens` pairs.
    projector  each token through the model's projector.
    encoder    a CLIP-type layer of `width` and `ffn` on the tokens, full attention.
    """
    n, kind = int(call["tokens"]), call["kind"]
    if kind == "tower_rows":
        return 2.0 * n * n * shape.vision.hidden
    if kind == "linear":
        size, out = linear_sizes(shape, call)
        return 2.0 * n * size * out
    if kind in ("product", "distance"):
        each = 2 if kind == "product" else DISTANCE
        return float(each * n * width_of(shape, call["width"]))
    if kind == PROJECTOR:
        return 2.0 * n * shape.projector_weights
    if kind == "encoder":
        d, ffn = (width_of(shape, call[name]) for name in ("width", "ffn"))
        return float(encoder_flops(d, ffn, n, n))
    queries = {"last_row": 1, "mean_row": n}[kind]
    query, key = shape.attention_width, shape.kv_heads * shape.head_dim
    return 2.0 * (shape.hidden * (queries * query + n * key) + query * queries * n)
