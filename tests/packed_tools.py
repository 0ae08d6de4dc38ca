"""The tower of packed patches once more: one image, raster order, its own rotary, plain loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.naive import _leave
from tests.naive_qwen import NaiveQwen

Maps = tuple[Tensor, Tensor]


def seen(model: Any, pixels: Tensor, rows: int, cols: int) -> list[Maps]:
    """Per tower layer, of an image's tokens of 2 x 2 patches: attention received [T], keys [T, h].

    Mean over heads (and all queries of the image), then over a token's four patches. Only what
    enters the first layer comes from a pass of the model, over this image alone.
    """
    tower = model.model.visual
    whole = getattr(tower, "fullatt_block_indexes", range(len(tower.blocks)))
    entered: list[Tensor] = []
    hook = tower.blocks[0].register_forward_pre_hook(
        lambda _, args, given: entered.append(args[0] if args else given["hidden_states"]),
        with_kwargs=True,
    )
    tower(pixels, grid_thw=torch.tensor([[1, 2 * rows, 2 * cols]]))
    hook.remove()
    tokens = [(r, c) for r in range(rows) for c in range(cols)]
    cell = [(r // 4, c // 4) for r, c in tokens]
    x = entered[0].double().view(len(tokens), 4, -1)
    if hasattr(tower, "fullatt_block_indexes"):  # the model runs window by window
        order = sorted(range(len(tokens)), key=lambda t: (cell[t], tokens[t]))
        x = x[[order.index(t) for t in range(len(tokens))]]
    x = x.flatten(0, 1)
    patches = [(2 * r + a, 2 * c + b) for r, c in tokens for a in (0, 1) for b in (0, 1)]
    window = [cell[i // 4] for i in range(len(patches))]
    apart = torch.tensor([[one != other for other in window] for one in window])
    found = []
    for layer, block in enumerate(tower.blocks):
        states, maps, out, keys = block.norm1(x), [], [], []
        heads = block.attn.num_heads
        query, key, value = block.attn.qkv(states).chunk(3, dim=-1)
        size = query.shape[-1] // heads
        for head in range(heads):
            q, k, v = (one[:, head * size : (head + 1) * size] for one in (query, key, value))
            keys.append(turned(k, patches))
            scores = turned(q, patches) @ keys[-1].T / size**0.5
            if layer not in whole:
                scores = scores.masked_fill(apart, -torch.inf)
            maps.append(scores.softmax(dim=-1))
            out.append(maps[-1] @ v)
        x = x + block.attn.proj(torch.cat(out, dim=-1))
        x = x + block.mlp(block.norm2(x))
        given = torch.stack(maps).mean(dim=(0, 1)).view(-1, 4).mean(dim=1)
        found.append((given, torch.stack(keys).mean(dim=0).view(-1, 4, size).mean(dim=1)))
    return found


def turned(x: Tensor, patches: list[tuple[int, int]]) -> Tensor:
    """[P, size] by row and column: a quarter of the pairs of numbers each, the halves apart."""
    half = x.shape[-1] // 2
    speed = [10000 ** (-2 * i / half) for i in range(half // 2)]
    angle = torch.tensor([[at * s for at in place for s in speed] for place in patches]).double()
    a, b = x[:, :half], x[:, half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)


def visionzip(naive: NaiveQwen, method: Any, images: list[list[Maps]]) -> None:
    """VisionZip's ports on the reference. ``images``: of each one what ``seen`` says."""
    both = method.dominant + method.contextual
    kept, own = [], naive.x.clone()
    tables = [table.clone() for table in naive.deep]
    for (start, n), maps in zip(naive.sample.spans, images, strict=True):
        given, keys = maps[-1 if method.tower is None else method.tower]
        count = min(n, round(both * n / 576))
        merged = round(count * method.contextual / both)
        dominant = naive.best(given, list(range(n)), count - merged)
        rest = [t for t in range(n) if t not in dominant]
        targets = rest[:: max(1, len(rest) // max(merged, 1))][:merged]
        unit = keys / keys.norm(dim=1, keepdim=True)
        joined: dict[int, list[int]] = {t: [] for t in targets}
        for t in rest:
            if t not in targets and targets:
                joined[max(targets, key=lambda c: float(unit[c] @ unit[t]))].append(start + t)
        for t, members in joined.items():
            for new, old in zip([own, *tables], [naive.x, *naive.deep], strict=True):
                new[start + t] += old[members].mean(0) if members else 0
        kept += [start + t for t in dominant + targets]
    naive.x, naive.deep = own, tables
    _leave(naive, kept, method.positions)
    for layer in range(naive.depth):
        naive.run_layer(layer)


def vscan(naive: NaiveQwen, method: Any, images: list[list[Maps]]) -> None:
    """VScan's port on the reference. ``images``: of each one what ``seen`` says."""
    groups: dict[int, list[int]] = {}
    kept: list[int] = []
    for (start, n), ((_, cols, _),), maps in zip(
        naive.sample.spans, naive.sample.grids, images, strict=True
    ):
        depth = len(maps)
        local, _ = maps[max(0, 8 * depth // 32 - 1) if method.local is None else method.local]
        last, _ = maps[-1 if method.tower is None else method.tower]
        count = min(n, round(method.keep * n / 576))
        cells: dict[tuple[int, int], list[int]] = {}
        for t in range(n):
            cells.setdefault((t // cols // 4, t % cols // 4), []).append(t)
        picks: list[int] = []
        for cell in cells.values():
            picks += naive.best(local, cell, count // 2 // len(cells))
        rest = [t for t in range(n) if t not in picks]
        picks = sorted(picks + naive.best(last, rest, count - len(picks)))
        x = naive.x[start : start + n]
        unit = x / x.norm(dim=1, keepdim=True)
        for t in range(n):
            into = t if t in picks else max(picks, key=lambda p: float(unit[p] @ unit[t]))
            groups.setdefault(start + into, []).append(start + t)
        kept += [start + t for t in picks]
    naive.merge(groups)
    _leave(naive, kept, method.positions)
    for layer in range(naive.depth):
        if layer == method.at(naive.depth) and kept:
            level = torch.zeros(len(naive.x), dtype=torch.long)  # all at one position: not turned
            row = naive.probabilities(layer, naive.alive, level).mean(0)[naive.sample.prompt - 1]
            left = naive.best(row, kept, round(len(kept) * method.later / method.keep))
            _leave(naive, left, method.positions)
        naive.run_layer(layer)
