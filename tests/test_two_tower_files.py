"""LLaVA-HR and Mini-Gemini-HD from a folder: loading, pictures, places, answers, sizes, costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.families.catalog import KNOWN, REGISTRY, shape_from_config, shape_of
from harness.model.catalog import find_model, load_model
from harness.store.csvfile import read_rows
from tests.fixtures.two_tower_models import write_two_towers
from tests.tiers import some

BOTH = ("llava_hr", "mini_gemini_hd")
TOKENS = {"llava_hr": 16, "mini_gemini_hd": 80}
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module", params=BOTH)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_towers(tmp_path_factory.mktemp("models") / request.param, request.param)


def noise(width: int, height: int) -> Image.Image:
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def published(image: Image.Image, side: int) -> torch.Tensor:
    """The published preprocessing, spelled out: a square of the mean colour, PIL's bicubic."""
    longest = max(image.size)
    square = Image.new("RGB", (longest, longest), tuple(int(255 * level) for level in MEAN))
    square.paste(image, ((longest - image.width) // 2, (longest - image.height) // 2))
    levels = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC)) / 255
    return torch.tensor(((levels - MEAN) / STD).transpose(2, 0, 1))


def local(model: Any) -> Any:
    """Nothing passes from one patch to another, but by the gates."""
    with torch.no_grad():
        for name, value in model.model.vision_tower.named_parameters():
            if name.endswith("out_proj.weight"):
                value.zero_()
            if name.endswith(("dwconv.weight", "fast_conv.weight")):
                centre = value[:, :, 3, 3].clone()
                value.zero_()[:, :, 3, 3] = centre
    return model


def test_every_weight_comes_from_the_files(folder: Path) -> None:
    session = load_model(str(folder), dtype="float32", device="cpu")
    state = session.model.state_dict()
    from safetensors.torch import load_file

    stored = load_file(folder / "model.safetensors")
    assert set(stored) == set(state)
    assert all(torch.equal(stored[name], value) for name, value in state.items())
    assert session.family.kind == json.loads((folder / "config.json").read_text())["model_type"]


@pytest.mark.parametrize("size", [(90, 60), (61, 200), (128, 128), (1, 40)])
def test_pictures_are_made_as_published(folder: Path, size: tuple[int, int]) -> None:
    session = load_model(str(folder), dtype="float32", device="cpu")
    image, kind = noise(*size), session.family.kind
    made = session.processor(text="USER: <image>\nwhat color", images=image, return_tensors="pt")
    expected = published(image, 128)
    torch.testing.assert_close(made["pixel_values"][0].double(), expected, rtol=0, atol=1e-6)
    assert int((made["input_ids"] == session.model.config.image_token_index).sum()) == TOKENS[kind]


def test_a_bright_patch_lights_up_where_its_tokens_lie(folder: Path) -> None:
    """Long, high and square images: each grid's box is in the image's own pixels."""
    session = load_model(str(folder), dtype="float32", device="cpu")
    family, model = session.family, local(session.model)
    for width, height, x, y in ((192, 96, 150, 20), (96, 192, 20, 150), (128, 128, 40, 100)):
        dark = Image.new("RGB", (width, height), tuple(int(255 * level) for level in MEAN))
        light = dark.copy()
        light.paste((255, 255, 255), (x, y, x + 12, y + 12))
        pixels = session.processor.image_processor([dark, light], return_tensors="pt")
        with torch.no_grad():
            before, after = model.model.get_image_features(pixels["pixel_values"]).pooler_output
        moved = (after - before).abs().sum(-1)
        grids = family.grids(model.config, 0, len(moved), None)
        family.place(grids, [(height, width)], session.processor.image_processor)
        whole = grids[0]
        assert whole["fit"] == "pad" and whole["image"] == [height, width]
        for grid in grids:
            left, top, right, bottom = grid["box"]
            count = grid["rows"] * grid["cols"]
            here = moved[grid["start"] : grid["start"] + count]
            wide, high = (right - left) / grid["cols"], (bottom - top) / grid["rows"]
            row, col = divmod(int(here.argmax()), grid["cols"])
            inside = left <= x and x + 12 <= right and top <= y and y + 12 <= bottom
            if inside:
                assert abs(left + (col + 0.5) * wide - (x + 6)) <= wide
                assert abs(top + (row + 0.5) * high - (y + 6)) <= high


@pytest.mark.usefixtures("uncounted", "undrawn")
@pytest.mark.parametrize("folder", some(BOTH, "llava_hr"), indirect=True)
def test_answers_through_the_command_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = ["--methods", "fastv,blind,pool", "--bench", "gqa", "--data", "mini", "--limit", "3"]
    assert main([*argv, "--model", str(folder), "--batch-size", "2", "--out", str(out)]) == 0
    rows = read_rows(out / "cells.csv")
    assert {row["status"] for row in rows} == {"done"} and len(rows) == 4
    cost = [row for row in read_rows(out / "cost.csv") if row["scope"] == "vision"]
    seen = {row["method"]: float(row["tflops_mean"]) for row in cost if row["tflops_mean"]}
    assert seen["blind"] == 0 < seen["dense"] == seen["fastv"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 1000}, "image_size is 1000, not a multiple of 32"),
        ({"image_size": 512}, "of 512 pixels LLaVA-HR's CLIP tower sees 336"),
        ({"vision_feature_layer": -2}, "vision_feature_layer=-2"),
        ({"position_size": 300}, "position_size is 300"),
        ({"slow_config": {"model_type": "swin"}}, "'swin', not 'convnext'"),
        ({"slow_config": {"model_type": "convnext", "depths": [1]}}, "hidden_sizes is missing"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        shape_from_config({**KNOWN["llava-hr-7b"], **changes}, "model")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_grid": 1}, "image_grid is 1"),
        ({"image_size": 1504}, "image_size 1504 is no multiple of 192"),
        ({"vision_feature_layer": [-2, -4]}, "one layer is mined"),
    ],
)
def test_mini_gemini_likewise(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        shape_from_config({**KNOWN["mini-gemini-hd-7b"], **changes}, "model")
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "vision", "projector", "gigabytes"),
    [
        ("llava-hr-7b", 2.195, 0.043, 14.560),
        ("llava-hr-x-13b", 7.150, 0.064, None),
        ("mini-gemini-hd-7b", 7.322, 0.121, 14.532),
    ],
)
def test_published_sizes(
    name: str, vision: float, projector: float, gigabytes: float | None
) -> None:
    """TFLOPs of an image, about 2.2, 7.2 and 7.44 in all, and the released files' sizes in fp16."""
    from harness.families.sight import summed
    from harness.train.sizes import parameters
    from methods import parse

    shape = shape_of(name)
    parts = REGISTRY[shape.family].example(shape)
    found = [summed(parts, scope) for scope in ("vision", "projector")]
    assert [round(one / 1e12, 3) for one in found if one] == [vision, projector]
    if gigabytes:
        rows = 2 * 64 * shape.hidden  # for <image> and padding, which the released files have not
        total = sum(parameters(shape, parse("dense")).values()) - rows
        assert round(2 * total / 1e9, 3) == gigabytes


@pytest.mark.parametrize("name", ["llava-hr-7b", "llava-hr-x-13b", "mini-gemini-hd-7b"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    """Counted on the meta device, at true size."""
    from harness.common.torchvision_ops import declare_missing_ops
    from harness.train.sizes import parameters
    from methods import parse

    declare_missing_ops()
    shape = shape_of(name)
    family = REGISTRY[shape.family]
    said = {key: value for key, value in KNOWN[name].items() if key != "model_type"}
    with torch.device("meta"):
        model = family.model_class()._from_config(family.config_class()(**said))
    total = sum(parameters(shape, parse("dense")).values())
    assert sum(value.numel() for value in model.parameters()) == total


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llava-hr-7b", "mini-gemini-hd-7b"])
def test_three_counters_agree(name: str) -> None:
    from harness.cost.referees import Referees

    for finding in Referees(shape_of(name)).examine()[:2]:
        assert finding.closed_form == finding.fvcore == finding.torch > 0


@pytest.mark.slow
def test_random_weights_are_timed_at_reduced_size(tmp_path: Path) -> None:
    """Both towers shrink with the decoder; image size and image tokens stay."""
    argv = ["--throughput", "--random-weights", "--layers", "3", "--width", "64"]
    argv += ["--methods", "fastv", "--model", "llava-hr-7b", "--workload", "n_out=2"]
    out = tmp_path / "run"
    assert main([*argv, "--repeats", "6", "--out", str(out)]) == 0
    rows = read_rows(out / "throughput.csv")
    assert {row["n_image"] for row in rows} == {"1024"}


@pytest.mark.parametrize("name", ["llava-hr-7b", "mini-gemini-hd-7b"])
def test_published_names_are_sizes(name: str) -> None:
    with pytest.raises(UsageError, match="only the sizes") as error:
        find_model(name)
    assert "\n" not in str(error.value)


def test_three_counters_agree_on_a_small_image() -> None:
    """All parts of both second paths, at true widths but few pixels."""
    from dataclasses import replace

    from harness.cost.referees import Referees

    for name, pixels, seen in (("llava-hr-7b", 64, 28), ("mini-gemini-hd-7b", 192, 42)):
        shape = shape_of(name)
        assert shape.slow is not None
        vision = replace(shape.vision, image_size=seen)
        tokens = vision.patches * (1 + shape.slow.grid**2)
        slow = replace(shape.slow, pixels=pixels)
        small = replace(shape, vision=vision, slow=slow, image_tokens=tokens)
        parts = REGISTRY[shape.family].example(small)
        found = Referees(small).seen(parts, "vision")
        assert found is not None and found.closed_form == found.fvcore == found.torch > 0


def test_gamma_learns_with_both_towers(folder: Path, tmp_path: Path) -> None:
    """Routers, decoder, projector, both towers and what joins them."""
    import yaml
    from safetensors.torch import load_file

    from harness.train.__main__ import main as train
    from tests import train_tools

    fields = train_tools.data(tmp_path, images=8, texts=4)
    parts = ["projector", "decoder", "tower"]
    recipe = {**train_tools.SMALL, "method": "gamma:layers=even:mask=Q:ratio=0.34", "train": parts}
    recipe |= {"image_aspect": "pad", "max_length": 400}
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(recipe))
    argv = ["--recipe", str(path), "--out", str(out), "--model", str(folder), "--max-steps", "2"]
    argv += ["--data", fields["data"], "--images", fields["images"]]
    assert train(argv) == 0
    names = set().union(*(load_file(file) for file in out.glob("*.safetensors")))
    for part in ("vision_tower.slow.", "vision_tower.fast.", "language_model.", "router"):
        assert any(part in name for name in names), part
