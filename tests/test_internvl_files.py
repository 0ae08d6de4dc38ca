"""InternVL repositories: sizes and refusals, tiles where the processor puts them, a run of each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.families.catalog import REGISTRY, completed, shape_from_config
from harness.model.catalog import find_model, load_model
from harness.options.workload import Workload, pictures
from harness.store.csvfile import read_rows
from harness.timing.prompts import alone, images_by_row, synthetic
from harness.timing.subject import Bench
from reports.geometry import overlapping
from tests.fixtures.internvl_models import IMAGE, MOST, SIDE, TOKENS, write_internvl
from tests.test_geometry import CENTRES, agree, bright, light

from transformers import CONFIG_MAPPING, AutoProcessor, GotOcr2ImageProcessor  # isort: skip  after the fixtures

FAMILY = REGISTRY["internvl"]
SIZES = [(64, 64), (33, 70), (71, 45), (300, 301), (97, 31), (1, 200)]  # height, width


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_internvl(tmp_path_factory.mktemp("internvl"), layers=5)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def seen(processor: Any, image: Any) -> tuple[Any, list[dict[str, Any]]]:
    """Pixels of an image's tiles, and the grids of its run of tokens."""
    made = processor(text=[f"what{IMAGE}color"], images=[image], return_tensors="pt")
    columns = np.nonzero((made["input_ids"][0] == processor.image_token_id).numpy())[0]
    assert np.ptp(columns) == len(columns) - 1
    sizes = CONFIG_MAPPING["internvl"](**FAMILY.tiny())
    return made["pixel_values"], FAMILY.grids(sizes, int(columns[0]), len(columns), None)


# --- tokens and pixels
@pytest.mark.parametrize("size", SIZES)
def test_a_bright_square_is_where_its_tiles_are(processor: Any, size: tuple[int, int]) -> None:
    image = bright(size, (0.5, 0.5))
    pixels, grids = seen(processor, image)
    FAMILY.place(grids, [size], processor.image_processor)
    told = processor.image_processor.get_number_of_image_patches(*size, {"crop_to_patches": True})
    assert len(grids) == len(pixels) == told
    assert [g["kind"] for g in grids] == ["tile"] * (told - 1) + ["base"]
    assert [g["fit"] for g in grids] == ["tiles"] * (told - 1) + ["stretch"]
    area = sum(np.diff(g["box"][::2])[0] * np.diff(g["box"][1::2])[0] for g in grids[:-1])
    assert told == 1 or area == pytest.approx(size[0] * size[1], rel=1e-3)
    last = grids[-1]
    assert (last["image_start"], last["image_length"]) == (grids[0]["start"], told * TOKENS)


@pytest.mark.parametrize("size", [(300, 301), (200, 500), (333, 170), (421, 130)])
def test_tokens_map_back_to_their_pixels(size: tuple[int, int]) -> None:
    """All tiles together, as one picture: a dark tile alone says nothing of its scale."""
    tiler = GotOcr2ImageProcessor(
        size={"height": 96, "width": 96}, crop_to_patches=True, max_patches=MOST
    )
    wide = {"image_size": [96, 96], "patch_size": [4, 4]}
    config = CONFIG_MAPPING["internvl"](vision_config={"model_type": "internvl_vision", **wide})
    for centre in CENTRES:
        image = bright(size, centre)
        pixels = tiler(image, return_tensors="np")["pixel_values"]
        grids = FAMILY.grids(config, 0, len(pixels) * 144, None)
        FAMILY.place(grids, [size], tiler)
        *tiles, whole = [light(one, 12, 12) for one in pixels]
        agree(grids[-1], whole, size, image)
        boxes = [grid["box"] for grid in grids[:-1]]
        across = len({left for left, *_ in boxes})
        joined = np.block([tiles[i : i + across] for i in range(0, len(tiles), across)])
        shape = {"rows": joined.shape[0], "cols": joined.shape[1], "start": 0, "newline": False}
        agree({**shape, "box": [*boxes[0][:2], *boxes[-1][2:]]}, joined, size, image)
        assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))  # row by row


def test_an_answer_s_box_lies_in_its_tile_and_in_the_thumbnail(processor: Any) -> None:
    size = (64, 96)  # 2 x 3 tiles
    _, grids = seen(processor, bright(size, (0.5, 0.5)))
    FAMILY.place(grids, [size], processor.image_processor)
    assert len(grids) == 7
    found = overlapping(grids, [[65, 33, 71, 39]]) - grids[0]["start"]  # third of the second row
    assert found.tolist() == [5 * TOKENS, 6 * TOKENS + 2 * 4 + 2]


def test_grids_stay_as_they_are_where_the_processor_has_another_rule(processor: Any) -> None:
    _, grids = seen(processor, bright((64, 96), (0.5, 0.5)))

    class Other:
        size, min_patches, max_patches = {"height": SIDE, "width": SIDE}, 1, 2

    FAMILY.place(grids, [(64, 96)], Other())
    assert ["box" in grid for grid in grids] == [False] * 6 + [True]
    FAMILY.place(grids[:6], [(64, 96)], Other())  # no thumbnail: whose are they?


# --- configs
def test_sizes_are_the_library_s(config: dict[str, Any], folder: Path) -> None:
    mine, theirs = completed(config, "x"), CONFIG_MAPPING["internvl"](**config)
    for key in FAMILY.says:
        if key != "tie_word_embeddings":
            assert mine[key] == getattr(theirs, key), key
    default = CONFIG_MAPPING["internvl_vision"]()
    full = completed({**config, "image_seq_length": None, "vision_config": {
        "model_type": "internvl_vision"}}, "x")["vision_config"]  # fmt: skip
    assert {k: full[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")} == {
        k: getattr(default, k) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")
    }
    assert [full["image_size"]] * 2 == list(default.image_size)
    assert [full["patch_size"]] * 2 == list(default.patch_size)
    model = load_model(find_model(str(folder)), "cpu", "float32", "auto", None, 0).model
    assert shape_from_config(model.config.to_dict(), "x") == shape_from_config(config, "x")
    head, words = model.lm_head.weight, model.get_input_embeddings().weight
    assert head.data_ptr() != words.data_ptr()  # the class would tie them, the file has both


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_config", {"model_type": "gpt_oss"}, "text_config.model_type is 'gpt_oss'"),
        ("vision_config", {"model_type": "clip_vision_model"}, "is 'clip_vision_model'"),
        ("vision_config", {"image_size": [32, 48]}, "vision_config.image_size is [32, 48]"),
        ("vision_config", {"patch_size": [32, 32]}, "no even number of patches of 32"),
        ("vision_config", {"image_size": [30, 30]}, "tiles of 30 pixels"),
        ("", {"vision_config": None}, "vision_config.model_type is missing"),
        ("", {"image_seq_length": 64}, "image_seq_length is 64, a tile makes 16 tokens"),
        ("", {"downsample_ratio": 1.0}, "downsample_ratio is 1.0: only 0.5 works"),
        ("", {"vision_feature_layer": [-1, -2]}, "vision_feature_layer=[-1, -2] is no layer"),
        ("", {"vision_feature_layer": 5}, "is no layer of a tower of 3"),
        ("", {"vision_feature_select_strategy": "full"}, "among the image's tokens"),
    ],
)
def test_what_cannot_be_right_is_refused(
    config: dict[str, Any], part: str, change: dict[str, Any], said: str
) -> None:
    odd = {**config, part: {**config[part], **change}} if part else {**config, **change}
    with pytest.raises(UsageError) as error:
        completed(odd, "x")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_original_layout_is_named(config: dict[str, Any]) -> None:
    old = {k: v for k, v in config.items() if not k.endswith("_config")}
    with pytest.raises(UsageError, match="original InternVL layout"):
        completed({**old, "llm_config": {}}, "x")


# --- images of noise
def test_several_images_of_a_timed_prompt_have_words_between_them(folder: Path) -> None:
    model = load_model(find_model(str(folder)), "cpu", "float32", "auto", None, 0).model
    shape = shape_from_config(model.config.to_dict(), "tiny")
    bench = Bench(model, shape)
    work = Workload(n_text=9, n_image=2 * TOKENS, n_out=2, batch=2)
    prompt = synthetic(bench, work, pictures(shape, work.n_image), seed=0)
    assert prompt.inputs["input_ids"].shape == (2, 9 + 2 * TOKENS)
    assert images_by_row(bench, prompt) == [[0, 1], [2, 3]]
    row = alone(prompt, 1, [2, 3], model)
    assert row.inputs["pixel_values"].equal(prompt.inputs["pixel_values"][2:])
    many = replace(work, n_image=17 * TOKENS)
    with pytest.raises(UsageError, match="n_text=32 is enough"):
        synthetic(bench, many, pictures(shape, many.n_image), seed=0)


@pytest.mark.usefixtures("uncounted")
# --- from the command line
def test_a_repository_is_evaluated(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["--model", str(folder), "--bench", "gqa", "--data", "mini", "--limit", "2", "--quiet"]
    argv += ["--device", "cpu", "--dtype", "float32", "--out", str(out)]
    assert main([*argv, "--methods", "fastv,divprune"]) == 0
    rows = {row["method"]: row for row in read_rows(out / "cells.csv")}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("dense", "fastv", "divprune"), "done"
    )
    drawn = read_rows(out / "figures" / "overlay_gqa.csv")
    assert {row["tokens"] for row in drawn} == {str(4 * TOKENS)}  # all tiles of a square image


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_costs_of_an_image_of_the_most_tiles(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["--costs-only", "--model", str(folder), "--methods", "fastv", "--quiet"]
    assert main([*argv, "--out", str(out)]) == 0
    rows = read_rows(out / "cost.csv")
    assert "58 text, 208 image, 32 new" in {row["bench"] for row in rows}


assert MOST >= 6  # what the sizes above are chosen for
