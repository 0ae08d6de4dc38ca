"""`python -m harness.train` with a recipe of stage instruct: flags, exit codes, processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from harness.fitting.guard import Overflow
from harness.train.__main__ import main
from tests import train_tools as tools
from tests.fixtures.bad_input import edit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A function that writes a recipe file and gives the command's arguments."""
    folder = tmp_path_factory.mktemp("cli")
    fields = tools.data(folder, images=24, texts=12)
    model = str(tools.model_folder(folder / "model"))

    def make(out, *more, **values):
        recipe = {**tools.SMALL, **values}
        out.parent.mkdir(parents=True, exist_ok=True)
        path = out.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(recipe))
        given = ["--model", model, "--data", fields["data"], "--images", fields["images"]]
        return ["--recipe", str(path), "--out", str(out), *given, *more]

    return make


def test_a_run_does_not_go_on_from_another_start_model(command, tmp_path, capsys):
    model = shutil.copytree(tools.model_folder(tmp_path / "model"), tmp_path / "copy")
    args = [*command(tmp_path / "o", "--max-steps", "1", method="dense"), "--model", str(model)]
    assert main(args) == 0
    edit(model / "generation_config.json", repetition_penalty=1.5)
    assert main(args) == 2
    assert "generation_config.json of the start model is another file" in capsys.readouterr().err


def test_flags_override_the_recipe(command, tmp_path, capsys):
    # A whole model on the command line takes the place of the recipe's decoder and tower.
    parts = {"model": "", "decoder": "a/decoder", "vision": "a/tower", "projector": "p.bin"}
    args = command(tmp_path / "o", "--method", "pmod", "--max-steps", "1", method="dense", **parts)
    assert main(args) == 0
    assert json.loads((tmp_path / "o/method.json").read_text())["method"] == "pmod"
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "values", "message"),
    [
        ([], {"learning_rat": 1}, "did you mean 'learning_rate'?"),
        (["--data", "missing.json"], {}, "no file missing.json"),
        (["--images", "missing"], {}, "no folder missing"),
        (["--method", "nothing"], {}, "nothing"),
        (["--model", "nothing"], {}, "unknown model"),
        (["--epochs", "2"], {"max_steps": 3}, "--epochs: not with max_steps (3 here)"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(command, tmp_path, capsys, more, values, message):
    assert main(command(tmp_path / "o", *more, **values)) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


def test_no_recipe_or_a_broken_one_is_one_line(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("stage: [instruct")
    (tmp_path / "l.yaml").write_text("- a\n")
    for name, message in (("r", "r.yaml"), ("l", "key: value"), ("no", "No such file")):
        assert main(["--recipe", str(tmp_path / f"{name}.yaml")]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said and "\n" not in said


def test_an_interruption_is_130_and_says_how_to_go_on(command, tmp_path, capsys, monkeypatch):
    def interrupted(_trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.train.job.fit", interrupted)
    assert main(command(tmp_path / "o", "--max-steps", "1")) == 130
    assert "give the same command again to resume" in capsys.readouterr().err


def test_an_overflow_is_one_line_and_exit_3(command, tmp_path, capsys, monkeypatch):
    def overflowing(_trainer):
        raise Overflow("step 4: the loss is not finite")

    monkeypatch.setattr("harness.train.job.fit", overflowing)
    assert main(command(tmp_path / "o", "--max-steps", "1")) == 3
    assert capsys.readouterr().err.splitlines()[-1] == "error: step 4: the loss is not finite"


def run(args, module="harness.train"):
    """A module in two processes as torchrun starts them; returns the finished launcher."""
    many = ["--standalone", "--nproc-per-node=2", "-m", module]
    launch = [sys.executable, "-m", "torch.distributed.run", *many]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launch, *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500
    )


def curve(out):
    log = json.loads((out / "training.json").read_text())["log"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("method", ["pmod", "gamma:layers=all:aux=0.1"])
def test_two_processes_train_as_one(command, tmp_path, method):
    """Two processes with batch 2 against one with batch 4: the same losses and weights."""
    common = ("--method", method, "--max-steps", "6")
    one = command(tmp_path / "one", *common, "--batch", "4")
    two = command(tmp_path / "two", *common, "--batch", "2")
    assert main(one) == 0
    done = run(two)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = curve(tmp_path / "one"), curve(tmp_path / "two")
    print(method, "one process:", first, "two:", second)
    assert len(second) == 6 and first == pytest.approx(second, rel=1e-4)
    a, b = (load_file(tmp_path / f"{n}/model.safetensors") for n in ("one", "two"))
    for name in a:
        # AdamW's first steps divide by |gradient|: where that is rounding noise, so is the step.
        assert (a[name] - b[name]).abs().median() < 1e-5, name
    assert json.loads((tmp_path / "two/training.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_processes_resume_exactly(command, tmp_path):
    """In the second epoch, from the checkpoint before the one a kill left unfinished."""
    whole = command(tmp_path / "whole", "--method", "pmod", "--max-steps", "12")
    assert run(whole).returncode == 0
    before = load_file(tmp_path / "whole/model.safetensors")
    first = curve(tmp_path / "whole")
    # As if the run had been killed while it wrote its newest checkpoint.
    (tmp_path / "whole-run/checkpoint-12/trainer_state.json").unlink()
    assert run(whole).returncode == 0
    assert curve(tmp_path / "whole") == first
    after = load_file(tmp_path / "whole/model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_sharded_parts_give_the_same_gradients(tmp_path):
    tools.model_folder(tmp_path / "model")
    tools.data(tmp_path)
    done = run([str(tmp_path)], module="tests.train_sharded")
    assert done.returncode == 0, done.stderr[-3000:]
