"""Qwen-VL folders and inputs that cannot work: one line each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.command.cli import main
from harness.engine import EngineError, routed
from tests.fixtures.bad_input import edit
from tests.fixtures.hub_qwen import write_qwen
from tests.qwen_tools import FAMILIES, rows_of, tiny_qwen
from tests.test_qwen_files import request

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders with and without a text_config."""
    root = tmp_path_factory.mktemp("models")
    return {flat: write_qwen(root / str(flat), "qwen2_5_vl", flat) for flat in (True, False)}


def within(part: str, **values: Any) -> Damage:
    """Change values in a part of config.json."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.get(part, config).update(values)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def images(**values: Any) -> Damage:
    return lambda folder: edit(folder / "preprocessor_config.json", **values)


def of_another_family(folder: Path) -> None:
    side = {"height": 28, "width": 28}
    values = {"image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor",
              "size": {"shortest_edge": 28}, "crop_size": side, "patch_size": 4}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(values))


ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 4]}
WINDOW = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1,
          "layer_types": None}  # fmt: skip
BAD: list[tuple[Damage, str]] = [
    (within("", model_type="qwen2_5_omni"), "which is like qwen2_5_vl, but it also hears"),
    (within("", model_type="qwen3_vl_moe"), "which is like qwen3_vl, but its MLPs are mixtures"),
    (within("", model_type="qwen25_vl"), "did you mean 'qwen2_5_vl'?"),
    (within("vision_config", out_hidden_size=48), "gives features of width 48"),
    (within("vision_config", fullatt_block_indexes=[7]), "names no list of its layers"),
    (within("vision_config", fullatt_block_indexes=5), "names no list of its layers"),
    (within("", vision_config="x"), "vision_config is 'x', no config"),
    (within("text_config", rope_parameters=ROPE), "mrope_section [2, 1, 4] does not share out"),
    (within("text_config", **WINDOW), "sliding-window attention (window 64)"),
    (within("", image_token_id=9), "the model's config says 9"),
    (of_another_family, "LlavaProcessor writes '<image>' for an image"),
    (images(patch_size=8), "patch_size is 8, the tower's is 4"),
    (images(merge_size=4), "merge_size is 4, the tower's is 2"),
    (images(min_pixels=1, max_pixels=30), "images of 1 to 30 pixels, and a token takes 64"),
    (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(("damage", "said"), BAD)
def test_a_folder_that_cannot_work_is_one_line(
    damage: Damage,
    said: str,
    flat: bool,
    whole: dict[bool, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(whole[flat], tmp_path / "model"))
    damage(folder)
    argv = ["--model", str(folder), "--methods", "fastv", "--bench", "gqa", "--data", "mini"]
    out = tmp_path / "out"
    assert main([*argv, "--limit", "1", "--device", "cpu", "--quiet", "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and str(folder) in line
    assert not (out / "cells.csv").exists()


def test_a_file_without_text_config_is_the_same_model(whole: dict[bool, Path]) -> None:
    from harness.model.catalog import find_model

    assert find_model(str(whole[True])).info.hidden == find_model(str(whole[False])).info.hidden
    one, other = (find_model(str(whole[flat])).info for flat in (True, False))
    assert one.vision == other.vision and one.layers == other.layers


# --- inputs
@pytest.mark.parametrize("family", FAMILIES)
def test_videos_are_refused(family: str) -> None:
    """Their tokens are none of an image: they would be routed as text."""
    model = tiny_qwen(family)
    (inputs,) = rows_of(model, [(3, [(2, 3)], 4)])
    ids = inputs["input_ids"]
    inputs["input_ids"] = ids.masked_fill(ids == 60, 61)
    inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"] * 2
    inputs["pixel_values_videos"] = inputs.pop("pixel_values")
    inputs["video_grid_thw"] = inputs.pop("image_grid_thw")
    refused = pytest.raises(EngineError, match="videos are not routed")
    with torch.no_grad(), routed(model, methods.parse("fastv")), refused as error:
        model.generate(**inputs, max_new_tokens=2)
    assert "\n" not in str(error.value)


def test_an_image_too_narrow_for_a_grid_of_patches_names_its_sample(
    whole: dict[bool, Path],
) -> None:
    from harness.bench.prompter import Prompter
    from harness.common.errors import CellError
    from harness.model.catalog import load_model

    prompter = Prompter(load_model(str(whole[False]), "cpu", "float32", "sdpa"))
    with pytest.raises(CellError, match=r"task/doc: .*aspect ratio") as error:
        prompter.inputs_of(request("What?", (1, 300), name="doc"))
    assert "\n" not in str(error.value)
    tiny = prompter.inputs_of(request("What?", (1, 1)))  # as small as can be: made larger
    assert tiny["image_grid_thw"].tolist() == [[1, 4, 4]]
