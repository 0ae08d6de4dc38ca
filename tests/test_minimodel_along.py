"""A tower tuned along with the decoder, by the trainer that the recipes use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import TrainingArguments

from harness.minimodel.labels import DenseScenes, Vocabulary
from harness.minimodel.packing import PackedScenes, Packer
from harness.minimodel.rates import RateTrainer
from harness.minimodel.scenes import Scenes, caption
from harness.minimodel.tokenizer import train_tokenizer
from harness.minimodel.tower import DenseTower
from harness.minimodel.tune import TuneModel
from tests.tiny import tiny_llava

ASKED = "USER: <image>\nWhat color is the cat? ASSISTANT: red</s>"


def scenes(folder: Path, side: int) -> Scenes:
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 255, (2, side, side, 3), dtype=np.uint8))
    box = {"kind": "object", "label": "cat", "box": [0, 0, side, side], "attrs": {"color": "red"}}
    qa = [{"bench": "gqa", "prompt": "What color is the cat?", "answer": "red"}]
    line = json.dumps({"scene_id": "0", "boxes": [box], "qa": qa})
    (folder / "scenes.jsonl").write_text(f"{line}\n" * 2, encoding="utf-8")
    return Scenes(folder)


def test_a_step_of_the_trainer_moves_decoder_and_tower(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([ASKED] * 8, 500)
    llava = tiny_llava(scale=0.1)
    llava.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    llava.config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    sight = llava.config.vision_config
    found = scenes(tmp_path, sight.image_size)
    vocabulary = Vocabulary.of(found, least=1)
    dense = DenseTower(llava.model.vision_tower, vocabulary)
    data = PackedScenes(
        found, DenseScenes(found, vocabulary, sight.patch_size), tokenizer, range(2)
    )
    image = (llava.config.image_token_id, llava.config.image_seq_length)
    packer = Packer(data.prefix, image, tokenizer.pad_token_id, 64, 0)
    args = TrainingArguments(
        output_dir=str(tmp_path / "run"), max_steps=1, use_cpu=True, report_to=[],
        remove_unused_columns=False, learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    model = TuneModel(llava, dense=dense, dense_weight=0.5)
    before = {name: value.clone() for name, value in model.named_parameters()}
    RateTrainer(model, args, train_dataset=data, data_collator=packer).train()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    for part in ("language_model.layers.0.mlp", "vision_tower", "heads.kind"):
        assert any(part in name for name in moved), part


def test_a_caption_names_line_by_line_and_bars_from_left_to_right() -> None:
    def box(label: str, place: list[int], **attrs: object) -> dict:
        return {"label": label, "box": place, "attrs": attrs}

    receipt = [
        box("10", [80, 42, 95, 52]),
        box("milk", [5, 40, 40, 53]),
        box("eggs", [5, 62, 40, 75]),
        box("20", [80, 63, 95, 75]),
    ]
    assert caption(receipt) == "milk, 10, eggs, 20"
    bars = [
        box("Fiat", [60, 20, 70, 100], color="red", value=9),
        box("Dodge", [20, 80, 30, 100], color="blue", value=2),
        box("5", [0, 50, 8, 60], role="tick"),
    ]
    assert caption(bars) == "blue Dodge 2, red Fiat 9"
