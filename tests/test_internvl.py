"""InternVL: dense bit-equal to the library, methods equal to the naive reference, tiles counted."""

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
from harness.families.catalog import KNOWN, REGISTRY, shape_from_config, shape_of
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
from tests.tiers import some

TILE = 16  # tokens
# Text before, tiles of each image (the thumbnail included), text after.
ROWS = [(3, [3], 4), (2, [], 5), (2, [1, 4], 2), (5, [1], 7)]
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
PUBLISHED = [name for name in KNOWN if "InternVL" in name]
STEPS = 3


def batch(model: Any, rows: list[tuple[int, list[int], int]], seed: int = 0) -> dict[str, Tensor]:
    """A left-padded batch; a word stands behind every image."""
    draw = torch.Generator().manual_seed(seed)
    lines = []
    for before, images, after in rows:
        words = torch.randint(3, 50, (before + after,), generator=draw).tolist()
        pictures = [t for n in images for t in [*[tiny.IMAGE] * (n * TILE), 51]]
        lines.append([tiny.BOS, *words[:before], *pictures, *words[before:]])
    width = max(map(len, lines))
    ids = torch.tensor([[0] * (width - len(line)) + line for line in lines])
    mask = torch.tensor([[0] * (width - len(line)) + [1] * len(line) for line in lines])
    inputs = {"input_ids": ids, "attention_mask": mask}
    count = sum(n for _, images, _ in rows for n in images)
    if count:
        pixels = torch.randn((count, 3, 32, 32), generator=draw)
        inputs["pixel_values"] = pixels.to(model.dtype)
    return inputs


def alone(inputs: dict[str, Tensor], i: int) -> dict[str, Tensor]:
    """Row ``i`` without padding."""
    real = inputs["attention_mask"][i].bool()
    single = {name: inputs[name][i][real][None] for name in ("input_ids", "attention_mask")}
    first = sum(n for _, images, _ in ROWS[:i] for n in images)
    if ROWS[i][1]:
        single["pixel_values"] = inputs["pixel_values"][first : first + sum(ROWS[i][1])]
    return single


def reference(
    model: Any, spec: str, modules: Any, single: dict[str, Tensor], images: list[int],
    answer: Tensor, name: str,
) -> naive.Naive:  # fmt: skip
    """The naive pass of one row; its images as lists of tiles."""
    features: list[Tensor] = []
    if images:
        with torch.no_grad():
            tiles = model.model.get_image_features(single["pixel_values"], return_dict=True)
        features = [part.flatten(0, 1) for part in torch.split(tiles.pooler_output, images)]
    grids = [[(4, 4, False)] * n for n in images]
    ids = single["input_ids"][0].tolist()
    sample = naive.Sample(ids, answer.tolist(), features, tiny.IMAGE, grids, name)
    method = methods.parse(spec)
    if method.name == "divprune":
        return farthest(naive.Naive(model, sample), method.keep)
    return naive.run(model, sample, method.name, naive_params(method, depth_of(model)), modules)


def farthest(pass_: naive.Naive, keep: float) -> naive.Naive:
    """DivPrune from its formula, image by image, on positions counted anew."""
    with torch.no_grad():
        for (start, n), states in zip(pass_.sample.spans, pass_.sample.features, strict=True):
            units = states / states.norm(dim=1, keepdim=True)
            distance = (1 - units @ units.T).tolist()
            rest = list(range(n))
            chosen = [max(rest, key=lambda i: min(distance[i][j] for j in rest if j != i))]
            while len(chosen) < round(keep * n):
                left = [i for i in rest if i not in chosen]
                chosen.append(max(left, key=lambda i: min(distance[i][j] for j in chosen)))
            pass_.alive[[start + i for i in rest if i not in chosen]] = False
        pass_.position = pass_.ranks(pass_.alive)
        naive.dense(pass_)
    return pass_


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_dense_is_bit_equal_alone_and_in_a_ragged_batch(attn: str) -> None:
    model = tiny.build("internvl", attn, torch.float32)
    together = batch(model, ROWS)
    options = {"return_dict_in_generate": True, "output_logits": True, "do_sample": False}
    for inputs in (together, alone(together, 0), alone(together, 2)):
        plain = model.generate(**inputs, max_new_tokens=4, suppress_tokens=[tiny.IMAGE], **options)
        with torch.no_grad(), routed(model, methods.parse("dense")) as run:
            mine = model.generate(
                **inputs, max_new_tokens=4, suppress_tokens=[tiny.IMAGE], **options
            )
            records = run.records()
        assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))
    kinds = [grid["kind"] for grid in records[0].grid]
    assert kinds == ["base", "tile", "tile", "tile", "base"]


@pytest.mark.parametrize("spec", SPECS)
def test_equals_the_reference_alone_and_in_a_ragged_batch(spec: str) -> None:
    model = exact_norms(tiny.build("internvl"))
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


def test_blind_runs_without_the_tower() -> None:
    model = tiny.build("internvl")
    inputs = alone(batch(model, ROWS), 0)
    hook = model.model.vision_tower.embeddings.register_forward_hook(
        lambda *_: pytest.fail("the tower ran")
    )
    with torch.no_grad(), routed(model, methods.parse("blind")) as run:
        model(**inputs)
        (record,) = run.records()
    hook.remove()
    assert record.n_image == 3 * TILE and not record.keep[:, record.kinds == IMAGE].any()


def test_shared_features_are_kept_image_by_image() -> None:
    model, store = tiny.build("internvl", dtype=torch.float32), FeatureCache(2**20)
    inputs = batch(model, ROWS)
    tiles: list[int] = []
    model.model.vision_tower.register_forward_hook(
        lambda _module, _inputs, out: tiles.append(len(out.last_hidden_state))
    )
    options = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [tiny.IMAGE]}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    plain = model.generate(**inputs, **options)
    tiles.clear()
    with shared_features(model, store) as sharing:
        for rows in (inputs, inputs, alone(inputs, 2)):
            keys = ["a", "b", "c", "d"] if rows is inputs else ["b", "c"]
            sharing.expect(keys, rows)
            with torch.no_grad(), routed(model, methods.parse("dense")) as run:
                mine = model.generate(**rows, **options)
                records = run.records()
            if rows is inputs:
                pairs = zip(plain.logits, mine.logits, strict=True)
                for one, other in pairs:
                    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert tiles == [3, 1, 4, 1] and (store.misses, store.hits) == (4, 6)
    assert [grid["crops"] for grid in records[0].grid] == [1] * 5


def test_images_without_text_between_them_are_refused() -> None:
    model = tiny.build("internvl")
    inputs = batch(model, [(3, [2], 4)])
    with (
        torch.no_grad(),
        routed(model, methods.parse("llavolta")),
        pytest.raises(UsageError, match="text must stand between"),
    ):
        model(**inputs)
    family = REGISTRY["internvl"]
    inputs["pixel_values"] = inputs["pixel_values"][:1].repeat(3, 1, 1, 1)
    with pytest.raises(UsageError, match="3 tiles do not fill runs of 32"):
        family.counted(inputs, tiny.IMAGE)


@pytest.mark.parametrize("name", ["visionzip", "mmtok", "illava"])
def test_methods_that_read_patches_say_why_they_cannot(name: str) -> None:
    model, method = tiny.build("internvl"), methods.parse(name)
    with pytest.raises(MethodError, match="two by two patches") as error:
        routed(model, method, method.build_modules(find_parts(model).info)).__enter__()
    assert "\n" not in str(error.value)


# --- the tower's class token
def eager(**tower: Any) -> Any:
    """A tiny model whose attention weights the library returns."""
    sizes = REGISTRY["internvl"].tiny()
    sizes["vision_config"] |= tower
    config = REGISTRY["internvl"].config_class()(**sizes)
    model = REGISTRY["internvl"].model_class()._from_config(config, attn_implementation="eager")
    return tiny.randomise(model).eval()


@pytest.mark.parametrize("tower", [{}, {"use_qk_norm": True, "norm_type": "rms_norm"}])
@pytest.mark.parametrize("spec", ["fastervlm:keep=200", "scope:keep=200"])
def test_a_token_has_the_mean_of_its_patches_attention(spec: str, tower: dict[str, Any]) -> None:
    """Equal to loops over what the library says of its last tower layer but one."""
    model = eager(**tower)
    inputs = batch(model, ROWS)
    with torch.no_grad():
        seen = model.model.vision_tower(inputs["pixel_values"], output_attentions=True)
        rows = seen.attentions[-2][:, :, 0, 1:].mean(1).view(-1, 4, 2, 4, 2).mean((2, 4))
        states = seen.last_hidden_state[:, 1:].view(-1, 8, 8, 16)
        features = model.model.pixel_shuffle(states).flatten(1, 2).double()
        with routed(model, methods.parse(spec)) as run:
            model(**inputs)
            records = run.records()
    scores = rows.flatten(1).double().tolist()
    kept = round(200 * TILE / 576)
    tile = 0
    for record in records:
        columns = np.nonzero(record.kinds == IMAGE)[0].tolist()
        for start in range(0, len(columns), TILE):
            row, unit = scores[tile], features[tile] / features[tile].norm(dim=1, keepdim=True)
            if spec.startswith("fastervlm"):
                chosen = sorted(range(TILE), key=lambda i: -row[i])[:kept]
            else:
                chosen = covering(unit @ unit.T, row, kept)
            expected = [columns[start + i] for i in sorted(chosen)]
            mine = [c for c in columns[start : start + TILE] if record.keep[0, c]]
            assert mine == expected
            tile += 1


def covering(alike: Tensor, weight: list[float], k: int) -> list[int]:
    """SCOPE's picks: the largest gain in coverage times the token's weight, again and again."""
    covered, chosen = torch.zeros(len(weight), dtype=alike.dtype), list[int]()
    for _ in range(k):
        gains = {
            j: weight[j] * float((alike[:, j] - covered).clamp(min=0).sum())
            for j in range(len(weight))
            if j not in chosen
        }
        chosen.append(max(gains, key=lambda j: gains[j]))
        covered = torch.maximum(covered, alike[:, chosen[-1]])
    return chosen


# --- cost
@pytest.mark.parametrize("model", some(PUBLISHED, PUBLISHED[0]))
def test_counters_agree_at_published_sizes(model: str) -> None:
    shape = shape_of(model)
    assert max(found.difference for found in Referees(shape).examine()) < 1e-3
    tower = sum(
        part.times * part.flops
        for part in REGISTRY["internvl"].sight(shape, [], 256)
        if part.scope == "vision" and part.flops
    )
    if shape.vision.hidden == 1024:
        assert tower / 1e12 == pytest.approx(0.72, abs=0.005)
    assert REGISTRY["internvl"].image_sizes(shape)[0].tokens == 13 * 256  # 480 x 640 pixels


@pytest.mark.parametrize("spec", ["dense", "fastv", "divprune", "fastervlm", "scope", "blind"])
def test_what_runs_is_what_the_ledger_says(spec: str) -> None:
    model = tiny.build("internvl")
    inputs = alone(batch(model, ROWS), 2)
    with torch.no_grad(), routed(model, methods.parse(spec)) as run, executed(model) as ran:
        options = {"do_sample": False, "suppress_tokens": [tiny.IMAGE]}
        model.generate(**inputs, max_new_tokens=4, **options)
    shape = shape_from_config(model.config.to_dict(), "tiny")
    cost = sample_cost(run.records()[0], shape, 8, spec != "blind").whole
    assert cost == pytest.approx(ran.tflops, rel=1e-12)
