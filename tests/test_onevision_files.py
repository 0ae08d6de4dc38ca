"""LLaVA-OneVision and LLaVA-NeXT-Video from files: tokens, pixels, prompts, the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import methods
from harness.bench.prompter import Prompter
from harness.bench.request import GenerationKwargs, Request
from harness.command.cli import main
from harness.common.errors import UsageError
from harness.engine import routed
from harness.families.catalog import FAMILIES, KNOWN, completed, read_config, shape_of
from harness.families.shapes import ImageSize
from harness.model.catalog import find_model, load_model
from harness.store.csvfile import read_rows
from tests.fixtures.onevision_models import GRIDS, ROWS, SIDE, write_next_video, write_onevision
from tests.test_geometry import CENTRES, agree, bright, light

from transformers import AutoProcessor, LlavaOnevisionConfig  # isort: skip  after the fixtures
from transformers import LlavaOnevisionImageProcessor  # isort: skip

FAMILY = FAMILIES["llava_onevision"]
SEVEN = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
# Height and width of images, and their tokens at the published sizes.
FACTS = {
    (336, 336): 1485, (480, 640): 2929, (899, 1024): 6551, (1080, 1920): 7269, (2000, 3000): 7329,
}  # fmt: skip
SIZES = [(30, 30), (33, 70), (71, 45), (300, 301), (97, 31), (1, 200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onevision(tmp_path_factory.mktemp("onevision"), layers=5)


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder, local_files_only=True)


def of_length(grids: list[dict[str, Any]]) -> int:
    return sum(g["rows"] * (g["cols"] + g["newline"]) for g in grids)


# --- tokens
def test_token_counts_of_the_published_geometry(processor: Any) -> None:
    """Equal to the facts, to the library's processor and to the closed form of `image_sizes`."""
    config = LlavaOnevisionConfig(**KNOWN[SEVEN])
    kind = type(processor)
    pictures = LlavaOnevisionImageProcessor()
    large = kind(
        pictures, processor.tokenizer, processor.video_processor, num_image_tokens=729,
        vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    for size, tokens in FACTS.items():
        told = large._get_num_multimodal_tokens(image_sizes=[size])["num_image_tokens"]
        assert told == [tokens]
        grids = FAMILY.grids(config, 3, tokens, size)
        assert of_length(grids) == tokens
        with pytest.raises(UsageError, match="does not make"):
            FAMILY.grids(config, 3, tokens + 1, size)
    for one in FAMILY.image_sizes(shape_of(SEVEN)):
        told = large._get_num_multimodal_tokens(image_sizes=[one.size])["num_image_tokens"]
        tiles = one.size[0] * one.size[1] // 384**2
        assert one == ImageSize(one.size, 1 + tiles, told[0])


@pytest.mark.parametrize("size", SIZES)
def test_tokens_of_odd_sizes_alone_and_beside_others(processor: Any, size: tuple[int, int]) -> None:
    model_config = LlavaOnevisionConfig(**read_config_of(processor))
    image = bright(size, (0.5, 0.5))
    made = processor(
        text=["what<image>color", "what<image>\n<image>", "what"],
        images=[[image], [image, image], []], padding=True, return_tensors="pt",
    )  # fmt: skip
    counts = (made["input_ids"] == processor.image_token_id).sum(1).tolist()
    assert counts[1:] == [2 * (ROWS**2 + 1), 0]
    assert of_length(FAMILY.grids(model_config, 0, counts[0], size)) == counts[0]
    (grid,) = FAMILY.grids(model_config, 0, ROWS**2 + 1, size)
    assert (grid["rows"], grid["cols"], grid["image_length"]) == (ROWS, ROWS, ROWS**2 + 1)


def read_config_of(processor: Any) -> dict[str, Any]:
    return read_config(Path(processor.tokenizer.name_or_path))


# --- pixels: 98 pixels a square, 12 patches of 8, two pixels that no patch sees
def large_geometry(most: int) -> tuple[Any, Any]:
    grids = [[98 * high, 98 * wide] for high in (1, 2, 3) for wide in (1, 2, 3)]
    processor = LlavaOnevisionImageProcessor(
        size={"height": 98, "width": 98}, image_grid_pinpoints=grids, image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )  # fmt: skip
    vision = {"model_type": "siglip_vision_model", "image_size": 98, "patch_size": 8}
    config = LlavaOnevisionConfig(
        vision_config=vision, image_grid_pinpoints=grids, vision_aspect_ratio=f"anyres_max_{most}"
    )
    return processor, config


def shown(pixels: Any) -> Any:
    """[12, 12] brightness of what the patches of a square see."""
    return light(np.asarray(pixels)[:, :96, :96], 12, 12)


@pytest.mark.parametrize("most", [9, 2])
@pytest.mark.parametrize("size", [(300, 301), (200, 500), (333, 170), (421, 130), (90, 64)])
def test_tokens_map_back_to_their_pixels(size: tuple[int, int], most: int) -> None:
    """The base, and the tiles as the model joins, cuts and (of more than ``most``) shrinks them."""
    from transformers.models.llava_onevision.modeling_llava_onevision import (
        get_anyres_image_grid_shape,
        unpad_image,
    )

    processor, config = large_geometry(most)
    high, wide = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, 98)
    for centre in CENTRES:
        image = bright(size, centre)
        whole, *tiles = processor(image, return_tensors="np")["pixel_values"][0]
        parts = [shown(one) for one in tiles]
        joined = np.block([[parts[r * wide + c] for c in range(wide)] for r in range(high)])
        cut = unpad_image(torch.tensor(joined)[None], size)
        ratio = (cut.shape[1] * cut.shape[2] / (most * 144)) ** 0.5
        if ratio > 1.1:
            few = [int(cut.shape[1] // ratio), int(cut.shape[2] // ratio)]
            cut = torch.nn.functional.interpolate(cut[None], few, mode="bilinear")[0]
        seen = cut[0].numpy()
        grids = FAMILY.grids(config, 5, 144 + seen.shape[0] * (seen.shape[1] + 1), size)
        FAMILY.place(grids, [size], processor)
        assert [grid["fit"] for grid in grids] == ["stretch", "tiles"]
        assert ("whole" in grids[1]) == (ratio > 1.1)
        agree(grids[0], shown(whole), size, image)
        # Each tile has its own unseen edge, so that tokens stand off by up to a quarter here.
        middle = centre_of(grids[1], seen)
        off = np.abs(middle - [int(at * length) for at, length in zip(centre, size, strict=True)])
        print("OFF", size, most, off / token_of(grids[1]))
        assert (off < 0.3 * token_of(grids[1])).all()


def centre_of(grid: dict[str, Any], seen: Any) -> Any:
    """Where in the image the light is: y, x in pixels."""
    left, top, right, bottom = grid["box"]
    ys = top + (np.arange(len(seen)) + 0.5) * (bottom - top) / len(seen)
    xs = left + (np.arange(seen.shape[1]) + 0.5) * (right - left) / seen.shape[1]
    weight = seen / seen.sum()
    return np.array([(weight.sum(1) * ys).sum(), (weight.sum(0) * xs).sum()])


def token_of(grid: dict[str, Any]) -> Any:
    """Height and width of a token in pixels of the image."""
    left, top, right, bottom = grid["box"]
    return np.array([(bottom - top) / grid["rows"], (right - left) / grid["cols"]])


@pytest.mark.parametrize("size", [(300, 301), (200, 500), (333, 170), (421, 130)])
def test_images_beside_others_are_padded_squares(size: tuple[int, int]) -> None:
    processor, config = large_geometry(9)
    for centre in CENTRES:
        image = bright(size, centre)
        made = processor([[image, image]], return_tensors="np")["pixel_values"]
        (one,) = FAMILY.grids(config, 0, 145, size)
        (two,) = FAMILY.grids(config, 145, 145, size)
        FAMILY.place([one, two], [size, size], processor)
        assert (one["fit"], two["number"]) == ("pad", 1)
        for grid, pixels in ((one, made[0][0]), (two, made[1][0])):
            agree(grid, shown(pixels), size, image)


# --- configs
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vision_aspect_ratio": "anyres"}, "vision_aspect_ratio is 'anyres', not anyres_max_N"),
        ({"vision_feature_select_strategy": "default"}, "only 'full' works"),
        ({"image_grid_pinpoints": [[SIDE]]}, "is no (height, width)"),
        ({"text_config": {"model_type": "gpt_oss"}}, "text_config.model_type is 'gpt_oss'"),
    ],
)
def test_what_cannot_be_right_is_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        completed({**read_config(folder), **change}, "x")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_sizes_are_the_library_s(folder: Path) -> None:
    mine, theirs = completed({"text_config": {"model_type": "qwen2"}, "vision_config": {
        "model_type": "siglip_vision_model"}, "model_type": "llava_onevision"}, "x"), (
        LlavaOnevisionConfig())  # fmt: skip
    for key in FAMILY.says:
        if key != "tie_word_embeddings":
            assert mine[key] == getattr(theirs, key, getattr(theirs, "image_token_id", None)), key


# --- from the command line
@pytest.mark.parametrize("kind", ["llava_onevision", "llava_next_video"])
def test_a_repository_is_evaluated(kind: str, folder: Path, tmp_path: Path) -> None:
    model = folder if kind == "llava_onevision" else write_next_video(tmp_path / "model")
    out = tmp_path / "out"
    argv = ["--model", str(model), "--bench", "gqa", "--data", "mini", "--limit", "4", "--quiet"]
    argv += ["--device", "cpu", "--dtype", "float32", "--out", str(out)]
    assert main([*argv, "--methods", "fastv,pool"]) == 0
    rows = {row["method"]: row for row in read_rows(out / "cells.csv")}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("dense", "fastv", "pool"), "done"
    )


def test_images_of_a_batch_stay_with_their_prompts(folder: Path) -> None:
    """Prompts of one image, none and two together answer as each alone."""
    session = loaded(folder)
    prompter, draw = Prompter(session), np.random.default_rng(0)
    sizes: list[list[tuple[int, int]]] = [[(40, 70)], [], [(33, 20), (61, 90)], [(85, 88)]]
    asked = [request(f"what color is {i}", *row) for i, row in enumerate(sizes)]
    pictures = [
        [Image.fromarray(draw.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in row]
        for row in sizes
    ]
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "output_logits": True}
    options["return_dict_in_generate"] = True
    for spec in ("dense", "fastv", "divprune"):
        with torch.no_grad(), routed(session.model, methods.parse(spec)) as run:
            inputs = prompter.inputs(asked, pictures)
            assert inputs["batch_num_images"].tolist() == [1, 2, 1]
            together = session.model.generate(**inputs, **options).logits
            records = run.records([4] * 4)
            for i, (one, row) in enumerate(zip(asked, pictures, strict=True)):
                alone = session.model.generate(**prompter.inputs([one], [row]), **options).logits
                (record,) = run.records([4])
                np.testing.assert_array_equal(record.keep, records[i].keep)
                for a, b in zip(together, alone, strict=True):
                    torch.testing.assert_close(a[i], b[0], rtol=0, atol=2e-4)
    assert [len(record.grid) for record in records] == [2, 0, 2, 2]
    assert "whole" in records[3].grid[1]  # 3 x 3 tiles, shrunk to what four hold
    for record, row in zip(records, sizes, strict=True):
        if row:
            grids = [dict(grid) for grid in record.grid]
            FAMILY.place(grids, row, session.processor.image_processor)
            assert all("box" in grid for grid in grids)


def loaded(folder: Path) -> Any:
    return load_model(find_model(str(folder)), "cpu", "float32", "auto", None, 0)


def request(text: str, *sizes: tuple[int, int]) -> Request:
    def load() -> list[Image.Image]:
        return [bright(size, (0.5, 0.5)) for size in sizes]

    return Request(0, "t", "0", text, GenerationKwargs(4), load)


assert max(max(grid) for grid in GRIDS) == 3 * SIDE
