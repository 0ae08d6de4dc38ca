"""A tiny LLaVA folder, conversation data with images, and recipes for the instruct tests."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from PIL import Image

from harness.minimodel.tokenizer import CHAT_TEMPLATE, train_tokenizer
from harness.train.assemble import GRIDS
from harness.train.recipe import InstructRecipe

SIDE, PATCH = 16, 4  # pixels of the tower's input and of a patch: 16 image tokens
WORDS = ["red", "blue", "cat", "dog", "tree", "house", "two", "three", "left", "right"]
MEAN = [0.48, 0.46, 0.41]


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    texts = [f"USER: What is the {a}? ASSISTANT: {b} {a}</s>" for a in WORDS for b in WORDS]
    return train_tokenizer(texts, 500)


def processor(any_resolution: bool = False) -> Any:
    common = {
        "tokenizer": tokenizer(),
        "patch_size": PATCH,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "chat_template": CHAT_TEMPLATE,
    }
    sizes = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": MEAN,
    }
    if any_resolution:
        grids = [[SIDE * h, SIDE * w] for h, w in GRIDS]
        image: Any = t.LlavaNextImageProcessor(**sizes, image_grid_pinpoints=grids)
        return t.LlavaNextProcessor(image_processor=image, **common)
    return t.LlavaProcessor(image_processor=t.CLIPImageProcessor(**sizes), **common)


def text_config(layers: int = 4, vocabulary: int | None = None) -> Any:
    return t.LlamaConfig(
        vocab_size=vocabulary or len(tokenizer()),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )


def vision_config() -> Any:
    return t.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
    )


def model_folder(folder: Path, any_resolution: bool = False, layers: int = 4) -> Path:
    """A random LLaVA (or LLaVA-NeXT) with its processor, as `--model` takes it."""
    torch.manual_seed(0)
    common = {
        "vision_config": vision_config(),
        "text_config": text_config(layers),
        "image_token_index": tokenizer().convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
        "tie_word_embeddings": False,
    }
    if any_resolution:
        grids = [[SIDE * h, SIDE * w] for h, w in GRIDS]
        model: Any = t.LlavaNextForConditionalGeneration(
            t.LlavaNextConfig(**common, image_grid_pinpoints=grids)
        )
    else:
        model = t.LlavaForConditionalGeneration(t.LlavaConfig(**common))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.2)
    model.save_pretrained(folder)
    processor(any_resolution).save_pretrained(folder)
    return folder


def image(path: Path, width: int = 20, height: int = 14, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    return path


def row(number: int, with_image: bool, turns: int = 1) -> dict[str, Any]:
    """A good row; text length and wording follow from its number."""
    talk = []
    for turn in range(turns):
        a, b = WORDS[(number + turn) % 10], WORDS[(3 * number + 1) % 10]
        question = f"What is the {a}?" + " And the dog?" * (number % 4)
        if with_image and turn == 0:
            question = f"<image>\n{question}"
        talk += [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"{b} {a}" + " tree" * (number % 3)},
        ]
    entry: dict[str, Any] = {"id": f"r{number}", "conversations": talk}
    return {**entry, "image": f"a/{number}.png"} if with_image else entry


def data(folder: Path, images: int = 10, texts: int = 6) -> dict[str, str]:
    """Rows with their images on disk; the `data` and `images` fields of a recipe."""
    rows = [row(i, i < images, 1 + i % 2) for i in range(images + texts)]
    for i in range(images):
        image(folder / "images" / f"a/{i}.png", 12 + 3 * i, 24, seed=i)
    path = write(folder / "data.json", rows)
    return {"data": str(path), "images": str(folder / "images")}


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    else:
        path.write_text(json.dumps(rows), encoding="utf-8")
    return path


SMALL: dict[str, Any] = {
    "stage": "instruct",
    "batch": 2,
    "learning_rate": 5e-3,
    "warmup": 0.0,
    "bf16": False,
    "tf32": False,
    "workers": 0,
    "save_steps": 2,
    "max_length": 256,
    "seed": 3,
}


def recipe(**values: Any) -> InstructRecipe:
    return InstructRecipe.load(Path("test.yaml"), {**SMALL, **values})
