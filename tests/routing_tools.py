"""Shared by the engine tests: random routers, forced decoding, and the naive reference's input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.engine import find_parts, model_info
from methods.base import Method
from tests import naive
from tests.tiny import EOS, IMAGE, PAD

# One row of each kind: plain, text only, two adjacent images, another length.
ROWS = [(3, [16], 4), (2, [], 5), (2, [16, 16], 2), (5, [16], 7)]
IMAGES = [[0], [], [1, 2], [3]]

# Every method once, with settings that matter on a tiny random model.
ALL = ["dense", "blind", "random", "uniform", "pool", "fastv", "llavolta", "pmod", "mod"]
ALL += ["gamma:threshold=0.5"]
GREEDY = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [EOS, PAD, IMAGE]}


def generate(model: Any, inputs: dict[str, Tensor], **extra: Any) -> Any:
    """Greedy generation of five tokens that never stops early."""
    return model.generate(**inputs, **GREEDY, **extra)


def random_modules(method: Method, model: Any, seed: int = 1, scale: float = 0.3) -> Any:
    """The method's own modules with random weights, or None if it has none."""
    modules = method.build_modules(model_info(model))
    if modules is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in modules.parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return modules.to(model.dtype)


def exact_norms(model: Any) -> Any:
    """Let a float64 model normalise in float64.

    The library normalises in single precision, where a difference in the last bit of a double now
    and then becomes one in the last bit of a single. Without that, results agree to 1e-9.
    """
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):

            def forward(x: Tensor, module: Any = module) -> Tensor:
                scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
                return module.weight * (x * scale)

            module.forward = forward
    return model


def forced(model: Any, inputs: dict[str, Tensor], answer: Tensor) -> Tensor:
    """Logits [B, t + 1, V] of prefill and t cached steps that are fed ``answer`` [B, t]."""
    out = model(**inputs, use_cache=True)
    logits, mask = [out.logits[:, -1]], inputs["attention_mask"]
    # The positions generate would pass: padding does not count.
    position = mask.sum(1, keepdim=True)
    if position.min() == mask.shape[1]:
        assert out.past_key_values.get_seq_length() == mask.shape[1]
    for step in range(answer.shape[1]):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        out = model(
            input_ids=answer[:, step : step + 1],
            attention_mask=mask,
            position_ids=position + step,
            past_key_values=out.past_key_values,
            use_cache=True,
        )
        logits.append(out.logits[:, -1])
    return torch.stack(logits, dim=1)


def with_positions(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs with the position ids ``generate`` would make from the mask."""
    mask = inputs["attention_mask"]
    return inputs | {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


def naive_sample(
    model: Any,
    single: dict[str, Tensor],
    answer: Tensor,
    name: str,
    grids: list[list[tuple[int, int, bool]]] | None = None,
) -> naive.Sample:
    """One unpadded row as the reference takes it."""
    features: list[Tensor] = []
    if "pixel_values" in single:
        extra = {k: single[k] for k in ("image_sizes",) if k in single}
        with torch.no_grad():
            out = model.model.get_image_features(single["pixel_values"], return_dict=True, **extra)
        features = list(out.pooler_output)
    if grids is None:
        side = model.config.vision_config.image_size // model.config.vision_config.patch_size
        grids = [[(side, side, False)] for _ in features]
    ids = single["input_ids"][0].tolist()
    return naive.Sample(ids, answer.tolist(), features, IMAGE, grids, name)


def naive_params(method: Method, depth: int) -> dict[str, Any]:
    """All parameters of a method, its schedule spelled out, for the reference."""
    values = method.params()
    info = None
    if method.name == "pmod":
        from methods.pmod import _NORMS

        scale, bias = _NORMS[method.norm]
        return {
            "ratios": method.ratios(depth),
            "norm": method.norm,
            "scale": scale if method.scale is None else method.scale,
            "bias": bias if method.bias is None else method.bias,
            "string": method.string,
            "weight_on": method.weight_on,
            "rank": method.rank,
        }
    if method.name in ("gamma", "mod"):
        from methods.placement import parse_layers

        values["routed"] = parse_layers(method.name, values.pop("layers"), depth)
        values.pop("aux", None)
    assert info is None
    for budget in ("tokens", "ratio", "kv"):  # the reference knows the methods' own parameters
        if budget in values and values[budget] is None:
            del values[budget]
    return values


def depth_of(model: Any) -> int:
    return len(find_parts(model).layers)
