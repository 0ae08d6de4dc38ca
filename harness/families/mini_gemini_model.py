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
from transformers import (
    AutoConfig,
    AutoModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
    LlavaPreTrainedModel,
)
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from harness.families.convnext_model import convnext, resized, stages
from harness.families.llava_hr_model import check_call
from harness.families.two_towers import SLOW_L


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


class MiniGeminiHdModel(LlavaModel):
    """CLIP tower, fine tower, mining, the projector and the decoder."""

    config: MiniGeminiHdConfig

    def __init__(self, config: MiniGeminiHdConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        sight: Any = config.vision_config
        slow: Any = config.slow_config
        self.vision_tower = AutoModel.from_config(sight)
        self.fine_tower = convnext(slow)
        self.mining = Mining(sight.hidden_size, sum(slow.hidden_sizes))
        self.multi_modal_projector = LlavaMultiModalProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        """An output whose ``pooler_output`` lists [(1 + g²)·P, hidden] an image.

        Pixels [n, 3, p, p]. Tokens: the whole image's raster, then that of each crop, crops row by
        row. Raises ValueError for pixels of another size, and for readings that it does not give.
        """
        check_call(pixel_values, self.config.image_size, kwargs)
        pixels, grid = pixel_values.to(self.dtype), self.config.image_grid
        tokens = self._tower_states(self._views(pixels))
        fine = self._fine(pixels)
        side = fine.shape[-1] // grid
        whole = resized(fine, side, mode="bilinear", align_corners=False).unsqueeze(1)
        fine = torch.cat([whole, _cut(fine, grid)], dim=1)  # like the views
        # One image at a time: keys and values of an image are larger than all else.
        tokens = tokens.unflatten(0, fine.shape[:2])
        added = torch.stack([self.mining(t, f) for t, f in zip(tokens, fine, strict=True)])
        states = (tokens + added).flatten(0, 1)
        features = self.multi_modal_projector(states).unflatten(0, fine.shape[:2]).flatten(1, 2)
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=list(features))

    def _views(self, pixels: Tensor) -> Tensor:
        """What CLIP sees: of every image the whole, then the crops [n·(1 + g²), 3, s, s]."""
        sight: Any = self.config.vision_config
        side, grid, how = sight.image_size, self.config.image_grid, {"mode": "bilinear"}
        large = resized(pixels, grid * side, align_corners=False, **how)
        whole = resized(large, side, align_corners=False, **how)
        return torch.cat([whole.unsqueeze(1), _cut(large, grid)], dim=1).flatten(0, 1)

    def _tower_states(self, views: Tensor) -> Tensor:
        """Patches [views, P, d] of the CLIP layer that the config names."""
        layer = self.config.vision_feature_layer
        out = self.vision_tower(views, output_hidden_states=[layer])
        return out.hidden_states[layer][:, 1:]  # type: ignore[no-any-return]

    def _fine(self, pixels: Tensor) -> Tensor:
        """All stages of the fine tower, at the first one's size, as one map [n, c, h, h]."""
        maps = stages(self.fine_tower, pixels)
        side = maps[0].shape[-1]
        same = [resized(x, side, mode="bilinear", align_corners=False) for x in maps[1:]]
        return torch.cat([maps[0], *same], dim=1)


class MiniGeminiHdForConditionalGeneration(LlavaForConditionalGeneration):
    """`model_type` mini_gemini_hd: LLaVA's model around both towers."""

    config: MiniGeminiHdConfig
    _no_split_modules: ClassVar[list[str]] = ["ConvNextModel", "Mining"]

    def __init__(self, config: MiniGeminiHdConfig) -> None:
        LlavaPreTrainedModel.__init__(self, config)
        self.model = MiniGeminiHdModel(config)
        text: Any = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()


def _cut(grid: Tensor, pieces: int) -> Tensor:
    """[n, c, h, h] -> [n, pieces², c, h/pieces, h/pieces], row by row."""
    high, wide = grid.shape[-2] // pieces, grid.shape[-1] // pieces
    cut = grid.unflatten(3, (pieces, wide)).unflatten(2, (pieces, high))  # [n, c, p, h, p, w]
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
