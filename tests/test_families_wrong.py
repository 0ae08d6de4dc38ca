"""Families met in ways they were not made for: reduced sizes, processors of others, estimates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import modsuite as ms
from harness.command.cli import main
from harness.families.catalog import FAMILIES, shape_of
from harness.timing.shape import random_config
from harness.timing.subject import build_random
from harness.train.sizes import decoder_parameters
from tests.fixtures.internvl_models import write_internvl
from tests.fixtures.two_tower_models import write_two_towers

import torch  # isort: skip  after the fixtures


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_built_at_a_reduced_size(family: str) -> None:
    """As ``--throughput --random-weights --layers 3 --width 64`` builds it."""
    name, config = next(iter(FAMILIES[family].published.items()))
    model = build_random(
        random_config(config, name, 3, 64), torch.device("meta"), torch.float32, "sdpa", 0
    )
    decoder = FAMILIES[family].decoder(model)
    assert len(decoder.layers) == 3 and decoder.config.hidden_size == 64


@pytest.mark.parametrize("family", ["internvl", "llava_hr", "mini_gemini_hd"])
def test_a_processor_of_other_pictures_is_one_line(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    written = write_internvl(folder) if family == "internvl" else write_two_towers(folder, family)
    file = next(
        path
        for path in (written / "preprocessor_config.json", written / "processor_config.json")
        if path.is_file() and "size" in path.read_text()
    )
    settings = json.loads(file.read_text())
    own = settings.get("image_processor", settings)
    own["size"] = {"height": 30, "width": 30}
    own["crop_size"] = {"height": 30, "width": 30}
    file.write_text(json.dumps(settings))
    argv = ["--model", str(written), "--methods", "fastv", "--bench", "gqa", "--data", "mini"]
    out = ["--limit", "1", "--device", "cpu", "--quiet", "--out", str(tmp_path / "out")]
    assert main([*argv, *out]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "makes images of 30 pixels a side" in line


def test_decoders_are_counted_with_tied_heads_and_all_experts() -> None:
    tied = decoder_parameters(shape_of("llava-hf/llava-onevision-qwen2-0.5b-ov-hf"))
    assert tied == pytest.approx(0.494e9, rel=0.002)
    mixed = shape_of("moe-llava-1.6b-4e")
    one = 3 * mixed.hidden * mixed.ffn
    assert decoder_parameters(mixed) == pytest.approx(1.644e9 + 12 * 3 * one, rel=0.001)


def test_the_matrix_from_python() -> None:
    (row,) = ms.check("divprune", family="internvl").to_dict("records")
    assert (row["family"], row["method"], row["status"]) == ("internvl", "divprune", "works")
    with pytest.raises(ms.Error, match="did you mean 'internvl'"):
        ms.check("divprune", family="internvll")
