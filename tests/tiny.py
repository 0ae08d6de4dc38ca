"""Tiny random LLaVA models and inputs, built in memory in well under a second."""

from __future__ import annotations

from typing import Any

import torch

from harness.common.torchvision_ops import declare_missing_ops

declare_missing_ops()

from transformers import (  # noqa: E402
    CLIPVisionConfig,
    GemmaConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    SiglipVisionConfig,
)

VOCAB = 64
BOS, EOS, PAD, IMAGE = 1, 2, 0, 60
PATCH = 4


def text_config(kind: str = "llama", layers: int = 4, width: int = 16, **extra: Any) -> Any:
    """Config of a decoder with grouped-query attention (4 query heads, 2 key heads)."""
    known = {"llama": LlamaConfig, "qwen2": Qwen2Config, "mistral": MistralConfig}
    cls = (known | {"qwen3": Qwen3Config, "gemma": GemmaConfig})[kind]
    if kind == "mistral":
        extra.setdefault("sliding_window", None)
    if kind in ("qwen3", "gemma"):  # their heads are as wide as they say
        extra.setdefault("head_dim", width // 2)
    return cls(
        vocab_size=VOCAB,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        **extra,
    )


def vision_config(
    side: int = 4, width: int = 16, layers: int = 3, kind: str = "clip", **extra: Any
) -> Any:
    """Config of a CLIP or SigLIP tower that makes side x side patches of 4 pixels."""
    cls: Any = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}[kind]
    return cls(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        image_size=side * PATCH,
        patch_size=PATCH,
        **extra,
    )


def _finish(model: Any, seed: int, dtype: torch.dtype, scale: float) -> Any:
    """Redraw all weights from the seed, wide enough that layers and attention matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1 or "embedding" in name or "newline" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = EOS
    return model.to(dtype).eval()


def tiny_llava(
    text: str = "llama",
    layers: int = 4,
    side: int = 4,
    width: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attn: str = "sdpa",
    scale: float = 0.3,
    tower: str = "clip",
    select: str = "",
    **extra: Any,
) -> Any:
    """A random ``LlavaForConditionalGeneration`` with side*side image tokens an image.

    ``select``: the feature select strategy; by default what leaves patches alone.
    """
    config = LlavaConfig(
        vision_config=vision_config(side, kind=tower),
        vision_feature_layer=-2 if tower == "clip" else -1,
        vision_feature_select_strategy=select or ("default" if tower == "clip" else "full"),
        text_config=text_config(text, layers, width, **extra),
        image_token_index=IMAGE,
        image_seq_length=side * side,
        attn_implementation=attn,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attn)
    return _finish(model, seed, dtype, scale)


def tiny_llava_next(
    text: str = "llama",
    layers: int = 4,
    side: int = 4,
    width: int = 16,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    attn: str = "sdpa",
    scale: float = 0.3,
    tower: str = "clip",
    **extra: Any,
) -> Any:
    """A random ``LlavaNextForConditionalGeneration``: base crop, tiles, newlines, unpadding."""
    pixels = side * PATCH
    shapes = ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))
    config = LlavaNextConfig(
        vision_config=vision_config(side, kind=tower),
        vision_feature_layer=-2 if tower == "clip" else -1,
        vision_feature_select_strategy="default" if tower == "clip" else "full",
        text_config=text_config(text, layers, width, **extra),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[h * pixels, w * pixels] for h, w in shapes],
        image_seq_length=side * side,
        attn_implementation=attn,
    )
    model = LlavaNextForConditionalGeneration._from_config(config, attn_implementation=attn)
    return _finish(model, seed, dtype, scale)


def next_tokens(model: Any, size: tuple[int, int]) -> int:
    """Image tokens LLaVA-NeXT makes of an image of (height, width) pixels."""
    pixels = torch.zeros(1, 5, 3, *[model.config.vision_config.image_size] * 2)
    pixels = pixels.to(model.dtype)
    with torch.no_grad():
        out = model.model.get_image_features(pixels, torch.tensor([size]), return_dict=True)
    return int(out.pooler_output[0].shape[0])


def batch(
    model: Any,
    rows: list[tuple[int, list[int], int]],
    seed: int = 0,
    padding: str = "left",
    sizes: list[tuple[int, int]] | None = None,
) -> dict[str, torch.Tensor]:
    """Inputs for ``generate``: one row per (text before, image token counts, text after).

    ``sizes`` (LLaVA-NeXT): (height, width) of each image, in order over all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    dtype, side = model.dtype, model.config.vision_config.image_size
    sequences = []
    for before, images, after in rows:
        ids = [BOS, *_words(before - 1, generator)]
        for count in images:
            ids += [IMAGE] * count
        sequences.append(ids + _words(after, generator))
    width = max(map(len, sequences))
    ids, mask = [], []
    for row in sequences:
        gap = [PAD] * (width - len(row))
        ids.append(gap + row if padding == "left" else row + gap)
        on, off = [1] * len(row), [0] * len(gap)
        mask.append(off + on if padding == "left" else on + off)
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    n_images = sum(len(images) for _, images, _ in rows)
    if n_images and sizes is not None:
        shape = (n_images, 5, 3, side, side)
        inputs["pixel_values"] = torch.randn(shape, generator=generator).to(dtype)
        inputs["image_sizes"] = torch.tensor(sizes)
    elif n_images:
        shape = (n_images, 3, side, side)
        inputs["pixel_values"] = torch.randn(shape, generator=generator).to(dtype)
    return inputs


def row(inputs: dict[str, torch.Tensor], i: int, images: list[int]) -> dict[str, torch.Tensor]:
    """Row ``i`` alone, without padding; ``images`` are its indices in the image tensors."""
    mask = inputs["attention_mask"][i].bool()
    single = {
        "input_ids": inputs["input_ids"][i][mask][None],
        "attention_mask": inputs["attention_mask"][i][mask][None],
    }
    for key in ("pixel_values", "image_sizes"):
        if key in inputs and images:
            single[key] = inputs[key][images]
    return single


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, IMAGE - 2, (count,), generator=generator).tolist()
