"""Does a workload fit the device? Predicted before anything is built. Torch-free.

A deliberately simple estimate: weights, the cache at its longest, and the largest set of
activations that live at once in prefill. It is right within some tens of percent, enough to tell
a workload that cannot run from one that will.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from harness.common.errors import UsageError
from harness.families.catalog import REGISTRY
from harness.families.shapes import ModelShape
from harness.options.workload import Pictures, Workload

GIB = 1024.0**3
ROOM = 0.95  # of the free memory


@dataclass(frozen=True)
class Need:
    """Bytes: all weights, the KV cache after the last token, activations of the prompt."""

    weights: float
    cache: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.cache + self.activations


def weight_count(shape: ModelShape) -> int:
    """Parameters of decoder, embeddings, head, tower and projector (norms and biases left out)."""
    tables = (1 if shape.tied else 2) * shape.head_weights
    return shape.stored_weights + tables + REGISTRY[shape.family].sight_weights(shape)


def need(shape: ModelShape, work: Workload, pictures: Pictures, itemsize: int, attn: str) -> Need:
    """What a workload takes with the dense method, which takes the most."""
    n = work.n_text + pictures.tokens
    entries = work.batch * (n + work.n_out) * shape.layers
    # residual, normed input, q, k, v, attention output; or gate, up and their product
    width = 3 * shape.hidden + max(3 * shape.hidden, 3 * max(shape.ffn_met))
    activations = work.batch * n * width * itemsize
    if attn == "eager":
        activations += work.batch * shape.heads * n * n * (2 * itemsize + 4)
    crops = work.batch * pictures.count * pictures.crops
    sight = shape.vision
    activations += (
        crops * (sight.patches + sight.class_tokens) * (3 * sight.hidden + 2 * sight.ffn) * itemsize
    )
    return Need(
        weights=weight_count(shape) * itemsize,
        cache=entries * shape.kv_bytes_per_entry(itemsize),
        activations=activations,
    )


def require_fit(
    shape: ModelShape,
    work: Workload,
    pictures: Pictures,
    itemsize: int,
    attn: str,
    free: int | None,
    device: str,
    loaded: bool = False,
    flag: str = "--workload",
) -> None:
    """Raise UsageError, one line, when the workload cannot fit; it says what would.

    ``free``: bytes that can be had, None when unknown (nothing is refused then). ``loaded``: the
    weights are on the device already, so ``free`` is without them. ``flag``: what asked for it.
    """
    if free is None:
        return
    wanted = need(shape, work, pictures, itemsize, attn)
    have = free * ROOM + (wanted.weights if loaded else 0)
    if wanted.total <= have:
        return
    parts = (
        f"weights {wanted.weights / GIB:.1f}, KV cache {wanted.cache / GIB:.1f}, "
        f"activations {wanted.activations / GIB:.1f}"
    )
    raise UsageError(
        f"{flag}: {work.spec} needs about {wanted.total / GIB:.1f} GiB ({parts}), "
        f"{device} has {have / GIB:.1f}: {_would_fit(shape, work, pictures, itemsize, attn, have)}"
    )


def _would_fit(
    shape: ModelShape, work: Workload, pictures: Pictures, itemsize: int, attn: str, have: float
) -> str:
    fixed = need(shape, replace(work, batch=0), pictures, itemsize, attn).total
    each = need(shape, replace(work, batch=1), pictures, itemsize, attn).total - fixed
    batch = min(work.batch - 1, int((have - fixed) / each))  # cache and activations grow with it
    if batch >= 1:
        return f"batch={batch} would fit"
    if weight_count(shape) * itemsize > have:
        smaller = "--dtype bfloat16, or " if itemsize == 4 else ""
        return f"the weights alone do not fit; try {smaller}--random-weights with fewer --layers"
    return "no batch fits; take fewer tokens"
