"""What a CLIP-type tower and its projector cost, in closed form. Torch-free.

FLOPs, 2 per multiply-accumulate; norms, activations, pooling and resizing are left out, as in
`harness.cost.ledger`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from harness.families.shapes import ModelShape, Part, VisionShape

Grids = Sequence[Mapping[str, Any]]


def crop_count(grid: Grids, vision: VisionShape, n_image: int) -> int:
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


def tower_tokens(
    vision: VisionShape, tower: Sequence[int] = (), patches: int | None = None
) -> list[tuple[int, int]]:
    """Tokens in the attention and in the MLP of every layer. Raises ValueError at another depth.

    `tower` is a record's: a layer's attention has the tokens that left the layer before, its MLP
    those that leave itself. Class token included. `patches`: of a smaller image.
    """
    full = (vision.patches if patches is None else patches) + vision.class_tokens
    if not tower:
        return [(full, full)] * vision.layers
    if len(tower) != vision.layers:
        raise ValueError(f"record of {len(tower)} tower layers, tower of {vision.layers}")
    return list(zip((full, *tower), tower, strict=False))


def tower_parts(
    vision: VisionShape, crops: int, tower: Sequence[int] = (), patches: int | None = None
) -> list[Part]:
    """Patch embedding and every layer of `crops` crops, full attention; and the pooling head of a
    SigLIP tower that has one: one query's attention over the last states, and an MLP.
    """
    d, patches = vision.hidden, vision.patches if patches is None else patches
    embed = 2.0 * patches * vision.channels * vision.patch**2 * d
    parts = [Part("vision", "embedding", patches, crops, embed)]
    layers = tower_tokens(vision, tower, patches)
    for attended, kept in dict.fromkeys(layers):
        times = crops * layers.count((attended, kept))
        attention = 8.0 * attended * d**2 + 4.0 * attended**2 * d
        parts.append(Part("vision", "attention", attended, times, attention))
        parts.append(Part("vision", "mlp", kept, times, 4.0 * kept * d * vision.ffn))
    if vision.head:
        last = layers[-1][1]
        head = 4.0 * (1 + last) * d * d + 4.0 * last * d + 4.0 * d * vision.ffn
        parts.append(Part("vision", "head", last, crops, head))
    return parts


def projector_part(
    shape: ModelShape, crops: int, tower: Sequence[int] = (), patches: int | None = None
) -> Part:
    """The two-layer projector on the patches of a crop, or on those that `tower` leaves."""
    if patches is None:
        patches = tower[-1] - shape.vision.class_tokens if tower else shape.vision.patches
    return Part("projector", "projector", patches, crops, 2.0 * patches * shape.projector_weights)


def summed(parts: Sequence[Part], scope: str) -> float | None:
    """FLOPs of one scope; None where a part of it that runs is not known."""
    found = [(part.times, part.flops) for part in parts if part.scope == scope and part.times]
    total = 0.0
    for times, flops in found:
        if flops is None:
            return None
        total += times * flops
    return total
