"""LLaVA-OneVision, LLaVA-NeXT-Video: bit-equal to the library, methods equal to a reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import methods
from harness.common.errors import UsageError
from harness.cost.executed import executed
from harness.cost.ledger import sample_cost
from harness.cost.referees import Referees
from harness.engine import routed
from harness.families import tiny
from harness.families.catalog import FAMILIES, shape_from_config, shape_of
from harness.model.features import FeatureCache, shared_features
from methods.base import IMAGE, MethodError
from tests import naive, naive_choosers
from tests.onevision_tools import GRIDS, TOKENS, alone, batch, features_of, reference
from tests.routing_tools import (
    depth_of,
    exact_norms,
    forced,
    naive_params,
    random_modules,
    with_positions,
)

SPECS = [
    "fastv:k=2:r=0.6",
    "random:keep=0.4",
    "pmod",
    "gamma:layers=all:threshold=0.5",
    "llavolta:k=1:stride=5:remainder=average",
    "llavolta",
    "divprune:keep=0.3",
    "divprune:keep=0.2",
    "cdpruner:relevance=words:ratio=0.35",
    "pool",
    "blind",
]
STEPS = 3
NEW = [
    name for kind in ("llava_onevision", "llava_next_video") for name in FAMILIES[kind].published
]
WIDE = [name for kind in ("llava", "llava_next") for name in FAMILIES[kind].published]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_dense_is_bit_equal_alone_and_in_a_ragged_batch(attn: str) -> None:
    model = tiny.build("llava_onevision", attn, torch.float32)
    together = batch(model)
    options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    options |= {"max_new_tokens": 4, "suppress_tokens": [tiny.IMAGE]}
    for inputs in (alone(together, 0), alone(together, 2), alone(together, 3), together):
        plain = model.generate(**inputs, **options)
        with torch.no_grad(), routed(model, methods.parse("dense")) as run:
            mine = model.generate(**inputs, **options)
            records = run.records()
        assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))
    assert [record.n_image for record in records] == TOKENS
    for record, expected in zip(records, GRIDS, strict=True):
        found = [(g["rows"], g["cols"], g["newline"]) for g in record.grid]
        assert found == [grid for image in expected for grid in image]


@pytest.mark.parametrize("spec", SPECS)
def test_equals_the_reference_alone_and_in_a_ragged_batch(spec: str) -> None:
    model = exact_norms(tiny.build("llava_onevision"))
    method, inputs = methods.parse(spec), batch(model)
    modules = random_modules(method, model)
    answer = torch.randint(3, 50, (4, STEPS), generator=torch.Generator().manual_seed(5))
    names = [f"doc{i}" for i in range(4)]
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(names)
        together = forced(model, with_positions(inputs), answer)
        records = run.records()
        for i, record in enumerate(records):
            single = alone(inputs, i)
            logits, found = reference(model, spec, modules, single, i, answer[i], names[i])
            torch.testing.assert_close(together[i], logits, rtol=0, atol=1e-9)
            run.set_samples([names[i]])
            own = forced(model, with_positions(single), answer[i : i + 1])[0]
            torch.testing.assert_close(own, logits, rtol=0, atol=1e-9)
            active = torch.stack(found.active).numpy()
            np.testing.assert_array_equal(record.keep, active[:, : record.n])
            np.testing.assert_array_equal(record.decode, active[:, record.n :])


def test_blind_runs_without_the_tower() -> None:
    model = tiny.build("llava_onevision")
    inputs = batch(model)
    hook = model.model.vision_tower.embeddings.register_forward_hook(
        lambda *_: pytest.fail("the tower ran")
    )
    with torch.no_grad(), routed(model, methods.parse("blind")) as run:
        model(**inputs)
        records = run.records()
    hook.remove()
    assert [record.n_image for record in records] == TOKENS
    assert not any(record.keep[:, record.kinds == IMAGE].any() for record in records)


def test_shared_features_are_kept_image_by_image() -> None:
    """An image alone in its prompt and the same one beside another are kept apart."""
    model, store = tiny.build("llava_onevision", dtype=torch.float32), FeatureCache(2**20)
    inputs = batch(model)
    inputs["pixel_values"][1] = inputs["pixel_values"][0]  # 20 x 30 both
    options = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [tiny.IMAGE]}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    with shared_features(model, store) as sharing:
        for spec in ("dense", "fastv", "divprune"):
            with torch.no_grad(), routed(model, methods.parse(spec)):
                sharing.expect(None)
                plain = model.generate(**inputs, **options)
                sharing.expect(["a", "a", "b", "c"], inputs)
                mine = model.generate(**inputs, **options)
            for one, other in zip(plain.logits, mine.logits, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert (store.misses, store.hits) == (4, 8)


@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
@pytest.mark.parametrize("name", methods.names())
def test_every_method_runs_or_says_that_it_needs_a_class_token(name: str, family: str) -> None:
    model, method = tiny.build(family), methods.parse(name)
    inputs = tiny.inputs_of(model, tiny.FRAMES if name == "freevideollm" else tiny.ROWS)
    routing = routed(model, method, random_modules(method, model), clip=tiny.Clip(model))
    if method.needs_class_token and family == "llava_onevision":
        with pytest.raises(MethodError, match="class token") as error:
            routing.__enter__()
        assert "\n" not in str(error.value)
        return
    with torch.no_grad(), routing as run:
        run.set_samples([str(i) for i in range(4)], tiny.questions(inputs["input_ids"]))
        model(**inputs)
        assert len(run.records()) == 4


@pytest.mark.parametrize("family", ["llava_onevision", "llava_next_video"])
def test_a_video_is_refused_in_a_line(family: str) -> None:
    model = tiny.build(family)
    draw = torch.Generator().manual_seed(0)
    clip = torch.randn((1, 2, 3, 16, 16), generator=draw).to(model.dtype)
    with torch.no_grad():
        frames = model.model.get_video_features(clip, return_dict=True).pooler_output
        n = sum(len(one.flatten(0, -2)) for one in frames)
        ids = torch.tensor([[1, 5, *[61] * n, 7, 9]])
        model(input_ids=ids, pixel_values_videos=clip)  # the library takes it
        with routed(model, methods.parse("dense")), pytest.raises(UsageError) as error:
            model(input_ids=ids, pixel_values_videos=clip)
    assert "video" in str(error.value) and "\n" not in str(error.value)


# --- LLaVA-NeXT-Video on images
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_next_video_is_bit_equal_on_images(attn: str) -> None:
    model = tiny.build("llava_next_video", attn, torch.float32)
    inputs = tiny.inputs_of(model, tiny.ROWS)
    options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    options |= {"max_new_tokens": 4, "suppress_tokens": [tiny.IMAGE, 61]}
    plain = model.generate(**inputs, **options)
    with torch.no_grad(), routed(model, methods.parse("dense")):
        mine = model.generate(**inputs, **options)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))


@pytest.mark.parametrize("spec", ["fastv:k=2:r=0.6", "pmod", "divprune:keep=0.3", "blind"])
def test_next_video_equals_the_reference(spec: str) -> None:
    model = exact_norms(tiny.build("llava_next_video"))
    inputs = tiny.any_resolution_inputs(model, [(20, 30), (32, 14)])
    method = methods.parse(spec)
    modules = random_modules(method, model)
    answer = torch.randint(3, 50, (1, STEPS), generator=torch.Generator().manual_seed(5))
    ids, features = inputs["input_ids"][0].tolist(), features_of(model, inputs)
    sample = naive.Sample(ids, answer[0].tolist(), features, tiny.IMAGE, name="doc")
    if method.name in naive_choosers.CHOOSERS:
        expected = naive_choosers.run(naive.Naive(model, sample), method)
    else:
        params = naive_params(method, depth_of(model))
        expected = naive.run(model, sample, method.name, params, modules).logits()
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(["doc"])
        mine = forced(model, with_positions(inputs), answer)[0]
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


# --- cost
@pytest.mark.parametrize("model", [*NEW, *WIDE])
def test_counters_agree_at_published_sizes(model: str) -> None:
    assert max(found.difference for found in Referees(shape_of(model)).examine()) < 1e-3


def test_an_image_of_four_tiles_is_the_ordinary_one() -> None:
    shape = shape_of("llava-hf/llava-onevision-qwen2-7b-ov-hf")
    usual, *rest = FAMILIES["llava_onevision"].image_sizes(shape)
    assert (usual.size, usual.crops, usual.tokens) == ((768, 768), 5, 729 + 54 * 55)
    assert len(rest) == 35 and max(one.tokens for one in rest) < 729 * 10 * 1.25
    tower = sum(
        part.times * part.flops
        for part in FAMILIES["llava_onevision"].sight(shape, [], 729)
        if part.scope == "vision" and part.flops and part.name != "projector"
    )
    assert tower / 1e12 == pytest.approx(0.64, abs=0.01)


@pytest.mark.parametrize("row", [0, 2, 3])
@pytest.mark.parametrize("spec", ["dense", "fastv", "divprune", "blind"])
def test_what_runs_is_what_the_ledger_says(spec: str, row: int) -> None:
    model = tiny.build("llava_onevision")
    inputs = alone(batch(model), row)
    if row < 3:  # crops that a batch pads are no work: the library leaves them out
        inputs["pixel_values"] = inputs["pixel_values"][:, : 5 if row == 0 else 1]
    with torch.no_grad(), routed(model, methods.parse(spec)) as run, executed(model) as ran:
        options = {"do_sample": False, "suppress_tokens": [tiny.IMAGE]}
        model.generate(**inputs, max_new_tokens=4, **options)
    shape = shape_from_config(model.config.to_dict(), "tiny")
    cost = sample_cost(run.records()[0], shape, 8, spec != "blind").whole
    assert cost == pytest.approx(ran.tflops, rel=1e-12)
