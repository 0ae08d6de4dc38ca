"""Training at several sizes: batches, pictures, boxes and questions of scaled scenes and pages."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.fitting.fit import Stop, fit
from harness.minimodel.canvas import Canvas, RawScenes
from harness.minimodel.card import history, write_card
from harness.minimodel.labels import Vocabulary
from harness.minimodel.log import about_data, progress
from harness.minimodel.parts import parts_of
from harness.minimodel.rates import RateTrainer, arguments
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import IGNORE, Scenes
from harness.minimodel.sizes import SizedBatches, read_scenes, read_sizes
from minidata import sources
from minidata.__main__ import main
from tests.fixtures.drawing import made_up_pack
from tests.test_minidata_hd import derived as derived_large

TUNE = Recipe.load(ROOT / "recipes" / "tiny-qwen" / "tune.yaml")
SIZES = sorted(set(read_sizes([*TUNE.sizes, *TUNE.pages], None, 16)))
PATCH = 8


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 scenes of 192 px and five of each large page, with made-up material."""
    folder: Path = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        pack = made_up_pack()
        patch.setattr(sources, "download", lambda cache: {})
        patch.setattr(sources, "load", lambda cache: pack)
        words = ["train", "--out", str(folder), "--n", "60", "--hd", "0.5", "--workers", "1"]
        assert main(words) == 0
    return folder


@pytest.fixture(scope="module")
def scenes(drawn: Path) -> Scenes:
    return read_scenes(TUNE, drawn)


def test_the_recipe_has_few_sizes_of_several_shapes() -> None:
    assert len(SIZES) <= 4 and len({high / wide for high, wide in SIZES}) >= 3


def test_only_the_pages_of_the_recipe_are_read_and_the_rest_is_said(
    drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_scenes(TUNE, drawn)
    assert {size: len(part) for size, part in found.parts.items()} == {
        (192, 192): 30,
        (384, 576): 5,
        (576, 384): 5,
    }
    assert "384x384, 512x768, 576x576, 768x512 are left out" in capsys.readouterr().err
    alone = drawn / "384x384"  # a folder without pages
    assert len(read_scenes(TUNE, alone)) == 5
    assert "no large pages of 384x576, 576x384 there" in capsys.readouterr().err
    assert json.loads((drawn / "drawn.json").read_text()) == {
        "n": 60,
        "seed": 1,
        "rounds": 1,
        "hd": 0.5,
    }


def test_batches_have_one_size_and_the_recipes_shares(scenes: Scenes) -> None:
    rows, held = scenes.split(4, {}, 0)
    assert not set(rows) & set(held) and len(rows) + len(held) == len(scenes)
    assert {scenes.size(i) for i in held} == set(scenes.parts)  # each size is measured
    batches = SizedBatches(scenes, rows, 6, {"384x576": 0.25, "576x384": 0.25}, 3)
    seen: Counter[tuple[int, int]] = Counter()
    shown: list[int] = []
    for epoch in range(200):
        batches.set_epoch(epoch)
        first = list(batches)
        assert first == list(batches) and len(first) == len(batches)
        for batch in first:
            (size,) = {scenes.size(rows[i]) for i in batch}
            assert len(batch) == (6 if size == (192, 192) else 1)  # 36,864 and 221,184 pixels
            assert len(set(batch)) == len(batch)
            seen[size] += 1
            shown += batch
    assert set(shown) == set(range(len(rows)))
    for size, share in (((192, 192), 0.5), ((384, 576), 0.25), ((576, 384), 0.25)):
        assert seen[size] / seen.total() == pytest.approx(share, abs=0.04)


class Seen(nn.Module):
    """A model of one weight that notes what it is fed with."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.fed = nn.Parameter(torch.ones(1)), []

    def forward(self, items: torch.Tensor) -> dict[str, torch.Tensor]:
        self.fed.append(items.tolist())
        return {"loss": (self.weight * items.float()).mean()}


def test_a_training_that_resumes_goes_on_with_the_same_batches_and_draws(
    scenes: Scenes, tmp_path: Path
) -> None:
    def trained(folder: Path, until: int) -> list[list[list[int]]]:
        recipe = Recipe("tune", max_steps=6, save_steps=2, bf16=False, until=until)
        args = arguments(recipe, folder)
        args.disable_tqdm = True
        model = Seen()
        data: Any = list(range(len(scenes)))
        trainer = RateTrainer(model, args, train_dataset=data, data_collator=Drawing())
        pages = {"384x576": 0.3, "576x384": 0.3}
        trainer.batches = SizedBatches(scenes, range(len(scenes)), 16, pages, 1)
        trainer.add_callback(Stop(until))
        fit(trainer)
        return model.fed

    whole = trained(tmp_path / "whole", 6)
    assert len(whole) == 6 and len({len(batch) for batch in whole}) == 2
    assert all(len({scenes.size(i) for i, _ in batch}) == 1 for batch in whole)
    assert trained(tmp_path / "part", 4) == whole[:4]
    assert trained(tmp_path / "part", 6) == whole[4:]


class Drawing:
    """A collator with a generator of its own, as what packs questions has: [items, draws]."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)

    def __call__(self, items: list[int]) -> dict[str, torch.Tensor]:
        draws = self.rng.integers(0, 1_000_000, len(items))
        return {"items": torch.tensor([[i, int(u)] for i, u in zip(items, draws, strict=True)])}


@pytest.mark.parametrize("size", SIZES)
def test_questions_boxes_and_pictures_hold_at_every_size(
    scenes: Scenes, size: tuple[int, int]
) -> None:
    """Boxes are scaled here by hand; answers, labels of tokens and pixels must be found by them."""
    large = size in scenes.parts and size != scenes.own
    own = size if large else scenes.own
    up, across = size[0] / own[0], size[1] / own[1]
    vocabulary = Vocabulary.of(scenes, least=1)
    canvas = Canvas([size], PATCH, vocabulary, 0, pages=[size] if large else [])
    raw, answered, labelled = RawScenes(scenes.parts[own]), 0, 0
    for i, record in enumerate(scenes.parts[own].records):
        boxes = []
        for box in record["boxes"]:
            x0, y0, x1, y1 = box["box"]
            boxes.append({**box, "box": [x0 * across, y0 * up, x1 * across, y1 * up]})
        for qa in record["qa"]:
            question = qa["prompt"].split("\n")[0]
            row = {"boxes": json.dumps(boxes), "question": question, "template": qa["template"]}
            row |= {"image_width": size[1], "image_height": size[0]}
            hard = not large and qa["template"] in ("beside", "below_word")  # in pixels of a page
            if record["family"] != "objects" and not hard:
                again = derived_large(row)
                assert again in (None, qa["answer"]), question
                answered += again is not None
        batch = canvas([raw[i]])
        assert batch["image_grid_thw"].tolist() == [[1, size[0] // PATCH, size[1] // PATCH]]
        labelled += _labels_agree(boxes, batch["kind"][0], size, vocabulary)
        picture = Image.fromarray(np.asarray(raw[i]["image"]))
        if own != size:
            picture = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        seen = Canvas([picture.size[::-1]], PATCH, None, 0)([{"image": np.asarray(picture)}])
        assert (seen["pixel_values"] == batch["pixel_values"]).all()
    assert answered > 10 and labelled > 30


def _labels_agree(boxes: list[Any], kind: Any, size: Any, vocabulary: Vocabulary) -> int:
    """How many tokens that lie in one box alone were compared with its class."""
    token, compared = 2 * PATCH, 0
    grid = kind.view(size[0] // token, size[1] // token)
    for row in range(grid.shape[0]):
        for col in range(grid.shape[1]):
            x, y = col * token, row * token
            near = [
                b
                for b in boxes
                if b["box"][0] < x + token and b["box"][2] > x
                if b["box"][1] < y + token and b["box"][3] > y
            ]
            if len(near) == 1:
                x0, y0, x1, y1 = near[0]["box"]
                if x0 <= x and y0 <= y and x1 >= x + token and y1 >= y + token:
                    label, number = near[0]["label"], int(grid[row, col])
                    if number == IGNORE:  # on pages alone, so it has no class
                        assert label not in vocabulary.kinds
                        continue
                    assert number > 0
                    name = vocabulary.kinds[number - 1]
                    assert name in (label, f"'{label.lower()}'", "<mark>", "<word>")
                    compared += 1
            elif not near:
                assert grid[row, col] == 0
    return compared


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pages": {"384x576": 1.5}}, "shares of the batches"),
        ({"pages": {"384": 0.1}}, "expected HEIGHTxWIDTH"),
        ({"first": 3}, "first and pages"),
        ({"stage": "tower"}, "pages in stage tower"),
    ],
)
def test_pages_that_cannot_be_trained_are_refused(
    changes: dict[str, Any], said: str, drawn: Path
) -> None:
    path = ROOT / "recipes" / "tiny-qwen" / "tune.yaml"
    with pytest.raises(UsageError, match=said):
        read_scenes(Recipe.load(path, **changes), drawn)


def test_a_card_says_data_steps_hours_and_losses(tmp_path: Path, drawn: Path) -> None:
    logged: list[dict] = [{"step": 20, "loss": 3.0}, {"step": 40, "loss": 2.5}]
    logged[1:1] = [{"step": 20, "held_out": {"gqa": 0.25, "pope": 0.5}}]
    state = SimpleNamespace(global_step=40, log_history=logged)
    scenes = read_scenes(TUNE, drawn)
    noted = replace(TUNE, note="Four routers have no gradient.")
    log = {"held_out": {"docvqa 384x576": 0.5}, "seconds": 3600, **progress(state)}
    facts = json.loads(
        json.dumps({"recipe": asdict(noted), "data": about_data(drawn, scenes), **log})
    )
    (tmp_path / TUNE.start).mkdir()
    tower = {"recipe": {"start": "", "seed": 1}, "seconds": 1800, **progress(state)}
    (tmp_path / TUNE.start / "training.json").write_text(json.dumps(tower))
    out, before = tmp_path / "tune", history(tmp_path, TUNE.start)
    out.mkdir()
    write_card(out, "dense", facts, "a CPU", before, parts_of("qwen2_5_vl"), "tiny-qwen")
    text = (out / "README.md").read_text()
    for said in (
        "30 of 192x192 px, 5 of 384x576 px, 5 of 576x384 px",
        "`python -m minidata train --out FOLDER --n 60 --seed 1 --rounds 1 --hd 0.5`",
        f"recipes/tiny-qwen/tune.yaml`, 40 steps, seed {TUNE.seed}, 60 minutes on a CPU",
        f"{TUNE.start} (40 steps, seed 1, 30 minutes, loss 3.00 to 2.50). In all 1.5 hours.",
        "20: 3.00, 40: 2.50",
        "mean of the kinds, %): 20: 37.5",
        "Four routers have no gradient.",
        "pages " + " ".join(f"{size}: {share}" for size, share in TUNE.pages.items()),
        "| docvqa 384x576 | 50.0 % |",
    ):
        assert said in text
