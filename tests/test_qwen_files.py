"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL from a folder as released, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.bench.prompter import Prompter
from harness.bench.request import GenerationKwargs, Request
from harness.command.cli import main
from harness.engine import model_info
from harness.model.catalog import load_model
from harness.model.checkpoints import save_checkpoint
from harness.model.features import image_key
from harness.store.csvfile import read_rows
from tests.fixtures.bad_input import edit
from tests.fixtures.hub_qwen import preprocessor, write_qwen
from tests.qwen_tools import FAMILIES
from tests.routing_tools import random_modules
from tests.tiers import some


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {family: write_qwen(root / family, family) for family in FAMILIES}


def request(text: str, *sizes: tuple[int, int], name: str = "0") -> Request:
    """A question on noise images of these (width, height)."""
    from PIL import Image

    draw = np.random.default_rng(len(sizes))
    shapes = [(high, wide, 3) for wide, high in sizes]
    images = [Image.fromarray(draw.integers(0, 255, s).astype(np.uint8)) for s in shapes]
    return Request(0, "task", name, text, GenerationKwargs(4), lambda: images, list)


def loaded(folder: Path, sharing: int = 16) -> Any:
    return load_model(str(folder), "cpu", "float32", "sdpa", feature_cache_mib=sharing)


@pytest.mark.parametrize("family", some(FAMILIES, "qwen2_5_vl"))
def test_answers_costs_and_pictures_from_the_command_line(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = loaded(folders[family]).model
    method = methods.parse("pmod")
    modules = random_modules(method, model)
    save_checkpoint(tmp_path / "pmod", method, modules, model_info(model))
    argv = ["--model", str(folders[family]), "--methods", "fastv,pmod,vscan", "--data", "mini"]
    argv += ["--bench", "gqa", "--limit", "1", "--device", "cpu", "--quiet"]
    out = tmp_path / "out"
    assert main([*argv, "--checkpoint", f"pmod={tmp_path / 'pmod'}", "--out", str(out)]) == 0
    cells = read_rows(out / "cells.csv")
    assert len(cells) == 4 and {cell["status"] for cell in cells} == {"done"}
    assert all("repetition_penalty=1.05" in cell["notes"] for cell in cells)
    assert (out / "figures" / "overlay_gqa.png").is_file()
    evidence = read_rows(out / "evidence.csv")
    assert {row["cell_id"] for row in evidence} == {cell["cell_id"] for cell in cells}
    said = json.loads((out / "run.json").read_text())["image_processor"]
    assert said["size"] == {"shortest_edge": 256, "longest_edge": 2560}


# --- prompts
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_has_its_images_first_in_the_model_s_own_form(
    family: str, folders: dict[str, Path]
) -> None:
    prompter = Prompter(loaded(folders[family]))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    assert prompter.prompt("What?", 0) == f"{head}What?{tail}"
    assert prompter.prompt("What?", 2) == f"{head}{image}{image}What?{tail}"
    # Where a task says where its images go, they go there; marks that do not fit leave.
    placed = f"{head}Is {image} as {image}?{tail}"
    assert prompter.prompt("Is <image> as <image>?", 2) == placed
    assert prompter.prompt("<image>\nWhat?", 2) == f"{head}{image}{image}What?{tail}"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("says", [True, False])
def test_the_kinds_of_tokens_always_reach_the_model(
    family: str, says: bool, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them it counts positions on one axis, and does not say so."""
    session = loaded(folders[family])
    if not says:  # as older processors
        plain = type(session.processor).__call__

        def silent(self: Any, *args: Any, **options: Any) -> Any:
            found = plain(self, *args, **options)
            found.pop("mm_token_type_ids", None)
            return found

        monkeypatch.setattr(type(session.processor), "__call__", silent)
    prompter = Prompter(session)
    batch = [request("What is this?", (50, 30)), request("And these?", (40, 40), (9, 90))]
    inputs = prompter.inputs(batch, [prompter.images(one) for one in batch])
    image = inputs["input_ids"] == session.model.config.image_token_id
    assert torch.equal(inputs["mm_token_type_ids"] == 1, image)
    assert set(inputs["mm_token_type_ids"].flatten().tolist()) == {0, 1}
    sizes = inputs["image_grid_thw"].tolist()
    assert int(image.sum()) == sum(high * wide // 4 for _, high, wide in sizes) > 0


# --- shared features
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spec", ["dense", "fastv", "pool"])
def test_features_shared_between_questions_equal_those_of_each_alone(
    family: str, spec: str, folders: dict[str, Path]
) -> None:
    session = loaded(folders[family])
    prompter = Prompter(session)
    options: dict[str, Any] = {"max_new_tokens": 4, "output_logits": True}
    options["return_dict_in_generate"] = True
    found = {}
    for share in (True, False):
        with torch.no_grad(), session.under(methods.parse(spec), share=share) as (run, sharing):
            for text in ("What is this?", "Which colour has it?"):
                one = request(text, (50, 30), (61, 17))
                keys = [image_key(image) for image in prompter.images(one)]
                sharing.expect(keys)
                run.set_samples([text], [text])
                out = session.model.generate(**prompter.inputs_of(one), **options)
                found[share, text] = torch.stack(out.logits)
    assert session.features is not None and session.features.hits == 2
    for (share, text), logits in found.items():
        torch.testing.assert_close(logits, found[not share, text], rtol=0, atol=1e-5)


# --- what decides answers
@pytest.mark.usefixtures("uncounted", "undrawn")
def test_the_number_of_pixels_is_part_of_a_cell(tmp_path: Path) -> None:
    folder = write_qwen(tmp_path / "model", "qwen2_5_vl")
    argv = ["--model", str(folder), "--methods", "dense", "--bench", "gqa", "--data", "mini"]
    argv += ["--limit", "1", "--device", "cpu", "--quiet"]
    cells = []
    for most in (2560, 1280):
        edit(folder / "preprocessor_config.json", **preprocessor("qwen2_5_vl", most))
        assert main([*argv, "--out", str(tmp_path / str(most))]) == 0
        cells.append(read_rows(tmp_path / str(most) / "cells.csv")[0])
        said = json.loads((tmp_path / str(most) / "run.json").read_text())["image_processor"]
        assert said["size"]["longest_edge"] == most
    assert cells[0]["cell_id"] != cells[1]["cell_id"]


def test_a_checkpoint_s_penalty_does_not_change_greedy_answers(tmp_path: Path) -> None:
    """The token with the highest logit is the answer, and the session says what it left out."""
    answers = {}
    for penalty in (1.0, 50.0):
        torch.manual_seed(0)
        session = loaded(write_qwen(tmp_path / str(penalty), "qwen2_vl", penalty=penalty))
        inputs = Prompter(session).inputs_of(request("What is this?", (50, 30)))
        options: dict[str, Any] = {"return_dict_in_generate": True, "output_logits": True}
        out = session.model.generate(**inputs, max_new_tokens=6, **options)
        best = torch.stack(out.logits, dim=1).argmax(-1)
        answers[penalty] = out.sequences[:, inputs["input_ids"].shape[1] :]
        assert torch.equal(answers[penalty], best[:, : answers[penalty].shape[1]])
        assert any("repetition_penalty=50" in note for note in session.notes) == (penalty > 1)
    assert torch.equal(answers[1.0], answers[50.0])
