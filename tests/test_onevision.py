"""LLaVA-OneVision: dense bit-equal to the library, methods equal to the naive reference, costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import methods
from harness.common.errors import UsageError
from harness.cost.executed import executed
from harness.cost.ledger import sample_cost
from harness.cost.referees import Referees
from harness.engine import find_parts, routed
from harness.families import tiny
from harness.families.catalog import REGISTRY, shape_from_config, shape_of
from harness.model.features import FeatureCache, shared_features
from methods.base import IMAGE, MethodError
from tests import naive
from tests.routing_tools import (
    depth_of,
    exact_norms,
    forced,
    naive_params,
    random_modules,
    with_positions,
)
from tests.test_internvl import farthest
from tests.tiers import some

Size = tuple[int, int]  # height, width in pixels
Row = tuple[int, list[Size], int]  # words, images, words
CROPS = 10  # of every image, zero-padded: the processor makes as many of all as the largest has
# Of a square of 4 x 4 patches and at most 3 x 3 tiles of it, four unshrunk: counted by hand.
ALONE = {
    (20, 30): [(4, 4, False), (6, 8, True)],  # 2 x 2 tiles, two rows of padding cut off
    (14, 32): [(4, 4, False), (4, 8, True)],  # 1 x 2 tiles
    (44, 46): [(4, 4, False), (8, 8, True)],  # 12 x 12 patches are shrunk to 8 x 8
}
SHRUNK = (44, 46)
BESIDE = [(4, 4, False)]  # and one newline behind it
# One image; none; several, a shrunk one's size among them; one that is shrunk.
ROWS: list[Row] = [
    (3, [(20, 30)], 4), (2, [], 5), (2, [(14, 32), SHRUNK, (9, 9)], 2), (5, [SHRUNK], 7),
]  # fmt: skip
SPECS = [
    "fastv:k=2:r=0.6",
    "random:keep=0.4",
    "pmod",
    "gamma:layers=all:threshold=0.5",
    "llavolta:k=1:stride=5:remainder=average",
    "llavolta",
    "divprune:keep=0.3",
    "pool",
    "blind",
]
PUBLISHED = [
    *(*REGISTRY["llava_onevision"].published, *REGISTRY["llava_next_video"].published),
]
STEPS = 3
GREEDY = {"do_sample": False, "suppress_tokens": [tiny.IMAGE]}


def grids_of(images: list[Size]) -> list[list[tuple[int, int, bool]]]:
    """Grids of each image of one prompt."""
    return [ALONE[size] if len(images) == 1 else BESIDE for size in images]


def tokens(images: list[Size]) -> list[int]:
    """Tokens of each image of one prompt."""
    several = len(images) > 1
    return [sum(r * (c + n) for r, c, n in grid) + several for grid in grids_of(images)]


def batch(model: Any, rows: list[Row], seed: int = 0) -> dict[str, Tensor]:
    """A left-padded batch, images of a prompt side by side."""
    draw = torch.Generator().manual_seed(seed)
    lines = []
    for before, images, after in rows:
        words = torch.randint(3, 50, (before + after,), generator=draw).tolist()
        pictures = [tiny.IMAGE] * sum(tokens(images))
        lines.append([tiny.BOS, *words[:before], *pictures, *words[before:]])
    width = max(map(len, lines))
    ids = torch.tensor([[0] * (width - len(line)) + line for line in lines])
    mask = torch.tensor([[0] * (width - len(line)) + [1] * len(line) for line in lines])
    inputs = {"input_ids": ids, "attention_mask": mask}
    sizes = [size for _, images, _ in rows for size in images]
    if sizes:
        pixels = torch.randn((len(sizes), CROPS, 3, 16, 16), generator=draw)
        inputs["pixel_values"] = pixels.to(model.dtype)
        inputs["image_sizes"] = torch.tensor(sizes)
        inputs["batch_num_images"] = torch.tensor([len(i) for _, i, _ in rows if i])
    return inputs


def alone(inputs: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Row ``i`` without padding."""
    real = inputs["attention_mask"][i].bool()
    single = {name: inputs[name][i][real][None] for name in ("input_ids", "attention_mask")}
    first, count = sum(len(images) for _, images, _ in ROWS[:i]), len(ROWS[i][1])
    if count:
        for name in ("pixel_values", "image_sizes"):
            single[name] = inputs[name][first : first + count]
        single["batch_num_images"] = torch.tensor([count])
    return single


def reference(
    model: Any, spec: str, modules: Any, single: dict[str, Tensor], images: list[Size],
    answer: Tensor, name: str,
) -> naive.Naive:  # fmt: skip
    """The naive pass of one row, its images' features from the library."""
    features: list[Tensor] = []
    if images:
        given = {name: single[name] for name in REGISTRY["llava_onevision"].images}
        with torch.no_grad():
            features = list(model.model.get_image_features(**given, return_dict=True).pooler_output)
    assert [len(one) for one in features] == tokens(images)
    ids = single["input_ids"][0].tolist()
    sample = naive.Sample(ids, answer.tolist(), features, tiny.IMAGE, grids_of(images), name)
    method = methods.parse(spec)
    if method.name == "divprune":
        return farthest(naive.Naive(model, sample), method.keep)
    return naive.run(model, sample, method.name, naive_params(method, depth_of(model)), modules)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_dense_is_bit_equal_alone_and_in_a_ragged_batch(attn: str) -> None:
    model = tiny.build("llava_onevision", attn, torch.float32)
    together = batch(model, ROWS)
    options = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 4}
    for inputs in (together, *(alone(together, i) for i in range(4))):
        plain = model.generate(**inputs, **GREEDY, **options)
        with torch.no_grad(), routed(model, methods.parse("dense")) as run:
            mine = model.generate(**inputs, **GREEDY, **options)
            records = run.records()
        assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))
        if inputs is together:
            for record, (_, images, _) in zip(records, ROWS, strict=True):
                told = [(g["rows"], g["cols"], g["newline"]) for g in record.grid]
                assert told == [grid for image in grids_of(images) for grid in image]
    assert records[0].grid[1]["whole"] == [12, 12]  # the last row alone: shrunk


@pytest.mark.parametrize("spec", SPECS)
def test_equals_the_reference_alone_and_in_a_ragged_batch(spec: str) -> None:
    model = exact_norms(tiny.build("llava_onevision"))
    method, inputs = methods.parse(spec), batch(model, ROWS)
    modules = random_modules(method, model)
    answer = torch.randint(3, 50, (4, STEPS), generator=torch.Generator().manual_seed(5))
    names = [f"doc{i}" for i in range(4)]
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(names)
        together = forced(model, with_positions(inputs), answer)
        records = run.records()
        for i, record in enumerate(records):
            single = alone(inputs, i)
            found = reference(model, spec, modules, single, ROWS[i][1], answer[i], names[i])
            torch.testing.assert_close(together[i], found.logits(), rtol=0, atol=1e-9)
            run.set_samples([names[i]])
            own = forced(model, with_positions(single), answer[i : i + 1])[0]
            torch.testing.assert_close(own, found.logits(), rtol=0, atol=1e-9)
            active = torch.stack(found.active).numpy()
            np.testing.assert_array_equal(record.keep, active[:, : record.n])
            np.testing.assert_array_equal(record.decode, active[:, record.n :])


def test_the_newline_of_an_image_beside_others_is_a_newline() -> None:
    """It is ranked, or stays, as each row's newline of an image alone."""
    model = tiny.build("llava_onevision")
    inputs = alone(batch(model, ROWS), 2)
    columns = np.nonzero((inputs["input_ids"][0] == tiny.IMAGE).numpy())[0]
    ends = columns[16::17]
    for newlines, kept in (("candidate", 17), ("keep", 15)):
        spec = f"divprune:keep={kept / 17}:newlines={newlines}"
        with torch.no_grad(), routed(model, methods.parse(spec)) as run:
            model(**inputs)
            (record,) = run.records()
        assert record.keep[0, ends].all() and record.keep[0, columns].sum() == 3 * kept


@pytest.mark.parametrize("spec", ["illava", "mmtok", "mmtok:tokens=5", "divprune:space=crop"])
def test_a_batch_is_routed_as_its_rows_alone(spec: str) -> None:
    model, method = tiny.build("llava_onevision"), methods.parse(spec)
    inputs = batch(model, ROWS)
    with torch.no_grad(), routed(model, method) as run:
        together = model(**inputs).logits[:, -1]
        records = run.records()
        for i, record in enumerate(records):
            logits = model(**alone(inputs, i)).logits[0, -1]
            (own,) = run.records()
            assert (own.route == record.route).all() and own.tower == record.tower
            torch.testing.assert_close(together[i], logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("i", [0, 2, 3])
def test_blind_runs_without_the_tower(i: int) -> None:
    model = tiny.build("llava_onevision")
    inputs = alone(batch(model, ROWS), i)
    hook = model.model.vision_tower.embeddings.register_forward_hook(ran)
    with torch.no_grad(), routed(model, methods.parse("blind")) as run:
        model(**inputs)
        (record,) = run.records()
    hook.remove()
    assert record.n_image == sum(tokens(ROWS[i][1]))
    assert not record.keep[:, record.kinds == IMAGE].any()


def ran(*_: Any) -> None:
    pytest.fail("the tower ran")


# --- features
def test_shared_features_are_kept_image_by_image() -> None:
    model, store = tiny.build("llava_onevision", dtype=torch.float32), FeatureCache(2**22)
    inputs = batch(model, ROWS)
    crops: list[int] = []
    model.model.vision_tower.register_forward_hook(
        lambda _module, _inputs, out: crops.append(len(out.last_hidden_state))
    )
    options = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 3}
    plain = model.generate(**inputs, **GREEDY, **options)
    assert crops == [5 + 3 + 10]
    crops.clear()
    with shared_features(model, store) as sharing:
        for rows in (inputs, inputs, alone(inputs, 2)):
            keys = list("abcde") if rows is inputs else list("bcd")
            sharing.expect(keys, rows)
            with torch.no_grad(), routed(model, methods.parse("dense")) as run:
                mine = model.generate(**rows, **GREEDY, **options)
                records = run.records()
            if rows is inputs:
                for one, other in zip(plain.logits, mine.logits, strict=True):
                    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert crops == [5, 1, 1, 1, 10] and (store.misses, store.hits) == (5, 8)
    assert [grid["rows"] for grid in records[0].grid] == [4, 4, 4]


def test_an_image_beside_another_is_another_one_than_alone() -> None:
    model, store = tiny.build("llava_onevision", dtype=torch.float32), FeatureCache(2**22)
    one = batch(model, [(3, [(20, 30)], 4)])
    two = batch(model, [(3, [(20, 30), (20, 30)], 4)])
    two["pixel_values"] = one["pixel_values"].repeat(2, 1, 1, 1, 1)
    options = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 2}
    for inputs, keys in ((one, ["a"]), (two, ["a", "a"]), (one, ["a"])):
        plain = model.generate(**inputs, **GREEDY, **options)
        with shared_features(model, store) as sharing:
            sharing.expect(keys, inputs)
            mine = model.generate(**inputs, **GREEDY, **options)
        for left, right in zip(plain.logits, mine.logits, strict=True):
            torch.testing.assert_close(left, right, rtol=0, atol=1e-5)
    assert (store.misses, store.hits) == (2, 2)


# --- refused
PLAIN = [methods.parse(name) for name in methods.names()]
CLASS_TOKEN = [one.name for one in PLAIN if one.needs_class_token and not one.reads_received]


@pytest.mark.parametrize("name", CLASS_TOKEN)
def test_methods_that_read_a_class_token_say_so(name: str) -> None:
    model, method = tiny.build("llava_onevision"), methods.parse(name)
    with pytest.raises(MethodError, match="class token") as error:
        routed(model, method, method.build_modules(find_parts(model).info)).__enter__()
    assert "\n" not in str(error.value) and str(error.value).startswith(f"{name}: ")


@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
def test_a_video_is_refused(family: str) -> None:
    model = tiny.build(family)
    ids = torch.tensor([[tiny.BOS, 7, *[61] * 9, 8]])
    video = {"pixel_values_videos": torch.randn(1, 2, 3, 16, 16, dtype=model.dtype)}
    with (
        torch.no_grad(),
        routed(model, methods.parse("dense")),
        pytest.raises(UsageError, match="video") as error,
    ):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), **video)
    assert "\n" not in str(error.value)


# --- cost
@pytest.mark.parametrize("model", some(PUBLISHED, PUBLISHED[0]))
def test_counters_agree_at_published_sizes(model: str) -> None:
    shape = shape_of(model)
    assert max(found.difference for found in Referees(shape).examine()) < 1e-3
    if shape.family == "llava_onevision":
        family = REGISTRY["llava_onevision"]
        parts = family.sight(shape, [{"rows": 27, "cols": 27, "crops": 1}], 729)
        tower = sum(p.times * p.flops for p in parts if p.scope == "vision" and p.flops)
        assert tower / 1e12 == pytest.approx(0.64, abs=0.03)
        told = {one.size: one.tokens for one in family.image_sizes(shape)}
        assert told[384, 384] == 1485 and told[768, 768] == 729 + 54 * 55
        assert told[2304, 2304] == 729 + 81 * 82  # shrunk to nine tiles


@pytest.mark.parametrize("spec", ["dense", "fastv", "divprune", "llavolta", "pool", "blind"])
@pytest.mark.parametrize("i", [0, 2, 3])
def test_what_runs_is_what_the_ledger_says(spec: str, i: int) -> None:
    model = tiny.build("llava_onevision")
    inputs = alone(batch(model, ROWS), i)
    with torch.no_grad(), routed(model, methods.parse(spec)) as run, executed(model) as found:
        model.generate(**inputs, max_new_tokens=4, **GREEDY)
    shape = shape_from_config(model.config.to_dict(), "tiny")
    cost = sample_cost(run.records()[0], shape, 8, spec != "blind").whole
    assert cost == pytest.approx(found.tflops, rel=1e-12)
