"""On the naive reference: the methods that choose image tokens by scores or likeness alone.

``method`` is the parsed method, of which only parameters, stages and counts are read. All take one
sample, recompute whatever they score by, and run all layers.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.naive import Naive, _leave


def pyramiddrop(naive: Naive, method: Any) -> None:
    sample = naive.sample
    counts = method.kept(len(sample.image), len(sample.features), naive.depth)
    left = sample.image
    for layer in range(naive.depth):
        if layer in method.stages(naive.depth) and left:
            scores = naive.probabilities(layer, naive.alive, naive.position).mean(0)
            kept = counts[method.stages(naive.depth).index(layer)]
            left = naive.best(scores[sample.prompt - 1], left, kept)
            _leave(naive, left, method.positions)
        naive.run_layer(layer)


def plan(naive: Naive, method: Any) -> None:
    sample = naive.sample
    for layer, ratio in enumerate(method.ratios(naive.depth)):
        kept = round(len(sample.image) * ratio)
        active = naive.alive.clone()
        if ratio < 1 and sample.image:
            scores = naive.probabilities(layer, naive.alive, naive.position).mean(0)
            active[sample.image] = False
            active[naive.best(scores[sample.prompt - 1], sample.image, kept)] = True
        naive.run_layer(layer, active)


def divprune(naive: Naive, method: Any) -> None:
    kept = []
    for start, n in naive.sample.spans:
        count = round(method.ratio * n) if method.ratio is not None else round(method.keep * n)
        picks = spread(naive.x[start : start + n].numpy(), count)
        kept += [start + i for i in picks]
    _leave(naive, kept, method.positions)
    for layer in range(naive.depth):
        naive.run_layer(layer)


def cdpruner(naive: Naive, method: Any) -> None:
    """Relevance to the words behind the last image, as where the question is not known."""
    sample, kept = naive.sample, []
    if sample.image:
        words = naive.x[sample.image[-1] + 1 : sample.prompt]
        mean = (words / words.norm(dim=1, keepdim=True)).mean(0)
    for start, n in sample.spans:
        x = naive.x[start : start + n]
        alike = (x / x.norm(dim=1, keepdim=True)) @ mean
        low, high = alike.min(), alike.max()
        relevance = (alike - low + 1e-6) / (high - low)
        picks = determinants(x.numpy(), relevance.numpy(), round(method.ratio * n))
        kept += [start + i for i in picks]
    _leave(naive, kept, method.positions)
    for layer in range(naive.depth):
        naive.run_layer(layer)


def sparsevlm(naive: Naive, method: Any) -> None:
    """Tokens really leave and move here: the whole sequence is rebuilt behind every stage."""
    sample = naive.sample
    kinds = np.array(["text"] * sample.prompt + ["answer"] * len(sample.answer), dtype="U8")
    kinds[sample.image] = "image"
    if not sample.image:
        kept, places, rows = [], [], None
    else:
        kinds[sample.image[-1] + 1 : sample.prompt] = "question"
        kept = method.kept(len(sample.image), naive.depth, len(sample.features))
        places = [place for place, _ in method.stages(naive.depth)]
        rows = _raters(naive.x.numpy(), kinds)
    score = None
    for layer in range(naive.depth):
        if layer - 1 in places:
            count, clusters = kept[places.index(layer - 1)]
            kinds, rows = _stage(naive, method, kinds, rows, score, count, clusters)
        if layer in places:
            score = _rated(naive, method, layer, kinds, rows)
        naive.run_layer(layer)


def _raters(x: np.ndarray, kinds: np.ndarray) -> np.ndarray:
    image, words = kinds == "image", kinds == "question"
    share = np.exp(x[image] @ x[words].T)
    mean = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
    rows = np.zeros(len(kinds), dtype=bool)
    rows[words] = mean > mean.mean()
    return rows


def _rated(naive: Naive, method: Any, layer: int, kinds: np.ndarray, rows: np.ndarray) -> Any:
    maps = naive.probabilities(layer, naive.alive, naive.position)
    if method.version == "2":
        ones = torch.ones(len(kinds), 1, naive.size, dtype=torch.float64)
        turned = naive.turned(ones, naive.position)[:, 0]
        bias = turned @ turned.T / naive.size**0.5
        maps = maps / bias.clamp(min=0.01 * naive.size**0.5)
        image = maps[:, rows][:, :, kinds == "image"].sum(dim=(1, 2))
        maps = maps[image.argsort(descending=True)[: max(1, round(14 * naive.heads / 32))]]
    return maps[:, rows].mean(dim=(0, 1)).numpy()


def _stage(
    naive: Naive, method: Any, kinds: Any, rows: Any, score: Any, count: int, clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    image = np.nonzero(kinds == "image")[0]
    order = sorted(image, key=lambda i: (-float(np.float32(score[i])), i))
    stay = sorted({*order[:count], *np.nonzero(kinds != "image")[0]})
    last, pruned = max(image), order[count:]
    parts: list[list[int]] = []
    if clusters:
        best = pruned[: int(0.3 * len(pruned)) + 1]
        name = hashlib.sha256(f"{method.seed}:{naive.sample.name}".encode()).digest()
        seed = int.from_bytes(name[:7], "big")
        dice = torch.rand(len(best), generator=torch.Generator().manual_seed(seed))
        _, owner = clustered(naive.x[best].numpy(), clusters, 1e-6 * dice.numpy())
        pairs = list(zip(best, owner, strict=True))
        parts = [[int(i) for i, o in pairs if o == c] for c in range(clusters)]
    front, back = [i for i in stay if i <= last], [i for i in stay if i > last]
    compact = method.numbering == "compact"
    n = len(stay) + len(parts)
    position = torch.arange(n) if compact else naive.position[front + back]
    naive.rebuild([*([int(i)] for i in front), *parts, *([int(i)] for i in back)], position)
    kinds = np.concatenate([kinds[front], np.full(len(parts), "image"), kinds[back]])
    rows = np.concatenate([rows[front], np.zeros(len(parts), dtype=bool), rows[back]])
    return kinds, rows


# --- choices alone
def spread(x: np.ndarray, k: int) -> list[int]:
    """DivPrune: the largest smallest distance, one by one."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = 1 - x @ x.T
    n = len(x)
    picks = [int(np.argmax([np.sort(np.delete(d[i], i))[0] for i in range(n)]))]
    while len(picks) < k:
        worth = [-9.0 if j in picks else min(d[i, j] for i in picks) for j in range(n)]
        picks.append(int(np.argmax(worth)))
    return picks


def determinants(x: np.ndarray, r: np.ndarray, k: int) -> list[int]:
    """CDPruner: greedy by determinants, straight from the definition."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    kernel = r[:, None] * (x @ x.T) * r[None]
    picks: list[int] = []
    while len(picks) < k:
        rest = [i for i in range(len(x)) if i not in picks]
        value = {i: np.linalg.det(kernel[np.ix_([*picks, i], [*picks, i])]) for i in rest}
        picks.append(max(rest, key=lambda i: value[i]))
    return picks


def clustered(x: np.ndarray, count: int, jitter: np.ndarray) -> tuple[list[int], list[int]]:
    """SparseVLM: centres and owners of density-peak clusters."""
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)) / np.sqrt(x.shape[1])
    near = np.sort(distance, axis=1)[:, :count]
    density = np.exp(-(near**2).mean(axis=1)) + jitter
    worth = []
    for i in range(len(x)):
        denser = [distance[i, j] for j in range(len(x)) if density[j] > density[i]]
        worth.append(density[i] * (min(denser) if denser else distance.max()))
    centres = sorted(range(len(x)), key=lambda i: -worth[i])[:count]
    owner = [int(np.argmin([distance[i, c] for c in centres])) for i in range(len(x))]
    return centres, owner


CHOOSERS = {
    "pyramiddrop": pyramiddrop, "plan": plan, "divprune": divprune, "cdpruner": cdpruner,
    "sparsevlm": sparsevlm,
}  # fmt: skip


def run(naive: Naive, method: Any) -> Tensor:
    """Logits of a method on a fresh reference."""
    with torch.no_grad():
        CHOOSERS[method.name](naive, method)
        return naive.logits()
