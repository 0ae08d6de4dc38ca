"""Downsample: what the tower sees, what the language model gets, what it costs, who refuses it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import interpolate

import methods
from harness.command.cli import main
from harness.cost.ledger import sample_cost
from harness.engine import EngineError, encode_images, find_parts, routed
from harness.families.catalog import FAMILIES, shape_from_config
from harness.jobs.matched import with_controls
from harness.jobs.resolve import named_methods
from methods.base import MethodError
from tests.qwen_tools import rows_of, tiny_qwen
from tests.tiny import BOS, IMAGE, batch, tiny_llava, tiny_llava_next

SMALL = methods.parse("downsample:side=2")


def shrunk(pixels: torch.Tensor, high: int, wide: int) -> torch.Tensor:
    return interpolate(pixels, (high, wide), mode="bicubic", align_corners=False, antialias=True)


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_answers_are_those_of_a_prompt_with_the_smaller_image(tower: str) -> None:
    """The plain model on text and the four features that its own parts make of 8 x 8 pixels."""
    model = tiny_llava(tower=tower, dtype=torch.float64)
    inputs = batch(model, [(3, [16], 4)])
    with torch.no_grad(), routed(model, SMALL) as run:
        mine = model(**inputs).logits[0, -1]
        (record,) = run.records([1])
    with torch.no_grad():
        pixels = shrunk(inputs["pixel_values"], 8, 8)
        seen = model.model.vision_tower(
            pixels, interpolate_pos_encoding=True, output_hidden_states=True
        )
        states = seen.hidden_states[-2][:, 1:] if tower == "clip" else seen.hidden_states[-1]
        features = model.model.multi_modal_projector(states)[0]
        ids = inputs["input_ids"][0]
        words = model.get_input_embeddings()(ids)
        first, last = int((ids == IMAGE).nonzero()[0]), int((ids == IMAGE).nonzero()[-1])
        embeds = torch.cat([words[:first], features, words[last + 1 :]])[None]
        wanted = model(inputs_embeds=embeds).logits[0, -1]
    assert features.shape[0] == 4 and ids[0] == BOS
    assert torch.allclose(mine, wanted, atol=1e-10)
    assert record.grid[0]["saw"] == (2, 2) and record.n_image == 16
    assert record.processed_per_layer(2).tolist() == [4] * 4  # of image tokens


def patches(picture: torch.Tensor, patch: int, merge: int, frames: int) -> torch.Tensor:
    """Rows of pixels as Qwen's processor orders them, by its definition, one loop an axis."""
    _, high, wide = picture.shape
    side, rows = patch * merge, []
    for top in range(0, high, side):
        for left in range(0, wide, side):
            for y in range(top, top + side, patch):
                for x in range(left, left + side, patch):
                    one = picture[:, y : y + patch, x : x + patch]
                    rows.append(one[:, None].expand(-1, frames, -1, -1).reshape(-1))
    return torch.stack(rows)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_packed_towers_are_shown_the_smaller_picture(family: str) -> None:
    model = tiny_qwen(family)
    config = model.config.vision_config
    made = (config.patch_size, config.spatial_merge_size, config.temporal_patch_size)
    step = made[0] * made[1]
    draw = torch.Generator().manual_seed(0)
    picture = torch.randn(3, 6 * step, 4 * step, generator=draw, dtype=torch.float64)
    (inputs,) = rows_of(model, [(3, [(6, 4)], 4)])
    inputs["pixel_values"] = patches(picture, *made)
    method = methods.parse("downsample:side=2")
    with torch.no_grad(), routed(model, method) as run:
        out = model.model.get_image_features(
            inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True
        )
        model(**inputs)
        (record,) = run.records([1])
    small = patches(shrunk(picture[None], 2 * step, 2 * step)[0], *made)
    with torch.no_grad():
        wanted = model.model.get_image_features(small, torch.tensor([[1, 4, 4]]), return_dict=True)
    down, right = method.shrink(6, 4) or ([], [])
    slots = [r * 4 + c for r in down for c in right]
    assert torch.allclose(out.pooler_output[0][slots], wanted.pooler_output[0], atol=1e-10)
    deep = zip(
        getattr(out, "deepstack_features", None) or [],
        getattr(wanted, "deepstack_features", None) or [],
        strict=True,
    )
    assert all(torch.allclose(a[0][slots], b[0], atol=1e-10) for a, b in deep)
    assert record.grid[0]["saw"] == (2, 2)


def test_the_ledger_counts_the_smaller_tower() -> None:
    model = tiny_llava()
    shape = shape_from_config(model.config.to_dict(), "tiny")
    found = {}
    for spec in ("dense", "pool:side=2", "downsample:side=2"):
        with torch.no_grad(), routed(model, methods.parse(spec)) as run:
            model(**batch(model, [(3, [16], 4), (2, [16, 16], 2)]))
            found[spec] = [sample_cost(record, shape, 4) for record in run.records([1, 1])]
    one = found["downsample:side=2"][0]
    d, ffn, n, layers = 16, 32, 2 * 2 + 1, 3
    layer = 8 * n * d * d + 4 * n * n * d + 4 * n * d * ffn
    assert one.vision == pytest.approx((2 * 4 * 3 * 16 * d + layers * layer) / 1e12)
    assert found["downsample:side=2"][1].vision == pytest.approx(2 * one.vision)
    assert one.projector == pytest.approx(found["dense"][0].projector / 4)
    assert one.prefill == found["pool:side=2"][0].prefill


def test_nothing_is_shrunk_where_the_grid_is_as_large() -> None:
    model = tiny_llava()
    inputs = batch(model, [(3, [16], 4)])
    with torch.no_grad():
        plain = model(**inputs).logits
        for spec in ("downsample:keep=1", "downsample:side=4", "downsample:tokens=16"):
            with routed(model, methods.parse(spec)) as run:
                assert torch.equal(model(**inputs).logits, plain)
                assert "saw" not in run.records([1])[0].grid[0]


def test_features_of_another_method_are_refused() -> None:
    model = tiny_llava()
    inputs = batch(model, [(3, [16], 4)])
    pixels = inputs.pop("pixel_values")
    for made, used in ((None, SMALL), (SMALL, methods.parse("fastv"))):
        features = encode_images(model, pixels, method=made)
        with torch.no_grad(), routed(model, used), pytest.raises(EngineError, match="another"):
            model(**inputs, mm_encoder_outputs={"image": features})


def test_nothing_is_left_on_the_model() -> None:
    model = tiny_llava()
    parts = find_parts(model)
    with torch.no_grad(), routed(model, SMALL):
        model(**batch(model, [(3, [16], 4)]))
    assert "forward" not in vars(parts.tower) and "forward" not in vars(parts.projector)


# --- refused
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_takes_it_or_says_why_not(family: str) -> None:
    info = find_parts_info(family)
    assert bool(info.unshrunk) == (family not in TAKEN)
    if info.unshrunk:
        with pytest.raises(MethodError, match="tiles") as error:
            SMALL.fits(info)
        assert "\n" not in str(error.value)


TAKEN = {"llava", "moe_llava", "moe_llava_phi", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"}


def find_parts_info(family: str) -> Any:
    mine = FAMILIES[family]
    return mine.info(mine.shape(mine.tiny(), "tiny"))


def test_tiles_are_refused_by_the_engine_and_the_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(MethodError, match="tiles"):
        routed(tiny_llava_next(), SMALL).__enter__()
    model = "llava-hf/llava-v1.6-vicuna-7b-hf"
    assert main(["--costs-only", "--model", model, "--methods", "downsample:kv=0.25"]) == 2
    said = capsys.readouterr().err.strip()
    assert "downsample" in said and "use pool" in said and "\n" not in said


def test_controls_leave_it_out_where_it_cannot_run() -> None:
    fastv = [methods.parse("fastv:kv=0.5")]
    for model, there in ((tiny_llava(), True), (tiny_llava_next(), False)):
        shape = shape_from_config(model.config.to_dict(), "tiny")
        found, _ = with_controls(fastv, shape, named_methods)
        assert ("downsample" in {method.name for method in found}) == there
