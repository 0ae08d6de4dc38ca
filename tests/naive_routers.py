"""The trained methods on the naive reference: p-MoD, MoD and gamma-MoD, written a second time."""

from __future__ import annotations

import torch

from tests.naive import Naive


def pmod(naive: Naive, ratios: list[float], norm: str, scale: float, bias: float, string: bool,
         weight_on: str, rank: str) -> None:  # fmt: skip
    image = naive.sample.image
    for layer, ratio in enumerate(ratios):
        if ratio == 1 or not image:
            naive.run_layer(layer)
            continue
        raw = naive.modules[str(layer)](naive.x)[:, 0]
        value = raw.clone()
        if norm == "tanh":
            value = torch.tanh(raw)
        elif norm == "sigmoid":
            value = 1 / (1 + torch.exp(-raw))
        elif norm in ("softmax", "shifted_softmax"):
            value[image] = torch.softmax(raw[image], 0)
        w = scale * value + bias
        k = int(torch.tensor(len(image), dtype=torch.int32) * ratio)  # a float32 product
        chosen = naive.best(raw if rank == "raw" else w, image, k)
        active = naive.alive.clone()
        active[image] = False
        active[chosen] = True
        only_image = torch.ones_like(w)
        only_image[image] = w[image]
        skip = only_image if string else None
        naive.run_layer(layer, active, None, only_image, weight_on, skip)


def mod(naive: Naive, routed: list[bool], capacity: float, weight: str, offset: float, scope: str,
        shared: bool, router_input: str, positions: str) -> None:  # fmt: skip
    image = naive.sample.image
    for layer, routes in enumerate(routed):
        if not routes or not image:
            naive.run_layer(layer)
            continue
        states = naive.x
        if router_input == "normed":
            states = naive.norm(naive.text.layers[layer].input_layernorm, naive.x)
        raw = naive.modules["router" if shared else str(layer)](states)[:, 0]
        chosen = naive.best(raw, image, int(torch.tensor(len(image)) * capacity))
        w = torch.ones_like(raw)
        if weight == "raw":
            w[chosen] = raw[chosen] + offset
        elif weight == "sigmoid":
            w[chosen] = 1 / (1 + torch.exp(-raw[chosen]))
        elif weight == "tanh":
            w[chosen] = 1 + 0.2 * torch.tanh(raw[chosen])
        else:
            w[chosen] = torch.softmax(raw[chosen], 0)
        active = naive.alive.clone()
        active[image] = False
        active[chosen] = True
        position = naive.ranks(active) if positions == "compact" else None
        naive.run_layer(layer, active, position, w, scope)


def gamma(naive: Naive, routed: list[bool], ratio: float, mask: str, threshold: float,
          decode_threshold: float, rule: str, shared: bool, positions: str,
          weight_on: str) -> None:  # fmt: skip
    sample = naive.sample
    head = sample.image[-1] + 1 if sample.image else 0
    for layer, routes in enumerate(routed):
        if not routes:
            naive.run_layer(layer)
            continue
        states = naive.norm(naive.text.layers[layer].input_layernorm, naive.x)
        p = torch.softmax(naive.modules["router" if shared else str(layer)](states), -1)[:, 1]
        active = p > threshold
        active[sample.prompt :] = p[sample.prompt :] >= decode_threshold
        asked = list(sample.asked)
        active[asked] = p[asked] > threshold
        if rule == "topk":
            free = list(range(sample.prompt)) if mask == "none" else list(range(head))
            if mask != "none" and sample.image:
                free = [i for i in free if i <= sample.image[0] or i in sample.image]
            order = naive.best(p, free, len(free))
            active[:] = True
            skipped = int(head * ratio)
            active[order[len(order) - skipped :]] = False
        position = naive.ranks(active) if positions == "compact" else None
        naive.run_layer(layer, active, position, p, weight_on)


ROUTERS = {"pmod": pmod, "mod": mod, "gamma": gamma}
