"""What is trained and shipped of the mini models: the registry, folders, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.families.catalog import MINIS
from harness.minimodel import shipping
from harness.minimodel.log import alone, claim
from harness.minimodel.parts import parts_of
from harness.minimodel.precision import in_format_of_here
from harness.minimodel.recipe import Recipe
from harness.model.weights import file_hash
from harness.train import __main__ as command
from harness.train.__main__ import main as train
from tests import tiny  # noqa: F401  declares operators before the library asks for them


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """One empty scene of 192 px."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    np.save(folder / "images.npy", np.zeros((1, 192, 192, 3), dtype=np.uint8))
    (folder / "scenes.jsonl").write_text('{"boxes": [], "qa": []}\n')
    return folder


@pytest.mark.parametrize("name", MINIS)
def test_every_recipe_of_a_mini_model_is_there_and_starts_from_one_before(name: str) -> None:
    (parts,) = shipping.named(name).values()
    before: set[str] = set()
    for path in shipping.recipes(parts):
        recipe = Recipe.load(path)
        for needed in (recipe.start, recipe.tower, recipe.modules, recipe.teacher):
            assert needed in ("", *before) or (ROOT / needed).is_dir(), path
        before.add(path.stem)
    assert set(parts.ships) <= before and {"", "-dense", "-pmod"} <= set(parts.ships.values())


def test_what_ships_is_copied_or_the_lacking_trainings_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shipping, "DATA", tmp_path)
    work = tmp_path / "work"
    for name in parts_of("qwen2_5_vl").ships:
        assert train(["--ship", "tiny-qwen", "--work", str(work)]) == 2
        assert name in capsys.readouterr().err and not (tmp_path / "assets").exists()
        folder = work / "tiny-qwen" / name
        folder.mkdir(parents=True)
        for file in ("training.json", "model.safetensors", "heads.safetensors"):
            (folder / file).write_text(name)
    assert train(["--ship", "tiny-qwen", "--work", str(work)]) == 0
    shipped = {
        str(p.relative_to(tmp_path / "assets")): p.read_text()
        for p in (tmp_path / "assets").rglob("*.*")
    }
    assert shipped["tiny-qwen/model.safetensors"] == "tune"
    assert shipped["tiny-qwen-pmod/training.json"] == "pmod"
    assert not any("heads" in path for path in shipped)
    assert train(["--ship", "tiny-gwen"]) == 2
    assert "did you mean 'tiny-qwen'?" in capsys.readouterr().err


def test_a_stage_that_an_architecture_has_not_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text("stage: align\narchitecture: qwen2_5_vl\n")
    assert train(["--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "no stage align of qwen2_5_vl: expected tower or tune" in capsys.readouterr().err


def test_the_folder_of_another_models_training_is_refused(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Recipes of the two models share names; resuming one from the other's checkpoints must not be
    silent."""
    run = tmp_path / "pmod-run"
    (run / "checkpoint-5").mkdir(parents=True)
    theirs = {"stage": "tune", "start": "dense", "method": "pmod"}
    (run / "recipe.json").write_text(json.dumps(theirs))
    recipe = ROOT / "recipes" / "tiny-qwen" / "pmod.yaml"
    words = ["--recipe", str(recipe), "--data", str(drawn), "--work", str(tmp_path)]
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    assert train(words) == 2
    said = capsys.readouterr().err
    assert "holds another training (start 'dense', not 'tune'" in said
    assert "give another --work" in said
    (run / "recipe.json").write_text("{")
    assert train(words) == 2
    assert "recipe.json: not readable as JSON" in capsys.readouterr().err
    shutil.rmtree(run)
    (tmp_path / "pmod").mkdir()
    (tmp_path / "pmod" / "training.json").write_text(json.dumps({"recipe": theirs}))
    assert train(words) == 2
    assert "pmod: it holds another training (start" in capsys.readouterr().err


def test_only_the_same_recipe_goes_on(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed or schedule would be noted of what the first one trained."""
    path = ROOT / "recipes" / "tiny-qwen" / "pmod.yaml"
    recipe = in_format_of_here(Recipe.load(path))
    words = ["--recipe", str(path), "--data", str(drawn), "--work", str(tmp_path)]
    assert train([*words, "--start", "none-such"]) == 2  # never begins, and claims nothing
    assert "none-such" in capsys.readouterr().err
    out, run = tmp_path / "pmod", tmp_path / "pmod-run"
    claim(recipe, out, run)
    (run / "checkpoint-5").mkdir()
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    claim(replace(recipe, save_steps=7), out, run)
    for flag, value, said in (
        ("--seed", 9, f"seed {recipe.seed}, not 9"),
        ("--max-steps", 2, "not 2)"),
    ):
        assert train([*words, flag, str(value)]) == 2
        assert said in capsys.readouterr().err


def test_a_methods_weights_ship_only_beside_the_model_they_were_trained_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model trained anew and its methods not, `--methods pmod` would refuse what shipped."""
    monkeypatch.setattr(shipping, "DATA", tmp_path)
    there = tmp_path / "work" / "tiny-qwen"
    for name in parts_of("qwen2_5_vl").ships:
        (there / name).mkdir(parents=True)
        for file in ("training.json", "model.safetensors"):
            (there / name / file).write_text(name)
    about = there / "pmod" / "method.json"
    about.write_text(json.dumps({"base": "0" * 64}))
    words = ["--ship", "tiny-qwen", "--work", str(tmp_path / "work")]
    assert train(words) == 2
    said = capsys.readouterr().err
    assert (
        "pmod was trained from another dense model" in said and not (tmp_path / "assets").exists()
    )
    about.write_text(json.dumps({"base": file_hash(there / "tune" / "model.safetensors")}))
    assert train(words) == 0


def test_a_training_that_still_runs_is_not_joined(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = ROOT / "recipes" / "tiny-qwen" / "pmod.yaml"
    with alone(tmp_path / "pmod-run"):
        words = ["--recipe", str(path), "--data", str(drawn), "--work", str(tmp_path)]
        assert train(words) == 2
    assert "pmod-run: another process is training there" in capsys.readouterr().err


@pytest.mark.parametrize("note", [None, {"stage": "tune", "start": "dense"}])
def test_checkpoints_that_do_not_say_their_format_have_the_one_of_the_recipes_file(
    note: dict[str, str] | None, tmp_path: Path
) -> None:
    run = tmp_path / "pmod-run"
    (run / "checkpoint-5").mkdir(parents=True)
    (run / "checkpoint-5" / "trainer_state.json").write_text("{}")
    if note:
        (run / "recipe.json").write_text(json.dumps(note))
    half = Recipe("tune", start="dense")
    with pytest.raises(UsageError, match="bf16 True, not False"):
        claim(replace(half, bf16=False), tmp_path / "pmod", run, bf16=True)
    claim(half, tmp_path / "pmod", run, bf16=True)  # as the file says: gone on with


def test_recipes_are_read_without_torch() -> None:
    code = (
        "import sys; from harness.minimodel.recipe import Recipe\n"
        "assert Recipe('tune').architecture == 'llava' and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ship", "--out", "x"], "--out: not with --ship"),
        (["--all", "--out", "x"], "--out: not with --all"),
        (["--all", "tiny-qwen", "--method", "mod"], "--method: not with --all"),
        (["--all", "--ship"], "give one of"),
        (["--all", "--only", "pmod"], "--only: expected with --all MODEL"),
        (["--ship", "tiny-qwen", "--only", "pmod"], "--only: expected with --all MODEL"),
        (["--all", "tiny-qwen", "--only", "pmot"], "did you mean 'pmod'?"),
        (["--all", "tiny-qwen", "--only", ""], "recipe"),
        (["--all", "tiny-gwen"], "did you mean 'tiny-qwen'?"),
        (["--recipe", str(ROOT / "recipes/tiny/dense.yaml"), "--batch", "4"], "--batch: not with"),
        (
            ["--recipe", str(ROOT / "recipes/tiny/dense.yaml"), "--epochs", "2"],
            "not with max_steps",
        ),
        (["--recipe", str(ROOT / "recipes/tiny/dense.yaml"), "--decoder", "x"], "--decoder: only"),
        (["--recipe", str(ROOT / "recipes/tiny/tower.yaml"), "--decoder", "x"], "--decoder: only"),
        (["--recipe", str(ROOT / "recipes/tiny/tower.yaml"), "--method", "pmod"], "--method: not"),
        (["--all", "--epochs", "2"], "not with max_steps (3000 here)"),
        (["--all", "tiny-qwen", "--decoder", "x"], "--decoder: only with a recipe that puts"),
    ],
)
def test_flags_that_would_be_ignored_are_refused(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_scenes", _seen_enough)  # what is not refused goes no further
    assert train(words) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--recipe", str(ROOT / "recipes/tiny/align.yaml"), "--decoder", "bundle"],
        ["--recipe", str(ROOT / "recipes/tiny/align.yaml"), "--max-steps", "-1", "--epochs", "2"],
        # Of several recipes one takes a decoder, and each is told of it.
        ["--all", "tiny-llava", "--decoder", "bundle"],
        ["--recipe", str(ROOT / "recipes/tiny/dense.yaml"), "--decoder", "bundle", "--of-all"],
    ],
)
def test_flags_that_act_are_taken(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "_scenes", _seen_enough)
    assert train([*words, "--work", str(tmp_path)]) == 2
    assert "seen enough" in capsys.readouterr().err


def test_a_method_that_is_given_takes_the_place_of_the_recipes_stages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else LLaVolta's stages would train what is saved as another method."""
    found: list[Recipe] = []
    monkeypatch.setattr("harness.minimodel.jobs.job_of", found.append)
    monkeypatch.setattr(command, "_scenes", _seen_enough)
    words = ["--recipe", str(ROOT / "recipes/tiny/llavolta.yaml")]
    assert train(words) == train([*words, "--method", "pmod"]) == 2
    assert [(len(one.stages), one.method) for one in found] == [
        (3, "llavolta:k=2:stride=2"),
        (0, "pmod"),
    ]


def _seen_enough(*_: object) -> Path:
    raise UsageError("seen enough")


def test_side_by_side_each_is_told_of_a_flag_that_is_for_one(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    class Queue:
        def __init__(self, paths: object, work: Path, words: list[str], jobs: int) -> None:
            told.append(words)

        def run(self) -> list[str]:
            return []

    monkeypatch.setattr("harness.minimodel.queue.Queue", Queue)
    words = ["--all", "tiny-llava", "--jobs", "2", "--decoder", "bundle", "--data", str(drawn)]
    assert train([*words, "--work", str(tmp_path)]) == 0
    assert told == [["--of-all", "--data", str(drawn), "--decoder", "bundle"]]


def test_scenes_that_are_drawn_in_part_are_refused(
    tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(drawn / "images.npy", np.zeros((2, 192, 192, 3), dtype=np.uint8))
    recipe = ROOT / "recipes" / "tiny-qwen" / "pmod.yaml"
    assert train(["--recipe", str(recipe), "--data", str(drawn), "--work", str(tmp_path)]) == 2
    assert "2 images but 1 scene lines, so drawing them was int" in capsys.readouterr().err


def test_nothing_to_ship_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["--ship", "--work", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tiny-llava: nothing to ship" in line


@pytest.mark.slow  # a process that imports the library
def test_a_process_of_its_own_ships(tmp_path: Path) -> None:
    """Where nothing asked the library for a model before."""
    words = [sys.executable, "-m", "harness.train", "--ship", "--work", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "tiny-llava: nothing to ship" in done.stderr


@pytest.mark.parametrize(
    ("recipe", "folder", "how"),
    [
        ("tiny/pmod", "scenes-rounds-4", {"rounds": 4}),
        ("tiny-qwen/pmod", "scenes-rounds-4-share-0.1", {"rounds": 4, "share": 0.1}),
        ("study/tiny", "scenes", {}),
    ],
)
def test_a_shipped_recipe_alone_draws_its_scenes_as_all_of_them_do(
    recipe: str,
    folder: str,
    how: dict[str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def draw(place: Path, **drawn: float) -> None:
        asked.append((place, drawn))
        raise UsageError("seen enough")

    monkeypatch.setattr(command, "BUILD", tmp_path)
    monkeypatch.setattr(command, "render", draw)
    for name in ("dense", "pmod-first", "pmod-second", "tune"):  # what these build on
        (tmp_path / "work" / name).mkdir(parents=True)
    path = ROOT / "recipes" / f"{recipe}.yaml"
    assert command.main(["--recipe", str(path), "--work", str(tmp_path / "work")]) == 2
    assert "seen enough" in capsys.readouterr().err
    assert asked == [(tmp_path / folder, how)]
