"""Mini-Gemini-HD (arXiv 2403.18814) on transformers' CLIP, ConvNeXt and Llama.

Written from the paper's section 3.2 (patch information mining) and the published code, which is
followed where they differ. One tensor of ``image_size`` pixels a side goes in. A ConvNeXt sees it
whole. CLIP sees it resized: once as a whole and once cut into ``image_grid`` x ``image_grid``
crops. The published code makes CLIP's pixels in the processor, in single precision; here the model
does, from pixels in its own dtype. Imports torch: asked for only when a model is built.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, LlavaConfig
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
class MiniGeminiHdConfig(LlavaConfig):
    """A LLaVA config, the second tower's, and how an image is cut.

    ``image_size``: pixels a side of what the processor makes; ``image_grid``: crops a side.
    """

    model_type = "mini_gemini_hd"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        **LlavaConfig.sub_configs_defaults,
        "slow_config": SubConfigSpec(AutoConfig, "convnext", init_kwargs=dict(SLOW_L)),
    }

    slow_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    image_size: int = 1536
    image_grid: int = 2


class Mining(nn.Module):
    """Patch information mining: each CLIP token asks the fine map's positions inside its patch."""

    def __init__(self, fast: int, fine: int) -> None:
        super().__init__()
        self.query = nn.Sequential(nn.LayerNorm(fast), nn.Linear(fast, fast))
        self.key = nn.Sequential(nn.LayerNorm(fine), nn.Linear(fine, fast))
        self.value = nn.Sequential(nn.LayerNorm(fine), nn.Linear(fine, fast))

    def forward(self, tokens: Tensor, fine: Tensor) -> Tensor:
        """Tokens [n, P, d] of a square grid and its map [n, c, h, h] -> what to add [n, P, d].

        One head, scores over the square root of d; m x m positions stand in a patch.
        """
        patches = _cut(fine, int(tokens.shape[1] ** 0.5)).flatten(3).transpose(2, 3)  # [n,P,m²,c]
        query = self.query(tokens).unsqueeze(2)
        return mined(query, self.key(patches), self.value(patches)).squeeze(2)


def mined(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[n, P, 1, d] queries on the m² keys and values [n, P, m², d] of their own patch.

    The published code also turns scores that are no number into 0; here they stay what they are.
    """
    scores = query @ (key.transpose(2, 3) / key.shape[-1] ** 0.5)
    return scores.softmax(dim=-1) @ value


class Tower(nn.Module):
    """Both towers and the mining: pixels [n, 3, p, p] -> states [n, (1 + g²)·P, d].

    Tokens: the whole image's raster, then that of each crop, crops row by row.
    """

    def __init__(self, config: MiniGeminiHdConfig) -> None:
        super().__init__()
        sight: Any = config.vision_config
        slow: Any = config.slow_config
        self.seen, self.grid, self.layer = (
            sight.image_size, config.image_grid, config.vision_feature_layer,
        )  # fmt: skip
        self.fast = AutoModel.from_config(sight, trust_remote_code=False)
        self.slow = convnext(slow)
        self.mining = Mining(sight.hidden_size, sum(slow.hidden_sizes))

    def forward(self, pixel_values: Tensor) -> Tensor:
        tokens = self._tokens(self._views(pixel_values))
        fine = self._fine(pixel_values)
        side = fine.shape[-1] // self.grid
        whole = resized(fine, side, mode="bilinear", align_corners=False).unsqueeze(1)
        fine = torch.cat([whole, _cut(fine, self.grid)], dim=1)  # in the order of the views
        tokens = tokens.unflatten(0, fine.shape[:2])
        # One image at a time: its keys and values are larger than all else.
        added = torch.stack([self.mining(t, f) for t, f in zip(tokens, fine, strict=True)])
        return (tokens + added).flatten(1, 2)

    def _views(self, pixels: Tensor) -> Tensor:
        """What CLIP sees: of every image the whole, then the crops [n·(1 + g²), 3, s, s]."""
        how: dict[str, Any] = {"mode": "bilinear", "align_corners": False}
        large = resized(pixels, self.grid * self.seen, **how)
        whole = resized(large, self.seen, **how)
        return torch.cat([whole.unsqueeze(1), _cut(large, self.grid)], dim=1).flatten(0, 1)

    def _tokens(self, views: Tensor) -> Tensor:
        """Patches [views, P, d] behind the CLIP layer that the config names."""
        out = self.fast(views, output_hidden_states=[self.layer])
        return out.hidden_states[self.layer][:, 1:]  # type: ignore[no-any-return]

    def _fine(self, pixels: Tensor) -> Tensor:
        """All stages of the ConvNeXt, at the first one's size, as one map [n, c, h, h]."""
        maps = stages(self.slow, pixels)
        side = maps[0].shape[-1]
        same = [resized(x, side, mode="bilinear", align_corners=False) for x in maps[1:]]
        return torch.cat([maps[0], *same], dim=1)


class MiniGeminiHdModel(TwoTowerModel):
    """Both towers, the projector and the decoder."""

    config: MiniGeminiHdConfig
    tower_class = Tower


class MiniGeminiHdForConditionalGeneration(TwoTowerForConditionalGeneration):
    """`model_type` mini_gemini_hd: LLaVA's model around both towers."""

    config: MiniGeminiHdConfig
    inner_class = MiniGeminiHdModel


def _cut(grid: Tensor, pieces: int) -> Tensor:
    """[n, c, h, h] -> [n, pieces², c, h/pieces, h/pieces], row by row."""
    high, wide = grid.shape[-2] // pieces, grid.shape[-1] // pieces
    cut = grid.unflatten(3, (pieces, wide)).unflatten(2, (pieces, high))  # [n, c, p, h, p, w]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
