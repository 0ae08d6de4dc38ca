"""Density-peak clustering of pruned tokens into a few means, for a ragged batch at once."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from methods.base import Merge, Positions, Ranking, Tokens, on_device
from methods.picking import wide

if TYPE_CHECKING:
    from torch import Tensor


def fold(
    seq: Tokens,
    score: Tensor,
    keep: Tensor,
    left: list[int],
    sizes: list[tuple[int, int]],
    seed: int,
    positions: Positions,
) -> Merge:
    """Of the image tokens not in ``keep``, cluster the best by ``score``; the others leave.

    ``sizes``: (tokens recycled, clusters) of each row; ``left``: kept tokens of each row. A
    cluster stands at the column of its centre and is ordered behind the last image token.
    """
    import torch

    device, length = keep.device, keep.shape[1]
    pruned = seq.image & ~keep
    most, clusters = max(m for m, _ in sizes), max(c for _, c in sizes)
    ranked = score.float().masked_fill(~pruned, float("-inf"))
    best = ranked.argsort(dim=1, descending=True, stable=True)[:, :most]
    ranks = torch.arange(most, device=device)
    real = ranks < on_device([[m] for m, _ in sizes], device)
    seq.note("distance", [m * m for m, _ in sizes])
    seq.note("product", [m * c for m, c in sizes])  # the means
    points = wide(seq.hidden.gather(1, _spread(best, seq.hidden)))
    limits = on_device([[c] for _, c in sizes], device)
    centres, owner = cluster(points, real, limits, clusters, noise(seq, sizes, most, seed))
    there = torch.arange(clusters, device=device) < limits
    member = ((owner.unsqueeze(2) == ranks[:clusters]) & real.unsqueeze(2)).to(points.dtype)
    total = member.sum(dim=1).clamp(min=1).unsqueeze(-1)
    means = (member.transpose(1, 2) @ points / total).to(seq.hidden.dtype)
    slots = best.gather(1, centres)
    columns = torch.arange(length, device=device).expand_as(keep)
    assign = columns.masked_fill(~keep & seq.valid, -1)
    goes = torch.where(real, slots.gather(1, owner), assign.gather(1, best))
    old = seq.hidden.gather(1, _spread(slots, seq.hidden))
    states = torch.where(there.unsqueeze(-1), means, old)
    last = (columns * seq.image).amax(dim=1, keepdim=True)
    behind = last * (clusters + 2) + 1 + torch.arange(clusters, device=device)
    key = columns * (clusters + 2)
    return Merge(
        assign.scatter(1, best, goes),
        [n + c for n, (_, c) in zip(left, sizes, strict=True)],
        states=seq.hidden.scatter(1, _spread(slots, seq.hidden), states),
        positions=positions,
        order=key.scatter(1, slots, torch.where(there, behind, key.gather(1, slots))),
        ranked=Ranking(score, keep & seq.image),
    )


def cluster(
    points: Tensor, real: Tensor, limits: Tensor, clusters: int, jitter: Tensor
) -> tuple[Tensor, Tensor]:
    """Columns of the centres [B, c], best first, and each point's cluster [B, m].

    ``points`` [B, m, d] where ``real`` [B, m]; ``limits`` [B, 1] clusters of each row, at most
    ``clusters``. Density is exp of minus the mean of that many smallest squared distances, itself
    included; a centre is dense and far from any denser point; others join the nearest centre.
    """
    import torch

    inf, ranks = float("inf"), torch.arange(points.shape[1], device=points.device)
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distance = distance / points.shape[-1] ** 0.5
    pair = real.unsqueeze(1) & real.unsqueeze(2)
    near = distance.masked_fill(~pair, inf).sort(dim=2).values.square()
    near = near.masked_fill(ranks >= limits.unsqueeze(2), 0).sum(dim=2)
    density = (-near / limits.clamp(min=1)).exp() + jitter
    denser = (density.unsqueeze(1) > density.unsqueeze(2)) & pair
    farthest = distance.masked_fill(~pair, 0).amax(dim=(1, 2), keepdim=True)
    apart = torch.where(denser, distance, farthest).amin(dim=2)
    worth = (density * apart).masked_fill(~real, -inf)
    centres = worth.argsort(dim=1, descending=True, stable=True)[:, :clusters]
    used = (ranks[:clusters] < limits).unsqueeze(1)
    reach = distance.gather(2, centres.unsqueeze(1).expand(-1, points.shape[1], -1))
    owner = reach.masked_fill(~used, inf).argmin(dim=2)
    own = (ranks.view(1, -1, 1) == centres.unsqueeze(1)) & used
    return centres, torch.where(own.any(dim=2), own.to(torch.uint8).argmax(dim=2), owner)


def noise(seq: Tokens, sizes: list[tuple[int, int]], most: int, seed: int) -> Tensor:
    """[B, most] numbers below 1e-6 that break ties, the same for a sample wherever it stands."""
    import torch

    rows = []
    for (count, _), identity in zip(sizes, seq.identities, strict=True):
        digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
        draw = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        drawn = torch.rand(count, generator=draw).tolist() if count else []
        rows.append([1e-6 * value for value in drawn] + [0.0] * (most - count))
    return on_device(rows, seq.hidden.device)


def _spread(columns: Tensor, states: Tensor) -> Tensor:
    return columns.unsqueeze(-1).expand(-1, -1, states.shape[-1])
