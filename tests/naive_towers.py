"""Both published vision paths a second time, as plainly as possible, from their description alone.

Weights come from a state dict by name. Resizing is written as one matrix an axis.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]


def bilinear(old: int, new: int, corners: bool) -> Tensor:
    """[new, old] weights: neighbours by distance, the outermost ones repeated."""
    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        if corners:
            place = i * (old - 1) / (new - 1) if new > 1 else 0.0
        else:
            place = min(max((i + 0.5) * old / new - 0.5, 0.0), old - 1.0)
        low = min(int(place), old - 1)
        high = min(low + 1, old - 1)
        matrix[i, low] += 1 - (place - low)
        matrix[i, high] += place - low
    return matrix


def bicubic(old: int, new: int) -> Tensor:
    """[new, old] weights, antialiased: the cubic of -1/2, stretched where the new axis is shorter,
    over what there is, normalised."""
    scale = old / new
    stretch = max(scale, 1.0)

    def cubic(x: float) -> float:
        x, a = abs(x), -0.5
        if x < 1:
            return ((a + 2) * x - (a + 3)) * x * x + 1
        return a * (((x - 5) * x + 8) * x - 4) if x < 2 else 0.0

    matrix = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        centre = (i + 0.5) * scale
        for j in range(old):
            matrix[i, j] = cubic((j + 0.5 - centre) / stretch)
        matrix[i] /= matrix[i].sum()
    return matrix


def resize(x: Tensor, matrix: Tensor) -> Tensor:
    """[..., old, old] -> [..., new, new]"""
    return torch.einsum("ih,jw,...hw->...ij", matrix, matrix, x)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].flatten(1).T + state[f"{name}.bias"]


def norm(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def patches(state: State, name: str, x: Tensor, side: int) -> Tensor:
    """A convolution that does not overlap: [n, c, h, w] -> [n, h/side, w/side, d]."""
    cells = x.unfold(2, side, side).unfold(3, side, side)  # n c h w side side
    weight = state[f"{name}.weight"]
    found = torch.einsum("nchwab,dcab->nhwd", cells, weight)
    return found + state[f"{name}.bias"] if f"{name}.bias" in state else found


def depthwise(state: State, name: str, x: Tensor) -> Tensor:
    """7 x 7, one channel at a time, of [n, h, w, c]; zeros outside."""
    padded = F.pad(x, (0, 0, 3, 3, 3, 3))
    cells = padded.unfold(1, 7, 1).unfold(2, 7, 1)  # n h w c 7 7
    weight = state[f"{name}.weight"][:, 0]
    return torch.einsum("nhwcab,cab->nhwc", cells, weight) + state[f"{name}.bias"]


def convnext(state: State, prefix: str, pixels: Tensor, eps: float = 1e-6) -> list[Tensor]:
    """The maps [n, h, w, c] behind every stage."""
    x = patches(state, f"{prefix}.embeddings.patch_embeddings", pixels, 4)
    x = norm(state, f"{prefix}.embeddings.layernorm", x, eps)
    maps, stage = [], 0
    while any(key.startswith(f"{prefix}.encoder.stages.{stage}.") for key in state):
        here = f"{prefix}.encoder.stages.{stage}"
        if stage:
            x = norm(state, f"{here}.downsampling_layer.0", x, eps)
            x = patches(state, f"{here}.downsampling_layer.1", x.permute(0, 3, 1, 2), 2)
        block = 0
        while f"{here}.layers.{block}.dwconv.weight" in state:
            name = f"{here}.layers.{block}"
            y = norm(state, f"{name}.layernorm", depthwise(state, f"{name}.dwconv", x), eps)
            y = linear(state, f"{name}.pwconv2", gelu(linear(state, f"{name}.pwconv1", y)))
            x = x + state[f"{name}.layer_scale_parameter"] * y
            block += 1
        maps.append(x)
        stage += 1
    return maps


def clip_layer(state: State, name: str, x: Tensor, heads: int) -> Tensor:
    """One CLIP block on [n, t, d]: everybody sees everybody, quick-GELU."""
    h = norm(state, f"{name}.layer_norm1", x, 1e-5)
    n, t, d = h.shape
    q, k, v = (
        linear(state, f"{name}.self_attn.{p}_proj", h).view(n, t, heads, d // heads) for p in "qkv"
    )
    scores = torch.einsum("nthd,nshd->nhts", q, k) / math.sqrt(d // heads)
    mixed = torch.einsum("nhts,nshd->nthd", scores.softmax(-1), v).reshape(n, t, d)
    x = x + linear(state, f"{name}.self_attn.out_proj", mixed)
    h = linear(state, f"{name}.mlp.fc1", norm(state, f"{name}.layer_norm2", x, 1e-5))
    return x + linear(state, f"{name}.mlp.fc2", h * torch.sigmoid(1.702 * h))


def projector(state: State, x: Tensor) -> Tensor:
    name = "model.multi_modal_projector.linear_"
    return linear(state, name + "2", gelu(linear(state, name + "1", x)))


def llava_hr(model: Any, pixels: Tensor) -> Tensor:
    """Projected features [n, P, hidden] of LLaVA-HR."""
    state, config = model.state_dict(), model.config
    tower, sight = "model.vision_tower", config.vision_config
    slow = convnext(state, f"{tower}.slow", pixels)[-1]
    n, m = slow.shape[:2]
    side = sight.image_size // sight.patch_size
    seen = resize(pixels, bilinear(config.image_size, sight.image_size, corners=True))
    f = patches(state, f"{tower}.fast.embeddings.patch_embedding", seen, sight.patch_size)
    table = state[f"{tower}.fast.embeddings.position_embedding.weight"][1:]
    old = math.isqrt(len(table))
    if old != side:
        grid = table.view(old, old, -1).permute(2, 0, 1)
        table = resize(grid, bicubic(old, side)).permute(1, 2, 0).reshape(side * side, -1)
    f = norm(state, f"{tower}.fast.pre_layrnorm", f.reshape(n, side * side, -1) + table, 1e-5)
    d, quarter = f.shape[-1], sight.num_hidden_layers // 4

    def stretched(x: Tensor) -> Tensor:
        """[n, m, m, c] as tokens of the fast grid."""
        if m != side:
            x = resize(x.permute(0, 3, 1, 2), bilinear(m, side, corners=True)).permute(0, 2, 3, 1)
        return x.reshape(n, side * side, -1)

    for layer in range(sight.num_hidden_layers):
        f = clip_layer(state, f"{tower}.fast.encoder.layers.{layer}", f, sight.num_attention_heads)
        name = f"{tower}.adapters.{(layer + 1) // quarter - 1}"
        if (layer + 1) % quarter == 0 and f"{name}.slow_conv.weight" in state:
            a = stretched(
                linear(state, f"{name}.slow_proj", gelu(linear(state, f"{name}.slow_conv", slow)))
            )
            grid = f.view(n, side, side, d)
            near = gelu(depthwise(state, f"{name}.fast_conv", grid))
            f = f + linear(state, f"{name}.fast_proj", near).view(n, side * side, d)
            both = torch.cat([f, a], -1).mean(1)
            g = linear(state, f"{name}.gate.2", gelu(linear(state, f"{name}.gate.0", both)))
            f = f + g.tanh()[:, None] * a
    y = linear(state, f"{tower}.fusion.fast_proj", f)
    return projector(state, y + linear(state, f"{tower}.fusion.slow_proj", stretched(slow)))


def mini_gemini(model: Any, pixels: Tensor) -> Tensor:
    """Projected features [n, 5·P, hidden] of Mini-Gemini-HD: one view and one token at a time."""
    return torch.stack([_one_image(model, image[None]) for image in pixels])


def _one_image(model: Any, pixels: Tensor) -> Tensor:
    state, config = model.state_dict(), model.config
    sight, grid = config.vision_config, config.image_grid
    size, side = sight.image_size, sight.image_size // sight.patch_size
    large = resize(pixels, bilinear(config.image_size, grid * size, corners=False))[0]
    views = [resize(large, bilinear(grid * size, size, corners=False))]
    maps = [m[0].permute(2, 0, 1) for m in convnext(state, "model.vision_tower.slow", pixels)]
    high = maps[0].shape[-1]
    fine = torch.cat([resize(m, bilinear(m.shape[-1], high, corners=False)) for m in maps])
    piece = high // grid
    maps = [resize(fine, bilinear(high, piece, corners=False))]
    for r in range(grid):
        for c in range(grid):
            views.append(large[:, r * size : (r + 1) * size, c * size : (c + 1) * size])
            maps.append(fine[:, r * piece : (r + 1) * piece, c * piece : (c + 1) * piece])
    tokens = []
    for view, here in zip(views, maps, strict=True):
        states, m = _clip(state, view, sight, config.vision_feature_layer), piece // side
        for number, token in enumerate(states):
            r, c = divmod(number, side)
            inside = here[:, r * m : (r + 1) * m, c * m : (c + 1) * m].flatten(1).T  # [m², c]
            tokens.append(token + _mined(state, token, inside))
    return projector(state, torch.stack(tokens))


def _mined(state: State, token: Tensor, inside: Tensor) -> Tensor:
    def part(name: str, x: Tensor) -> Tensor:
        return linear(
            state,
            f"model.vision_tower.mining.{name}.1",
            norm(state, f"model.vision_tower.mining.{name}.0", x, 1e-5),
        )

    query, key, value = part("query", token), part("key", inside), part("value", inside)
    return (key @ query / math.sqrt(len(query))).softmax(0) @ value


def _clip(state: State, view: Tensor, sight: Any, layer: int) -> Tensor:
    """Patch states [P, d] behind CLIP's ``layer``, a negative number of hidden states."""
    tower = "model.vision_tower.fast"
    x = patches(state, f"{tower}.embeddings.patch_embedding", view[None], sight.patch_size)
    x = torch.cat([state[f"{tower}.embeddings.class_embedding"][None], x.flatten(0, 2)])
    x = x + state[f"{tower}.embeddings.position_embedding.weight"]
    x = norm(state, f"{tower}.pre_layrnorm", x, 1e-5)[None]
    for number in range(sight.num_hidden_layers + 1 + layer):
        x = clip_layer(state, f"{tower}.encoder.layers.{number}", x, sight.num_attention_heads)
    return x[0, 1:]
