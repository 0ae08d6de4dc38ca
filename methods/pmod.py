"""p-MoD: progressive-ratio Mixture-of-Depths for LLaVA (Zhang et al. 2024, arXiv 2412.04449).

Each routed layer has a linear predictor (with bias) on the raw residual stream. It keeps the
k = floor(N * R_l) image tokens of the sample with the highest normalised weight; text is always
processed and never scaled. Defaults follow the released code at its released settings.

Where this differs from the released code
  schedule      cos(pi * l / (L-1)) for any depth; the code writes 31 (``denominator=31``), which
                is the same at 32 layers.
  ties          stable descending order, lowest index wins; text never takes an image token's
                place. The code leaves ties to the device, and saturated weights tie with text.
                ``rank=raw`` ranks by the predictor's output, which half precision ties less often
                than the normalised weight (``weight``, the code's).
  batches       padded and unequal batches give the single-row answers; the code is batch 1.
  layer 0       may route (beta=0.3); the code crashes there.
Where the paper differs from its code
  weight_on     ``layer_output``: the paper scales the whole output of a selected token; the code
                scales its MLP branch (the default here).
  string        ``false``: skipped tokens pass unscaled (paper Table 3, first rows).
Normalisers (paper Table 6), w = scale * f(r) + bias: ``tanh`` 0.2, 1; ``sigmoid`` 1, 1;
  ``softmax`` 1, 0 and ``shifted_softmax`` 1, 1, both over the image tokens; ``none`` 1, 1 (the code
  adds its bias there too; ``bias=0`` is the paper's plain MoD).
Schedules without published numbers: ``stepped`` uses ``steps`` on equal parts of the depth;
  ``constant`` and ``interleaved`` default to the ratio that gives the cosine schedule's mean.
Budget: ``kv`` is the wanted mean over layers of the kept share of image tokens. It replaces
  ``beta`` (cosine, linear) or ``ratio`` (constant, interleaved); the weights must have been trained
  at that budget, since other layers may route.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from methods.base import Method, ModelInfo, Ranking, Route, Scope, Tokens, param, top_k_mask
from methods.budget import rounded_up

if TYPE_CHECKING:
    from torch import Tensor, nn

_NORMS = {
    "tanh": (0.2, 1.0),
    "softmax": (1.0, 0.0),
    "shifted_softmax": (1.0, 1.0),
    "sigmoid": (1.0, 1.0),
    "none": (1.0, 1.0),
}


@dataclass(frozen=True)
class PMoD(Method):
    """See the module docstring; ``span`` chooses the layers of the constant schedule."""

    name: ClassVar[str] = "pmod"
    trained: ClassVar[bool] = True
    neutral: ClassVar[dict[str, Any] | None] = {"schedule": "stepped", "steps": (1.0,)}

    schedule: Literal["cosine", "linear", "constant", "interleaved", "stepped"] = param(
        "cosine", "how the share kept falls with depth"
    )
    beta: float = param(0.5, "added to the cosine or linear curve, which falls from 0.5 to -0.5")
    max: float = param(0.85, "a share above it becomes 1: the layer does not route")
    min: float = param(0.15, "lowest share kept")
    denominator: int | None = param(
        None, "of the curve: layer / denominator (none: the last layer's number)"
    )
    ratio: float | None = param(
        None,
        "share kept in routed layers of constant and interleaved (none: gives the cosine's mean)",
    )
    span: Literal["deep", "deep_last", "all"] = param(
        "deep", "layers the constant schedule routes: 2 to L-2, 2 to L-1, or all"
    )
    steps: tuple[float, ...] = param(
        (1.0, 0.65, 0.35, 0.15), "shares kept in equal parts of the depth (schedule=stepped)"
    )
    norm: Literal["tanh", "softmax", "shifted_softmax", "sigmoid", "none"] = param(
        "tanh", "normaliser of the predictor's output"
    )
    scale: float | None = param(None, "factor of the normalised weight (none: the normaliser's)")
    bias: float | None = param(None, "added to the weight (none: the normaliser's)")
    string: bool = param(True, "skipped image tokens are scaled by their weight too")
    weight_on: Scope = param("mlp_branch", "what the weight scales")
    rank: Literal["weight", "raw"] = param(
        "weight", "tokens are ranked by the normalised weight, or by the predictor's output"
    )
    kv: float | None = param(
        None, "budget: mean over layers of the share of image tokens kept; replaces beta or ratio"
    )

    def __post_init__(self) -> None:
        self.require(0 <= self.min <= self.max <= 1, "need 0 <= min <= max <= 1")
        self.require(-0.5 <= self.beta <= 1.5, f"beta={self.beta} is outside -0.5..1.5")
        self.require(self.ratio is None or 0 <= self.ratio <= 1, "ratio must lie in 0..1")
        good = self.denominator is None or self.denominator >= 1
        self.require(good, "denominator must be a positive whole number")
        self.require(all(0 <= s <= 1 for s in self.steps), "every step must lie in 0..1")
        if self.kv is not None:
            self.require(0 <= self.kv <= 1, f"kv={self.kv} is outside 0..1")
            self.require(self.ratio is None, "ratio and kv exclude each other: give one")
            self.require(self.schedule != "stepped", "steps make a budget: kv has no meaning")

    # --- schedule ---------------------------------------------------------------------------
    def ratios(self, depth: int) -> tuple[float, ...]:
        """Share of image tokens kept by each layer; 1.0 is a plain layer without predictor."""
        return _schedule(self, depth)

    def _ratios(self, depth: int) -> list[float]:
        if self.schedule in ("cosine", "linear"):
            return self._decay(depth, self.schedule == "cosine", self.beta, self.kv)
        if self.schedule == "stepped":
            parts = len(self.steps)
            return [self.steps[i * parts // depth] for i in range(depth)]
        first, last = {"deep": (2, depth - 2), "deep_last": (2, depth - 1), "all": (0, depth - 1)}[
            self.span
        ]
        if self.schedule == "interleaved":
            routed = [i % 2 == 1 for i in range(depth)]
        else:
            routed = [first <= i <= last for i in range(depth)]
        ratio = self._same_mean(routed, depth) if self.ratio is None else self.ratio
        return [ratio if r else 1.0 for r in routed]

    def _decay(self, depth: int, cosine: bool, beta: float, kv: float | None = None) -> list[float]:
        span = self.denominator or max(depth - 1, 1)
        if kv is not None:
            return self._solved(depth, cosine, kv)
        result = []
        for i in range(depth):
            raw = 0.5 * math.cos(math.pi * i / span) if cosine else 0.5 - i / span
            raw += beta
            result.append(1.0 if raw > self.max else max(raw, self.min))
        return result

    def _solved(self, depth: int, cosine: bool, kv: float) -> list[float]:
        """The schedule whose mean is ``kv``: beta by bisection.

        The mean jumps where a layer's ratio passes ``max`` and becomes 1; a budget inside the jump
        gives that layer what is left over.
        """
        least = f"every layer keeps min={self.min}, so the smallest is kv={self.min}"
        way = f"min={kv} would reach {kv}"
        self.require(kv >= self.min, f"kv={kv} cannot be met: {least}; {way}")
        low, high = -1.0, 2.0
        for _ in range(60):
            middle = (low + high) / 2
            fits = sum(self._decay(depth, cosine, middle)) <= kv * depth
            low, high = (middle, high) if fits else (low, middle)
        result = self._decay(depth, cosine, low)
        routed = [i for i, ratio in enumerate(result) if ratio < 1]
        if routed:
            best = max(routed, key=lambda i: result[i])
            result[best] = min(1.0, result[best] + kv * depth - sum(result))
        return result

    def _same_mean(self, routed: list[bool], depth: int) -> float:
        mean = sum(self._decay(depth, True, self.beta)) if self.kv is None else self.kv * depth
        want = mean - (depth - sum(routed))
        self.require(any(routed), f"the {self.schedule} schedule routes none of {depth} layers")
        ratio = want / sum(routed)
        need = f"schedule={self.schedule} needs ratio=... at {depth} layers"
        if self.kv is not None:
            full = depth - sum(routed)
            least = f"{full} of {depth} layers keep everything, so the smallest is "
            least += f"kv={rounded_up(full / depth):g}"
            way = f"schedule=constant with span=all would reach {self.kv}"
            need = f"kv={self.kv} cannot be met: {least}; {way}"
        self.require(0 <= ratio <= 1, need)
        return ratio

    def check(self, info: ModelInfo) -> None:
        self.ratios(info.layers)

    def mod_layers(self, info: ModelInfo) -> list[bool]:
        return [r < 1 for r in self.ratios(info.layers)]

    def request(self, info: ModelInfo, n: int) -> list[int]:
        return [self._count(n, ratio) for ratio in self.ratios(info.layers)]

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> list[int]:
        return [n_text + n for n in self.request(info, n_image)]

    @staticmethod
    def _count(n: int, ratio: float) -> int:
        # The float32 product is part of the rule: in float64 some counts differ by one.
        return int(np.float32(n) * np.float32(ratio))

    # --- parameters and decisions -----------------------------------------------------------
    def build_modules(self, info: ModelInfo) -> nn.Module:
        """One Linear(d, 1) per routed layer, named by layer index, all zero (every weight 1)."""
        from torch import nn

        modules = nn.ModuleDict()
        for i, routed in enumerate(self.mod_layers(info)):
            if routed:
                modules[str(i)] = nn.Linear(info.width, 1)
                nn.init.zeros_(modules[str(i)].weight)
                nn.init.zeros_(modules[str(i)].bias)
        return modules

    def module_parameters(self, info: ModelInfo) -> int:
        return sum(self.mod_layers(info)) * (info.width + 1)

    def weights(self, raw: Tensor, image: Tensor) -> Tensor:
        """Normalised weights [B, m] of predictor outputs [B, m]; softmax runs over the image."""
        if self.norm in ("softmax", "shifted_softmax"):
            # A row without image must not be all -inf; its weights are never used.
            raw = raw.masked_fill(~image & image.any(dim=1, keepdim=True), float("-inf"))
            value = raw.softmax(dim=1)
        else:
            value = {"tanh": raw.tanh, "sigmoid": raw.sigmoid, "none": raw.clone}[self.norm]()
        scale, bias = _NORMS[self.norm]
        scale = scale if self.scale is None else self.scale
        return scale * value + (bias if self.bias is None else self.bias)

    def layer(self, layer: int, seq: Tokens) -> Route | None:
        ratio = self.ratios(seq.info.layers)[layer]
        if ratio >= 1 or not any(seq.image_counts):
            return None
        assert seq.modules is not None
        image = seq.image
        raw = seq.modules[str(layer)](seq.hidden).squeeze(-1)  # type: ignore[index]
        weight = self.weights(raw, image)
        counts = [self._count(n, ratio) for n in seq.image_counts]
        score = raw if self.rank == "raw" else weight
        keep = top_k_mask(score, image, counts)
        weight = weight.masked_fill(~image, 1.0)
        return Route(
            keep=keep | (seq.valid & ~image),
            counts=[
                c - n + k for c, n, k in zip(seq.counts, seq.image_counts, counts, strict=True)
            ],
            weight=weight,
            scope=self.weight_on,
            skip_scale=weight if self.string else None,
            ranked=Ranking(score),
        )


@lru_cache(maxsize=256)
def _schedule(method: PMoD, depth: int) -> tuple[float, ...]:
    """The schedule is asked for in every layer of every prompt."""
    return tuple(method._ratios(depth))
