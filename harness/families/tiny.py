"""Tiny random LLaVA models in memory, for checking methods without any weights or network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.common.torchvision_ops import declare_missing_ops
from methods.vocabulary import ClipSizes

VOCAB, BOS, WORD, IMAGE = 64, 1, 3, 60
PATCH, SIDE, WIDTH, LAYERS = 4, 4, 16, 6


def build(
    any_resolution: bool = False,
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float64,
    layers: int = LAYERS,
) -> Any:
    """A LLaVA (or LLaVA-NeXT) model with random weights, the same ones every time."""
    declare_missing_ops()
    import transformers as t

    text = t.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        pad_token_id=0,
    )
    vision = t.CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE * PATCH,
        patch_size=PATCH,
    )
    # Biases and one-row embeddings keep what the library draws, from a generator of this call.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _drawn(text, vision, any_resolution, attn)
    randomise(model)
    model.generation_config.pad_token_id = 0
    return model.to(dtype).eval()


def _drawn(text: Any, vision: Any, any_resolution: bool, attn: str) -> Any:
    import transformers as t

    common = {"vision_config": vision, "text_config": text, "image_token_index": IMAGE}
    if any_resolution:
        grids = [[SIDE * PATCH * h, SIDE * PATCH * w] for h, w in ((1, 2), (2, 1), (2, 2))]
        config: Any = t.LlavaNextConfig(**common, image_grid_pinpoints=grids)
        model: Any = t.LlavaNextForConditionalGeneration._from_config(
            config, attn_implementation=attn
        )
    else:
        model = t.LlavaForConditionalGeneration._from_config(
            t.LlavaConfig(**common), attn_implementation=attn
        )
    return model


def randomise(module: torch.nn.Module, scale: float = 0.3, seed: int = 0) -> torch.nn.Module:
    """Redraw all matrices, wide enough that every part of the model matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in module.parameters():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return module


class Clip:
    """Stands in for a CLIP model (``methods.base.Clip``): another direction for every text.

    Its projections multiply by one, so that its work counts as that of a model without layers.
    ``sizes`` are those to be counted instead, where the model stands in for a larger one.
    """

    def patches(self, states: Tensor) -> Tensor:
        return states @ self.one

    def frame(self, states: Tensor) -> Tensor:
        return self.patches(states[:1])[0]

    def text(self, texts: list[str]) -> list[Tensor]:
        made = []
        for text in texts:
            draw = torch.Generator().manual_seed(len(text))
            found = torch.randn(1, len(self.one), generator=draw, dtype=self.one.dtype)
            made.append(found @ self.one)
        return made

    def __init__(self, model: Any, *sizes: ClipSizes | None) -> None:
        width = int(model.config.vision_config.hidden_size)
        self.one = torch.eye(width, dtype=model.dtype)
        self.sizes = sizes[0] if sizes else ClipSizes(0, width, width, width, 0)


def words(texts: list[str], add_special_tokens: bool = False) -> dict[str, list[list[int]]]:
    """Stands in for a tokenizer: one token a word."""
    ids = [[WORD + sum(map(ord, word)) % (IMAGE - WORD) for word in t.split()] for t in texts]
    return {"input_ids": ids}


def questions(ids: Tensor) -> list[str]:
    """A question for each row of prompt ids [B, n], another one for other ids."""
    asked = (
        "What colour has the cat of number {}?\nAnswer the question using a single word or phrase."
    )
    return [asked.format(int(row.sum())) for row in ids]


# Rows of the test batch: (text before, image token counts, text after).
ROWS: list[tuple[int, list[int], int]] = [
    (3, [16], 4),
    (2, [], 5),
    (2, [16, 16], 2),
    (5, [16], 7),
]
# The same for methods that take images as the frames of a video.
FRAMES: list[tuple[int, list[int], int]] = [
    (3, [16] * 5, 4),
    (2, [], 5),
    (2, [16] * 6, 2),
    (5, [16] * 5, 7),
]


def inputs_of(model: Any, rows: list[tuple[int, list[int], int]], seed: int = 0) -> dict[str, Any]:
    """A left-padded batch for ``generate``; one pixel tensor an image, in order."""
    generator = torch.Generator().manual_seed(seed)
    sequences = []
    for before, images, after in rows:
        words = torch.randint(WORD, IMAGE, (before - 1 + after,), generator=generator).tolist()
        pictures = [IMAGE] * sum(images)
        sequences.append([BOS, *words[: before - 1], *pictures, *words[before - 1 :]])
    width = max(map(len, sequences))
    inputs: dict[str, Tensor] = {
        "input_ids": torch.tensor([[0] * (width - len(s)) + s for s in sequences]),
        "attention_mask": torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in sequences]),
    }
    count = sum(len(images) for _, images, _ in rows)
    if count:
        shape = (count, 3, SIDE * PATCH, SIDE * PATCH)
        inputs["pixel_values"] = torch.randn(shape, generator=generator).to(model.dtype)
    return inputs


def any_resolution_inputs(model: Any, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """One LLaVA-NeXT prompt with images of these (height, width) sizes."""
    generator = torch.Generator().manual_seed(0)
    side = SIDE * PATCH
    pixels = torch.randn((len(sizes), 5, 3, side, side), generator=generator).to(model.dtype)
    with torch.no_grad():
        out = model.model.get_image_features(pixels, torch.tensor(sizes), return_dict=True)
    count = sum(int(f.shape[0]) for f in out.pooler_output)
    ids = torch.tensor([[BOS, 7, *[IMAGE] * count, 9, 11, 13]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "image_sizes": torch.tensor(sizes),
    }
