"""No code of a model is ever run, and no answer on stdin can change that."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.command.cli import main
from harness.common.roots import ROOT
from harness.model.checkpoints import CheckpointError, load_checkpoint
from methods import parse
from tests.fixtures.bad_input import edit
from tests.tiny import tiny_llava

ROOMS = ("harness", "methods", "reports", "minidata", "benchmarks", "tests")
CODE = {"AutoProcessor": "own.Own", "AutoModel": "own.Own", "AutoModelForCausalLM": "own.Own"}


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """The shipped model with a Python file that leaves a trace when it is run."""
    folder = Path(shutil.copytree(ROOT / "assets/tiny-llava", tmp_path / "trap"))
    (folder / "own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\n"
        "from transformers import LlamaModel, LlavaProcessor\n"
        "class Own(LlavaProcessor): pass\n"
    )
    return folder


def _processor(folder: Path) -> None:
    edit(folder / "processor_config.json", auto_map=CODE)


def _decoder(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config={**text, "auto_map": CODE})


RUNS = {
    "a run": (_processor, "--data mini --bench gqa --limit 1"),
    "a decoder": (_decoder, "--data mini --bench gqa --limit 1"),
    "random weights": (_decoder, "--throughput --random-weights --repeats 6"),
    "costs": (_decoder, "--costs-only"),
}


@pytest.mark.parametrize("name", RUNS)
def test_code_is_refused_in_one_line_whatever_stdin_says(
    trap: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words = RUNS[name]
    spoil(trap)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    command = ["--model", str(trap), "--methods", "dense", "--quiet", *words.split()]
    assert main([*command, "--out", str(trap.parent / "run")]) == 2
    assert not (trap.parent / "ran").exists() and not (trap.parent / "run").exists()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "'auto_map' asks for code of its own" in said[0]
    assert sys.stdin.read() == "y\n" * 9  # nobody asked


def test_every_automatic_class_is_told_not_to_run_code() -> None:
    files = [path.read_text() for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    named = [text for text in files if "Auto" in text]  # parsing takes its time
    calls = [call for text in named for call in ast.walk(ast.parse(text))]
    checked = 0
    for call in calls:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        loads = call.func.attr in ("from_pretrained", "from_config")
        if loads and "Auto" in ast.unparse(call.func.value):
            said = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert said.get("trust_remote_code") == "False", ast.unparse(call)
            checked += 1
    assert checked >= 5


def _pmod(folder: Path) -> Path:
    return Path(shutil.copytree(ROOT / "assets/tiny-llava-pmod", folder / "pmod"))


def test_a_checkpoint_s_index_stays_in_its_folder(tmp_path: Path) -> None:
    folder = _pmod(tmp_path)
    edit(folder / "method.json", model={})
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    names = dict.fromkeys(load_file(tmp_path / "other.safetensors"), "../other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match="outside its own folder"):
        load_checkpoint(folder, tiny_llava(), parse("pmod"))


def test_a_checkpoint_of_integers_is_refused(tmp_path: Path) -> None:
    folder = _pmod(tmp_path)
    edit(folder / "method.json", model={})
    tensors = load_file(folder / "model.safetensors")
    save_file({k: v.to(torch.int8) for k, v in tensors.items()}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="integer or quantised weights"):
        load_checkpoint(folder, tiny_llava(), parse("pmod"))
