"""Sizes of a LLaVA-family model: all that the closed-form ledger needs, without weights.

Torch-free. Sizes come from a `config.json` (or a loaded model's config as a dict); what a config
leaves out has the library defaults of its types (`harness.families.config`), and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.roots import DATA
from harness.cost.towers import CONVNEXT_L, llava_hr_flops
from harness.families.config import CLASS_TOKENS, completed, read_config
from harness.families.trust import refuse_keys

CLIP_L_336: dict[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}


@dataclass(frozen=True)
class VisionShape:
    """A CLIP-type tower; `layers` is how many execute (all of them, whatever layer is read).

    `head`: SigLIP's attention pooling, which executes behind the layers though nothing reads it.
    """

    layers: int
    hidden: int
    ffn: int
    image_size: int
    patch: int
    heads: int
    channels: int = 3
    class_tokens: int = 1  # beside the patches; 0 where the class token is dropped before layer 0
    kind: str = "clip_vision_model"
    head: bool = False

    @property
    def patches(self) -> int:
        """Patch tokens of one crop; class tokens come on top."""
        return (self.image_size // self.patch) ** 2


@dataclass(frozen=True)
class ModelShape:
    """Decoder, tower and projector sizes; `projector_in` is the width the projector reads.

    `image_tokens` is the fixed number of an image's tokens where neither crops nor `tiles` tell
    it (0: they do). `second_tower` are the FLOPs an image costs beside the CLIP-type tower and
    the projector, None where they are not known, so that no vision line can be given.
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    vision: VisionShape
    projector_in: int
    tiles: tuple[tuple[int, int], ...] = ()  # any-resolution grids (height, width) in pixels
    image_tokens: int = 0
    second_tower: float | None = 0.0

    @property
    def attention_width(self) -> int:
        """Query heads times head size: the width of scores and values."""
        return self.heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights a token meets in one decoder layer: q, k, v, o and three FFN matrices."""
        kv_width = self.kv_heads * self.head_dim
        attention = 2 * self.hidden * self.attention_width + 2 * self.hidden * kv_width
        return attention + 3 * self.hidden * self.ffn

    @property
    def projector_weights(self) -> int:
        """Weights a token meets in the two-layer projector."""
        return self.projector_in * self.hidden + self.hidden * self.hidden

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.hidden * self.vocab

    def kv_bytes_per_entry(self, itemsize: int) -> int:
        """Bytes of one token in one layer's cache: keys and values of all KV heads."""
        return 2 * self.kv_heads * self.head_dim * itemsize


def shape_from_config(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape behind a LLaVA-type config (dict form).

    Raises UsageError for what `harness.families.config.completed` refuses: other families,
    decoders and towers, and sizes that are nowhere.
    """
    only = ONLY.get(str(config.get("model_type")), {})
    full = completed({**config, "model_type": "llava"} if only else config, name)
    text, sight = full["text_config"], full["vision_config"]
    feature_layers = full["vision_feature_layer"]
    read = len(feature_layers) if isinstance(feature_layers, (list, tuple)) else 1
    tower = VisionShape(
        layers=sight["num_hidden_layers"],
        hidden=sight["hidden_size"],
        ffn=sight["intermediate_size"],
        image_size=sight["image_size"],
        patch=sight["patch_size"],
        heads=sight["num_attention_heads"],
        channels=sight["num_channels"],
        class_tokens=only.get("class_tokens", CLASS_TOKENS[sight["model_type"]]),
        kind=sight["model_type"],
        head=bool(sight.get("vision_use_head", False)),
    )
    tiles = full["image_grid_pinpoints"] if full["model_type"] == "llava_next" else ()
    return ModelShape(
        name=name,
        layers=text["num_hidden_layers"],
        hidden=text["hidden_size"],
        ffn=text["intermediate_size"],
        heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=text["head_dim"],
        vocab=text["vocab_size"],
        vision=tower,
        projector_in=tower.hidden * read,
        tiles=tuple((high, wide) for high, wide in tiles),
        image_tokens=only.get("image_tokens", 0),
        second_tower=only.get("second_tower", 0.0),
    )


def _llava(
    text: Mapping[str, int], grids: list[list[int]] | None = None, vocab: int = 32064
) -> dict[str, Any]:
    """A config of the converted checkpoints: CLIP-L/14-336, vocabulary padded to 32,064 rows."""
    config: dict[str, Any] = {
        "model_type": "llava_next" if grids else "llava",
        "text_config": {"model_type": "llama", **text, "vocab_size": vocab},
        "vision_config": CLIP_L_336,
    }
    return {**config, "image_grid_pinpoints": grids} if grids else config


_13B = {
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
# Models this harness cannot load: sizes only, for the ledger. LLaVA-HR shows its CLIP tower 448
# pixels (32 x 32 patches, class token dropped, all 24 layers run) beside a ConvNeXt at 1024;
# Mini-Gemini-HD has five CLIP crops and a ConvNeXt at 1536 whose patch mining nobody has counted.
ONLY: dict[str, dict[str, Any]] = {
    "llava_hr": {
        "class_tokens": 0,
        "image_tokens": 1024,
        "second_tower": llava_hr_flops(1024, *CONVNEXT_L),
    },
    "mini_gemini_hd": {"image_tokens": 2880, "second_tower": None},
}
_HR = {"model_type": "llava_hr", "vision_config": {**CLIP_L_336, "image_size": 448}}
_NEXT_GRIDS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
KNOWN: dict[str, dict[str, Any]] = {
    "llava-hf/llava-1.5-7b-hf": _llava({}),
    "llava-hf/llava-1.5-13b-hf": _llava(_13B),
    "llava-hf/llava-v1.6-vicuna-7b-hf": _llava({}, _NEXT_GRIDS),
    "llava-hf/llava-v1.6-vicuna-13b-hf": _llava(_13B, _NEXT_GRIDS),
    "llava-hr-7b": {**_llava({}, vocab=32000), **_HR},
    "llava-hr-13b": {**_llava(_13B, vocab=32000), **_HR},
    "mini-gemini-hd-7b": {**_llava({}, vocab=32000), "model_type": "mini_gemini_hd"},
}
SIZES_ONLY = {
    "llava-hr-7b": "LLaVA-HR, Vicuna 7B, 1024 image tokens",
    "llava-hr-13b": "LLaVA-HR, Vicuna 13B, 1024 image tokens",
    "mini-gemini-hd-7b": "Mini-Gemini-HD, Vicuna 7B, 2880 image tokens",
}


def config_for(model: str) -> dict[str, Any]:
    """The config of a known model, a local folder, or the shipped model, without weights.

    Raises UsageError naming what would work.
    """
    if model in KNOWN:
        return KNOWN[model]
    folder = Path(model)
    if not folder.is_dir():
        folder = DATA / "assets" / model
    if not (folder / "config.json").is_file():
        known = ", ".join(["tiny-llava", *KNOWN])
        raise UsageError(
            f"--model: the sizes of '{model}' are not known: give a local folder with its "
            f"config.json, or one of {known}"
        )
    config = read_config(folder)
    refuse_keys(config, str(folder / "config.json"))  # random weights are built from it
    return config


def shape_of(model: str) -> ModelShape:
    """`shape_from_config(config_for(model))` under the model's own name."""
    return shape_from_config(config_for(model), model)
