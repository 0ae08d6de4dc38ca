"""LLaVA-HR (arXiv 2403.03003) on transformers' CLIP, ConvNeXt and Llama.

Written from the paper's section 3 (mixture-of-resolution adaptation) and the published code, which
is followed where they differ. One tensor of ``image_size`` pixels a side goes in; a ConvNeXt sees
it whole, a CLIP tower sees it resized and takes the ConvNeXt's last map in between its layers.
Imports torch: asked for only when a model is built.
"""

import copy
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlavaConfig
from transformers import initialization as init
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from harness.families.two_towers import SLOW_L
from harness.families.two_towers_model import (
    TwoTowerForConditionalGeneration,
    TwoTowerModel,
    convnext,
    resized,
    stages,
)


@strict
class LlavaHrConfig(LlavaConfig):
    """A LLaVA config and the second tower's.

    ``image_size``: pixels a side of what the processor makes; ``position_size``: pixels a side that
    the CLIP tower's positions were learnt for; ``adapters``: whether the adapters exist (they do
    not where training left the towers alone). ``vision_config.image_size`` is what CLIP sees.
    """

    model_type = "llava_hr"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        **LlavaConfig.sub_configs_defaults,
        "slow_config": SubConfigSpec(AutoConfig, "convnext", init_kwargs=dict(SLOW_L)),
    }

    slow_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    image_size: int = 1024
    position_size: int = 336
    vision_feature_layer: int | list[int] = -1
    adapters: bool = True


class Adapter(nn.Module):
    """Mixture-of-resolution adapter: the slow map, gated by one number an image, into CLIP tokens.

    The gate sees the adapted fast tokens first, then the slow ones, each averaged over the image.
    New adapters add nothing: the two last convolutions begin at zero.
    """

    def __init__(self, fast: int, slow: int) -> None:
        super().__init__()
        self.slow_conv = nn.Conv2d(slow, slow, 1)
        self.slow_proj = nn.Conv2d(slow, fast, 1)
        self.fast_conv = nn.Conv2d(fast, fast, 7, padding=3, groups=fast)
        self.fast_proj = nn.Conv2d(fast, fast, 1)
        self.slow_conv.start = self.fast_conv.start = "xavier_uniform_"
        self.slow_proj.start = self.fast_proj.start = "zeros_"
        self.gate = nn.Sequential(
            nn.Linear(2 * fast, fast // 2), nn.GELU(), nn.Linear(fast // 2, 1)
        )

    def forward(self, tokens: Tensor, slow: Tensor) -> Tensor:
        """Tokens [n, P, d] of a square grid and the map [n, s, side, side] -> tokens."""
        side = _side(tokens)
        added = self.slow_proj(nn.functional.gelu(self.slow_conv(slow)))
        added = _tokens(_fitted(added, side))
        fast = tokens.transpose(1, 2).unflatten(2, (side, side))
        fast = fast + self.fast_proj(nn.functional.gelu(self.fast_conv(fast)))
        tokens = _tokens(fast)
        gate = self.gate(torch.cat([tokens, added], dim=-1).mean(dim=1)).tanh()
        return tokens + gate.unsqueeze(1) * added


class Fusion(nn.Module):
    """Both towers' states, each through a linear layer, summed."""

    def __init__(self, fast: int, slow: int) -> None:
        super().__init__()
        self.fast_proj = nn.Linear(fast, fast)
        self.slow_proj = nn.Linear(slow, fast)

    def forward(self, tokens: Tensor, slow: Tensor) -> Tensor:
        """Tokens [n, P, d] and the map [n, s, side, side] -> [n, P, d]."""
        slow = _tokens(_fitted(slow, _side(tokens)))
        return self.fast_proj(tokens) + self.slow_proj(slow)  # type: ignore[no-any-return]


class Tower(nn.Module):
    """Both towers: pixels [n, 3, p, p] -> states [n, P, d] of the CLIP tower's grid.

    All CLIP layers run, whatever layer a config names. Its class token is left out before layer 0:
    the published code adds and drops it there, which is the same.
    """

    def __init__(self, config: LlavaHrConfig) -> None:
        super().__init__()
        sight: Any = copy.deepcopy(config.vision_config)
        self.seen, sight.image_size = sight.image_size, config.position_size
        self.fast = AutoModel.from_config(sight, trust_remote_code=False)
        self.slow = convnext(config.slow_config)
        slow: Any = config.slow_config
        widths = sight.hidden_size, slow.hidden_sizes[-1]
        self.adapters = nn.ModuleList(Adapter(*widths) for _ in range(3 if config.adapters else 0))
        self.fusion = Fusion(*widths)

    def forward(self, pixel_values: Tensor) -> Tensor:
        layers = self.fast.encoder.layers
        slow = stages(self.slow, pixel_values)[-1]
        tokens = self._embedded(pixel_values)
        # The published code asks for layers in fours; other depths put the adapters nearest below.
        places = {len(layers) * (i + 1) // 4: one for i, one in enumerate(self.adapters)}
        for number, layer in enumerate(layers):
            if number in places:
                tokens = places[number](tokens, slow)
            tokens = layer(tokens, attention_mask=None)
        return self.fusion(tokens, slow)  # type: ignore[no-any-return]

    def _embedded(self, pixels: Tensor) -> Tensor:
        """Patches of the resized pixels with their positions, normalised [n, P, d]."""
        seen = resized(pixels, self.seen, mode="bilinear", align_corners=True)
        patches = _tokens(self.fast.embeddings.patch_embedding(seen))
        table = self.fast.embeddings.position_embedding.weight[1:].unsqueeze(0)
        if table.shape[1] != patches.shape[1]:
            grid = table.transpose(1, 2).unflatten(2, (_side(table), _side(table)))
            grid = resized(grid, _side(patches), mode="bicubic", antialias=True)
            table = _tokens(grid)
        return self.fast.pre_layrnorm(patches + table)  # type: ignore[no-any-return]


class LlavaHrModel(TwoTowerModel):
    """Both towers, the projector and the decoder."""

    config: LlavaHrConfig
    tower_class = Tower

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if hasattr(module, "start"):  # asked of modules with weights of their own alone
            getattr(init, module.start)(module.weight)


class LlavaHrForConditionalGeneration(TwoTowerForConditionalGeneration):
    """`model_type` llava_hr: LLaVA's model around both towers."""

    config: LlavaHrConfig
    inner_class = LlavaHrModel


def _side(tokens: Tensor) -> int:
    """Tokens [n, P, d] of a square grid: its side."""
    return int(tokens.shape[1] ** 0.5)


def _tokens(grid: Tensor) -> Tensor:
    """[n, d, side, side] -> [n, P, d]."""
    return grid.flatten(2).transpose(1, 2)


def _fitted(grid: Tensor, side: int) -> Tensor:
    """A map [n, s, side', side'] on another grid: averaged down or interpolated up."""
    own = grid.shape[-1]
    if own > side:
        return nn.functional.avg_pool2d(grid, own // side)
    if own < side:
        return resized(grid, side, mode="bilinear", align_corners=True)
    return grid
