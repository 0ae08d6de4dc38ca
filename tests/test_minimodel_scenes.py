"""Labels, choice and drills of the training scenes, and a projector fitted to another tower."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from harness.minimodel.align import Refit, projected
from harness.minimodel.labels import ALPHABET, GLYPHS, MEAN, STD, DenseScenes, Vocabulary
from harness.minimodel.scenes import IGNORE, Scenes, drills

WORD = {"kind": "word", "label": "abc", "box": [16, 32, 46, 48], "attrs": {}}
WORD["chars"] = [[16, 24], [24, 40], [40, 46]]


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    """Four 64-px scenes, families a, b, a, b; one word on row 2 of the patches."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.integers(0, 255, (4, 64, 64, 3), dtype=np.uint8))
    with open(tmp_path / "scenes.jsonl", "w", encoding="utf-8") as out:
        for i in range(4):
            out.write(json.dumps({"family": "ab"[i % 2], "boxes": [WORD], "qa": []}) + "\n")
    return Scenes(tmp_path)


def drawn(item: dict[str, torch.Tensor]) -> dict[tuple[int, int], str]:
    """Row and column of every labelled patch -> its characters, "_" for a gap."""
    glyph = item["glyph"].reshape(4, 4, GLYPHS)
    return {
        (row, col): "".join(ALPHABET[c - 1] if c > 0 else "_" for c in glyph[row, col].tolist())
        for row in range(4)
        for col in range(4)
        if (glyph[row, col] != IGNORE).all()
    }


def test_a_patch_is_labelled_with_the_characters_drawn_on_it(scenes):
    """Places stand at 4 and 12 px of a patch: x = 20, 28, 36, 44 over a 16-24, b -40, c -46."""
    item = DenseScenes(scenes, Vocabulary.of(scenes, least=1), 16)[0]
    assert drawn(item) == {(2, 1): "ab", (2, 2): "bc"}


def test_a_shifted_scene_moves_pixels_and_labels_together(scenes):
    vocabulary = Vocabulary.of(scenes, least=1)
    still, moving = (DenseScenes(scenes, vocabulary, 16, shift, 1) for shift in (0, 6))
    seen = set()
    for seed in range(20):
        dx, dy = np.random.default_rng(seed).integers(-6, 7, 2)
        moving.rng = np.random.default_rng(seed)
        item = moving[0]
        inner = item["pixel_values"][:, 6 + dy : 58 + dy, 6 + dx : 58 + dx]
        assert torch.equal(inner, still[0]["pixel_values"][:, 6:58, 6:58])
        for (_, col), text in drawn(item).items():
            for place, letter in enumerate(text):
                x = col * 16 + 4 + 8 * place - dx
                expected = [c for c, (a, b) in zip("abc", WORD["chars"], strict=True) if a <= x < b]
                assert letter == (expected[0] if expected else "_")
                seen.add(letter)
    assert {"a", "b", "c"} <= seen
    raw = (scenes.images[0].astype(np.float32) / 255 - MEAN) / STD
    np.testing.assert_allclose(
        still[0]["pixel_values"].numpy(), raw.transpose(2, 0, 1), rtol=1e-5, atol=1e-5
    )


def test_families_are_shown_as_often_as_asked(scenes):
    assert scenes.pick(4, {}, 0) == [0, 1, 2, 3]
    assert scenes.pick(4, {"a": 2}, 0) == [0, 0, 2, 2]
    assert scenes.pick(3, {"a": 1, "b": 1}, 0) == [0, 1, 2]
    often = [len(scenes.pick(4, {"b": 0.5}, seed)) for seed in range(200)]
    assert 0.8 < np.mean(often) < 1.2


def test_a_drill_names_the_right_option_and_keeps_the_letter():
    prompt = "Which fruit?\nA. pear\nB. They are apples.\nAnswer with the option's letter."
    other = {"bench": "gqa", "prompt": "What?\nBriefly.", "answer": "pear"}
    (drill,) = drills([other, {"bench": "scienceqa", "prompt": prompt, "answer": "B"}])
    assert drill["answer"] == "B"
    assert drill["prompt"] == prompt.replace("Which fruit?", "Which option is They are apples?")
    assert drills([other]) == []


def test_refitting_brings_a_rotated_tower_to_where_the_old_one_was():
    """A new tower that only rotates the old features is undone by a linear projector."""
    torch.manual_seed(0)
    old, new = nn.Linear(6, 5), nn.Linear(6, 5)
    features = torch.randn(8, 10, 6)
    turned = features @ torch.linalg.qr(torch.randn(6, 6))[0]
    target = torch.from_numpy(projected(old, features.half().numpy()).astype(np.float32))
    model = Refit(new, float(target.var()))
    optimizer = torch.optim.Adam(new.parameters(), lr=3e-2)
    losses = []
    for _ in range(400):
        loss = model(turned, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5 and losses[-1] < 1e-3
