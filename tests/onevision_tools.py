"""A ragged batch for a tiny LLaVA-OneVision, and the naive reference of its rows.

Rows of every kind: an image alone, none, two beside each other (one padded square and a newline
each), and an image of 3 x 3 tiles where four are allowed, which the model shrinks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import methods
from harness.families import tiny
from tests import naive, naive_choosers
from tests.routing_tools import depth_of, naive_params

Size = tuple[int, int]  # height, width
# Words before, images, words behind.
ROWS: list[tuple[int, list[Size], int]] = [
    (3, [(20, 30)], 4), (2, [], 5), (2, [(20, 30), (40, 13)], 2), (5, [(44, 46)], 7),
]  # fmt: skip
# Worked out by hand. 20 x 30 fills 2 x 2 tiles of 4 x 4 patches but for a row above and below.
# 44 x 46 fills 12 x 12 patches, 1.5 times the linear size of four tiles: 8 x 8 are left.
BASE = (4, 4, False)
GRIDS = [[[BASE, (6, 8, True)]], [], [[BASE], [BASE]], [[BASE, (8, 8, True)]]]
CANVAS = [(6, 8), (0, 0), (4, 4), (12, 12)]  # patches of the joined tiles, before they are shrunk
TOKENS = [70, 0, 34, 88]


def batch(model: Any, seed: int = 0) -> dict[str, Tensor]:
    """The rows, left-padded, as a processor would hand them over."""
    draw = torch.Generator().manual_seed(seed)
    lines, pixels, extents = [], [], []
    for (before, images, after), n in zip(ROWS, TOKENS, strict=True):
        words = torch.randint(3, 50, (before + after,), generator=draw).tolist()
        lines.append([tiny.BOS, *words[:before], *[tiny.IMAGE] * n, *words[before:]])
        for size in images:
            pixels.append(torch.randn((10, 3, 16, 16), generator=draw).to(model.dtype))
            extents.append(list(size))
    width = max(map(len, lines))
    return {
        "input_ids": torch.tensor([[0] * (width - len(one)) + one for one in lines]),
        "attention_mask": torch.tensor(
            [[0] * (width - len(one)) + [1] * len(one) for one in lines]
        ),
        "pixel_values": torch.stack(pixels),
        "image_sizes": torch.tensor(extents),
        "batch_num_images": torch.tensor([len(images) for _, images, _ in ROWS]),
    }


def alone(inputs: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Row ``i`` without padding."""
    real = inputs["attention_mask"][i].bool()
    single = {name: inputs[name][i][real][None] for name in ("input_ids", "attention_mask")}
    first, n = sum(len(images) for _, images, _ in ROWS[:i]), len(ROWS[i][1])
    if n:
        for name in ("pixel_values", "image_sizes"):
            single[name] = inputs[name][first : first + n]
        single["batch_num_images"] = torch.tensor([n])
    return single


def features_of(model: Any, single: dict[str, Tensor]) -> list[Tensor]:
    if "pixel_values" not in single:
        return []
    pictures = {
        name: single[name] for name in single if name not in ("input_ids", "attention_mask")
    }
    with torch.no_grad():
        return list(model.model.get_image_features(**pictures, return_dict=True).pooler_output)


def reference(
    model: Any, spec: str, modules: Any, single: dict[str, Tensor], i: int, answer: Tensor,
    name: str,
) -> tuple[Tensor, naive.Naive]:  # fmt: skip
    """Logits and the naive pass of row ``i``."""
    ids, features = single["input_ids"][0].tolist(), features_of(model, single)
    grids = GRIDS[i]
    sample = naive.Sample(ids, answer.tolist(), features, tiny.IMAGE, grids, name)
    method = methods.parse(spec)
    if method.name == "divprune":
        made = naive.Naive(model, sample)
        return naive_choosers.run(made, method), made
    if method.name == "cdpruner":
        return by_determinants(naive.Naive(model, sample), i, method.ratio)
    made = naive.run(model, sample, method.name, naive_params(method, depth_of(model)), modules)
    return made.logits(), made


def by_determinants(pass_: naive.Naive, i: int, ratio: float) -> tuple[Tensor, naive.Naive]:
    """CDPruner of row ``i``, crop by crop, newlines left out; relevant to the words behind."""
    sample, kept = pass_.sample, []
    with torch.no_grad():
        words = pass_.x[sample.image[-1] + 1 : sample.prompt] if sample.image else pass_.x
        mean = (words / words.norm(dim=1, keepdim=True)).mean(0)
        for (start, n), grids in zip(sample.spans, sample.grids, strict=True):
            crops, every = crops_of(grids, CANVAS[i]), []
            for columns in crops:
                x = pass_.x[[start + c for c in columns]]
                every.append((x, (x / x.norm(dim=1, keepdim=True)) @ mean))
            low = min(float(alike.min()) for _, alike in every)
            high = max(float(alike.max()) for _, alike in every)
            total, sizes = round(ratio * n), [len(columns) for columns in crops]
            shares = [total * size / sum(sizes) for size in sizes]
            order = sorted(range(len(sizes)), key=lambda c: (int(shares[c]) - shares[c], c))
            more = order[: total - sum(map(int, shares))]
            for c, (columns, (x, alike)) in enumerate(zip(crops, every, strict=True)):
                relevance = ((alike - low + 1e-6) / (high - low)).numpy()
                count = int(shares[c]) + (c in more)
                picks = naive_choosers.determinants(x.numpy(), relevance, count)
                kept += [start + columns[pick] for pick in picks]
        naive._leave(pass_, kept, "compact")
        naive.dense(pass_)
        return pass_.logits(), pass_


def crops_of(grids: list[tuple[int, int, bool]], canvas: tuple[int, int]) -> list[list[int]]:
    """The columns of an image, newlines left out, by the 4 x 4 square that each is nearest to.

    ``canvas``: of the tiles, rows and columns of patches that carry some of the image.
    """
    found: dict[tuple[int, ...], list[int]] = {(0,): list(range(16))}
    for rows, cols, _ in grids[1:]:
        for r in range(rows):
            for c in range(cols):
                y = (r + 0.5) * canvas[0] / rows + (-canvas[0] % 4) / 2
                x = (c + 0.5) * canvas[1] / cols + (-canvas[1] % 4) / 2
                found.setdefault((1, int(y // 4), int(x // 4)), []).append(16 + r * (cols + 1) + c)
    return [found[key] for key in sorted(found)]
