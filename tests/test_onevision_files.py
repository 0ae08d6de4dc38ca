"""LLaVA-OneVision and LLaVA-NeXT-Video repositories: tokens, their pixels, a run of each."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.bench.generation import Generator
from harness.bench.prompter import Prompter
from harness.bench.request import GenerationKwargs, Request
from harness.command.cli import main
from harness.common.errors import UsageError
from harness.families.catalog import REGISTRY, completed, shape_from_config, shape_of
from harness.model.catalog import find_model, load_model
from harness.store.csvfile import read_rows
from reports.geometry import overlapping, rects
from tests.fixtures.bad_input import edit
from tests.fixtures.onevision_models import (
    SIDE,
    TOKENS,
    preprocessor,
    write_next_video,
    write_onevision,
)
from tests.test_geometry import CENTRES, agree, bright, light
from tests.tiers import some

from transformers import (  # isort: skip  after the fixtures
    CONFIG_MAPPING, AutoProcessor, LlavaOnevisionImageProcessor, LlavaOnevisionModel,
)  # fmt: skip
from transformers.image_processing_utils import select_best_resolution  # isort: skip

FAMILY = REGISTRY["llava_onevision"]
PUBLISHED = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
# Height, width -> tokens of the released models, as their processor counts them.
COUNTED = {(336, 336): 1485, (480, 640): 2929, (899, 1024): 6551, (1080, 1920): 7269,
           (2000, 3000): 7329}  # fmt: skip
ODD = [(97, 801), (641, 131), (1, 200), (33, 70), (385, 384)]
WRITERS = {"llava_onevision": write_onevision, "llava_next_video": write_next_video}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: write(root / name, layers=5) for name, write in WRITERS.items()}


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    return folders["llava_onevision"]


@pytest.fixture(scope="module")
def tiler() -> Any:
    """The releases' image processor; padding as dark as the ground."""
    settings = {**preprocessor(384), "image_mean": [0.0] * 3}
    return LlavaOnevisionImageProcessor(**settings)


@pytest.fixture(scope="module")
def real() -> Any:
    """The released config."""
    return CONFIG_MAPPING["llava_onevision"](**FAMILY.published[PUBLISHED])


# --- tokens and pixels
@pytest.mark.parametrize("size", [*COUNTED, *ODD])
def test_tokens_are_as_many_as_the_processor_writes(
    folder: Path, tiler: Any, real: Any, size: tuple[int, int]
) -> None:
    processor = AutoProcessor.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False
    )
    processor.image_processor, processor.num_image_tokens = tiler, 729
    (told,) = processor._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"]
    assert told == COUNTED.get(size, told)
    grids = FAMILY.grids(real, 3, told, torch.tensor(size))
    assert sum(g["rows"] * (g["cols"] + g["newline"]) for g in grids) == told
    assert grids[0]["image_length"] == grids[1]["image_length"] == told


def packed(real: Any, pixels: Any, size: tuple[int, int]) -> Any:
    """The light of every token but newlines, joined, cut and shrunk by the model's own code."""
    seen = [torch.tensor(light(one[:, :378, :378], 27, 27)).flatten()[:, None] for one in pixels]
    (found,), _ = LlavaOnevisionModel.pack_image_features(
        SimpleNamespace(config=real), [torch.stack(seen)], torch.tensor([size])
    )
    return found[:, 0].numpy()


@pytest.mark.parametrize("size", [*COUNTED, (97, 801), (641, 131), (33, 70)])
def test_a_bright_square_is_where_its_tokens_are(
    tiler: Any, real: Any, size: tuple[int, int]
) -> None:
    for centre in CENTRES[: 3 if max(size) < 1000 else 1]:
        image = bright(size, centre)
        pixels = tiler(image, return_tensors="np")["pixel_values"][0]
        tokens = packed(real, pixels, size)
        rows = FAMILY.grids(real, 0, COUNTED.get(size) or length(real, size), torch.tensor(size))
        FAMILY.place(rows, [size], tiler)
        base, tile = rows
        agree(base, tokens[:729].reshape(27, 27), size, image)
        agree(tile, tokens[729:].reshape(tile["rows"], tile["cols"]), size, image)
        assert (base["fit"], tile["fit"]) == ("stretch", "tiles")
        assert ("whole" in tile) == (size in ((1080, 1920), (2000, 3000)))


def length(real: Any, size: tuple[int, int]) -> int:
    """Tokens of an image, from the model's own code."""
    high, wide = select_best_resolution(size, real.image_grid_pinpoints)
    crops = torch.zeros(1 + high * wide // 384**2, 729, 1)
    (found,), _ = LlavaOnevisionModel.pack_image_features(
        SimpleNamespace(config=real), [crops], torch.tensor([size]), torch.zeros(1)
    )
    return len(found)


def test_images_beside_others_are_padded(tiler: Any, real: Any) -> None:
    sizes = [(300, 301), (97, 801), (641, 131)]
    for centre in CENTRES:
        images = [bright(size, centre) for size in sizes]
        made = tiler([images], return_tensors="np")
        assert made["pixel_values"].shape[1] == 1 and list(made["batch_num_images"]) == [3]
        grids = [
            grid
            for i, size in enumerate(sizes)
            for grid in FAMILY.grids(real, i * 730, 730, torch.tensor(size))
        ]
        FAMILY.place(grids, sizes, tiler)
        for grid, image, size, pixels in zip(
            grids, images, sizes, made["pixel_values"], strict=True
        ):
            assert grid["fit"] == "pad" and not grid["newline"]
            agree(grid, light(pixels[0][:, :378, :378], 27, 27), size, image)


@pytest.mark.parametrize("size", [(480, 640), (1500, 400), (384, 384), (384, 1152)])
def test_no_token_is_half_of_itself_off(real: Any, tiler: Any, size: tuple[int, int]) -> None:
    """Six of 384 pixels are seen by no patch; what a box says is held against each patch's own."""
    grids = FAMILY.grids(real, 0, length(real, size), torch.tensor(size))
    FAMILY.place(grids, [size], tiler)
    base, tile = grids
    left, top, right, bottom = base["box"]
    assert (left, top) == (0, 0)
    assert (right, bottom) == pytest.approx((size[1] * 378 / 384, size[0] * 378 / 384), abs=1e-2)
    high, wide = (n * 384 for n in tile["tiles"])
    scale = min(high / size[0], wide / size[1])
    shown = [min(-int(-n * scale // 1), limit) for n, limit in zip(size, (high, wide), strict=True)]
    boxes = rects(tile).reshape(tile["rows"], tile["cols"], 4)
    for axis, count in ((0, tile["rows"]), (1, tile["cols"])):
        cut = (tile["tiles"][axis] * 27 - count) // 2
        pasted = ((high, wide)[axis] - shown[axis]) // 2
        line = boxes[:, 0, 1::2] if axis == 0 else boxes[0, :, 0::2]
        for i, (begin, end) in enumerate(line):
            number, patch = divmod(i + cut, 27)
            first = number * 384 + patch * 14 - pasted
            share = size[axis] / shown[axis]
            assert abs(begin / share - first) < 3.5 and abs(end / share - first - 14) < 3.5


# --- configs
def test_sizes_are_the_library_s(folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        config = dict(json.loads((folder / "config.json").read_text()))
        mine, theirs = completed(config, "x"), CONFIG_MAPPING[name](**config)
        for key in REGISTRY[name].says:
            other = {"image_token_index": "image_token_id", "video_token_index": "video_token_id"}
            known = getattr(theirs, key, None)
            known = getattr(theirs, other.get(key, key)) if known is None else known
            assert mine[key] == known, key
        bare = {k: v for k, v in config.items() if k in ("model_type", "text_config")}
        bare["vision_config"] = config["vision_config"]
        full, default = completed(bare, "x"), CONFIG_MAPPING[name](**bare)
        for key in ("vision_feature_layer", "vision_feature_select_strategy"):
            assert full[key] == getattr(default, key), key
        model = load_model(find_model(str(folder)), "cpu", "float32", "auto", None, 0).model
        assert shape_from_config(model.config.to_dict(), "x") == shape_from_config(config, "x")


@pytest.mark.parametrize(
    ("file", "field", "value"),
    [
        ("processor_config.json", "vision_aspect_ratio", "anyres_max_4"),
        ("processor_config.json", "num_image_tokens", 35),
        ("processor_config.json", "vision_feature_select_strategy", "default"),
        ("preprocessor_config.json", "image_grid_pinpoints", [[SIDE, SIDE]]),
    ],
)
def test_a_processor_that_counts_other_tokens_is_refused(
    tmp_path: Path, file: str, field: str, value: Any
) -> None:
    folder = write_onevision(tmp_path / "model")
    edit(folder / file, **{field: value})
    with pytest.raises(UsageError, match=field) as error:
        load_model(str(folder), "cpu", "float32", "sdpa")
    assert "\n" not in str(error.value)


def test_the_released_grids_are_the_processor_s(tiler: Any) -> None:
    default = LlavaOnevisionImageProcessor()
    assert [list(pair) for pair in shape_of(PUBLISHED).tiles] == default.image_grid_pinpoints
    assert tiler.image_grid_pinpoints == default.image_grid_pinpoints


# --- prompts
def request(name: str, text: str, *sizes: tuple[int, int]) -> Request:
    """A question on images of these (height, width), one bright square in each."""
    images = [bright(size, (0.5, 0.5)) for size in sizes]
    return Request(0, "task", name, text, GenerationKwargs(3), lambda: images, list)


BATCHES = [
    [request("0", "what is red"), request("1", "what is left", (40, 70))],
    [request("2", "is the dog red", (40, 70), (99, 31)), request("3", "what is left", (150, 90))],
    [request("4", "what"), request("5", "is the table red", (200, 190))],
    [request("6", "what"), request("7", "is the dog left of the table")],
]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("spec", ["dense", "fastv", "divprune", "blind"])
def test_a_batch_of_questions_is_answered_as_each_alone(
    folders: dict[str, Path], name: str, spec: str
) -> None:
    """Prompts without an image, with one and with several, side by side."""
    session = load_model(str(folders[name]), "cpu", "float32", "sdpa", feature_cache_mib=16)
    with torch.no_grad(), session.under(methods.parse(spec)) as (run, sharing):
        generator = Generator(session, run, sharing, spec)
        for batch in BATCHES:
            together = generator.answer(batch)
            for one, out in zip(batch, together, strict=True):
                (alone,) = generator.answer([one])
                assert (alone.text, alone.n_out) == (out.text, out.n_out)
                np.testing.assert_array_equal(alone.record.keep, out.record.keep)
                assert alone.record.grid == out.record.grid
                assert len({g["number"] for g in out.record.grid}) == len(one.load_images())


def test_records_say_where_in_their_images_tokens_lie(folder: Path) -> None:
    session = load_model(str(folder), "cpu", "float32", "sdpa")
    with torch.no_grad(), session.under(methods.parse("fastv")) as (run, sharing):
        generator = Generator(session, run, sharing, "fastv")
        several, shrunk = generator.answer(BATCHES[1])
        (whole,) = generator.answer([request("8", "what", (150, 190))])
    assert several.record.n_image == 2 * (TOKENS + 1)
    assert [g["fit"] for g in several.record.grid] == ["pad", "pad"]
    # 40 x 70 pixels stand in the middle of 70 x 70; 30 of 32 are seen.
    assert several.record.grid[0]["box"] == pytest.approx([0, -15, 65.625, 50.625])
    assert [g["number"] for g in several.record.grid] == [0, 1]
    assert shrunk.record.grid[1]["whole"] == [30, 18]
    base, tile = whole.record.grid
    assert (base["fit"], tile["fit"]) == ("stretch", "tiles") and tile["whole"] == [28, 36]
    assert tile["rows"] * (tile["cols"] + 1) + TOKENS == whole.record.n_image
    off = np.abs(np.array(tile["box"]) - [0, 0, 190, 150])
    assert off.max() < 3  # of 5 a token
    middle = overlapping([tile], [[94, 74, 96, 76]]) - tile["start"]
    rows, cols = np.divmod(middle, tile["cols"] + 1)
    assert set(rows) <= {tile["rows"] // 2 + i for i in (-1, 0, 1)}
    assert set(cols) <= {tile["cols"] // 2 + i for i in (-1, 0, 1)}


def test_a_prompt_keeps_its_images_with_it(folder: Path) -> None:
    """The processor is told which images are one prompt's: those are not cut into tiles."""
    session = load_model(str(folder), "cpu", "float32", "sdpa")
    prompter = Prompter(session)
    batch = [BATCHES[0][0], BATCHES[1][0], BATCHES[0][1]]
    inputs = prompter.inputs(batch, [prompter.images(one) for one in batch])
    assert inputs["batch_num_images"].tolist() == [2, 1]
    image = inputs["input_ids"] == session.model.config.image_token_id
    assert image.sum(1)[:2].tolist() == [0, 2 * (TOKENS + 1)] and int(image.sum(1)[2]) > 2 * TOKENS
    text = "<|im_start|>user <image>\nwhat<|im_end|><|im_start|>assistant\n"
    assert prompter.prompt("what", 1) == text


@pytest.mark.usefixtures("uncounted")
# --- from the command line
@pytest.mark.parametrize("name", some(WRITERS, "llava_onevision"))
def test_a_repository_is_evaluated(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(folders[name]), "--bench", "gqa", "--data", "mini", "--limit", "2"]
    argv += ["--device", "cpu", "--dtype", "float32", "--batch-size", "2", "--quiet"]
    assert main([*argv, "--methods", "fastv,pool", "--out", str(out)]) == 0
    rows = {row["method"]: row for row in read_rows(out / "cells.csv")}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("dense", "fastv", "pool"), "done"
    )
    evidence = read_rows(out / "evidence.csv")
    assert {row["cell_id"] for row in evidence} == {row["cell_id"] for row in rows.values()}
    assert (out / "figures" / "overlay_gqa.png").is_file()


def test_methods_of_a_class_token_are_refused_before_loading(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model", str(folder), "--bench", "gqa", "--data", "mini", "--limit", "1"]
    argv += ["--methods", "fastervlm", "--device", "cpu", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fastervlm: reads the class token" in line and not (tmp_path / "out").exists()


assert SIDE % 5  # pixels that no patch sees
