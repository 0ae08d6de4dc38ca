"""What a training of the mini model is begun from: checked, told apart and refused in one line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Trainer, TrainingArguments

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.fitting.fit import Stop, fit
from harness.minimodel.folders import save_model, weights_in
from harness.minimodel.log import claim, inputs
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.tower import DenseHeads


class Line(nn.Module):
    """One number that is pulled to `y`."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.w - y).square().mean()}


def trained(folder: Path) -> tuple[int, float]:
    """Steps and weight after training to step 3 of a schedule of 5, a checkpoint every 2."""
    args = TrainingArguments(
        str(folder),
        max_steps=5,
        save_steps=2,
        learning_rate=0.1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    torch.manual_seed(0)
    data: Any = [{"y": torch.ones(1)}] * 8
    trainer = Trainer(Line(), args, train_dataset=data)
    trainer.add_callback(Stop(3))
    fit(trainer)
    return trainer.state.global_step, float(trainer.model.w.detach())  # type: ignore[union-attr]


def test_a_training_that_stopped_early_is_read_when_it_is_begun_again(tmp_path: Path) -> None:
    first = trained(tmp_path)
    assert first[0] == 3 and (tmp_path / "checkpoint-3").is_dir()
    assert trained(tmp_path) == first


def drawn(folder: Path, names: str) -> Scenes:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", np.zeros((len(names), 8, 8, 3), dtype=np.uint8))
    lines = [json.dumps({"scene_id": n, "family": "chart", "qa": [], "boxes": []}) for n in names]
    (folder / "scenes.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return Scenes(folder)


def test_a_composition_that_is_trained_on_is_not_held_out(tmp_path: Path) -> None:
    train, held = drawn(tmp_path, "abcdbxcy").split(4, {}, 0)
    assert train == [0, 1, 2, 3]
    assert held == [5, 7]  # x and y: b and c stand among the first


def test_checkpoints_go_on_with_the_weights_and_scenes_they_were_trained_on(tmp_path: Path) -> None:
    work, data, run = tmp_path / "work", tmp_path / "data", tmp_path / "work" / "pmod-run"
    drawn(data, "abcd")
    (work / "dense").mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, work / "dense" / "model.safetensors")
    recipe, out = Recipe("tune", start="dense", method="pmod"), work / "pmod"
    before = inputs(recipe, data, work)
    assert set(before) == {"the scenes", "start's weights"}
    claim(recipe, out, run, read=before)
    (run / "checkpoint-5").mkdir()
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    claim(recipe, out, run, read=inputs(recipe, data, work))  # nothing changed: gone on with
    save_file({"w": torch.ones(2)}, work / "dense" / "model.safetensors")
    with pytest.raises(UsageError, match=r"another training .start's weights .*remove it"):
        claim(recipe, out, run, read=inputs(recipe, data, work))
    save_file({"w": torch.zeros(2)}, work / "dense" / "model.safetensors")
    drawn(data, "abce")
    with pytest.raises(UsageError, match=r"another training .the scenes "):
        claim(recipe, out, run, read=inputs(recipe, data, work))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage: tune\nbatch: 0", "batch 0: expected at least 1"),
        ("stage: tune\nheld_out: 0", "held_out 0: expected at least 1"),
        ("stage: tune\nrank: -1", "rank -1: expected at least 0"),
        ("stage: align\nuntil: 5", "until in stage align: expected stage tower or tune"),
        ("stage: align\nstart: dense", "start and tower go together"),
        ("stage: tune\nfamilies: {charts: 1}", "did you mean 'chart'"),
    ],
)
def test_a_recipe_with_numbers_no_training_has_is_refused(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        Recipe.load(path)


def test_a_split_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    scenes = drawn(tmp_path, "abcab")
    with pytest.raises(UsageError, match="held_out 9 of 5 scenes: 0 are left to train on"):
        scenes.split(9, {}, 0)
    with pytest.raises(UsageError, match="3 are left to train on, and 0 that are not among them"):
        scenes.split(2, {}, 0)


def test_another_decoder_is_another_training(tmp_path: Path) -> None:
    drawn(tmp_path, "ab")
    recipe = Recipe("align")
    for name in "ab":
        (tmp_path / name).write_text(name, encoding="utf-8")
    one, other = (inputs(recipe, tmp_path, tmp_path, tmp_path / name) for name in "ab")
    assert one != other and one["the scenes"] == other["the scenes"]
    assert "the decoder" not in inputs(
        Recipe("tune", start="x"), tmp_path, tmp_path, tmp_path / "a"
    )


def test_held_out_scenes_are_never_those_that_are_trained_on() -> None:
    recipe = Recipe("tune", first=100, held_out=100)
    recipe.check_amounts(200)
    with pytest.raises(UsageError, match="first 100 and held_out 100: there are 150 scenes"):
        recipe.check_amounts(150)


def test_a_missing_result_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no model.safetensors in it: expected the result"):
        weights_in(tmp_path)
    heads = DenseHeads.__new__(DenseHeads)
    with pytest.raises(UsageError, match=r"no heads.safetensors in it"):
        DenseHeads.load_heads(heads, tmp_path)
    with pytest.raises(UsageError, match=r"no images.npy in it"):
        Scenes(tmp_path)


def test_a_model_that_is_being_written_is_not_a_finished_one(tmp_path: Path) -> None:
    """`--ship` asks for the log, which is written last."""
    (tmp_path / "training.json").write_text("{}", encoding="utf-8")
    with pytest.raises(AttributeError):
        save_model(None, None, tmp_path)  # type: ignore[arg-type]
    assert not (tmp_path / "training.json").exists()


def test_a_refusal_says_what_to_do_however_much_differs(tmp_path: Path) -> None:
    """`tune` is the second part now, and folders of the time when it was the first hold the other
    mixture of questions: thirty forms."""
    first, now = (
        Recipe.load(ROOT / "recipes" / "tiny-qwen" / f"{name}.yaml")
        for name in ("tune-first", "tune")
    )
    run = tmp_path / "tune-run"
    (run / "checkpoint-5").mkdir(parents=True)
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    (run / "recipe.json").write_text(json.dumps(asdict(first)))
    with pytest.raises(UsageError) as error:
        claim(now, tmp_path / "tune", run)
    line = str(error.value).replace(str(tmp_path), "")
    assert "max_steps 900, not 2000" in line and "other forms" in line
    assert "give another --work" in line and len(line) < 500
