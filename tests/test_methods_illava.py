"""iLLaVA's half in the vision tower: against a naive pass of it, its books and its budget."""

from __future__ import annotations

import inspect
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

import methods
from harness.cost.ledger import sample_cost
from harness.cost.readouts import read_out
from harness.cost.referees import referees_for
from harness.engine import encode_images, routed
from harness.families.catalog import shape_from_config
from harness.families.sight import summed, tower_parts
from harness.families.tiny import any_resolution_inputs as any_resolution
from harness.store.packing import pack, unpack
from harness.store.record import IMAGE as IMAGE_KIND
from harness.store.record import RoutingRecord
from methods.base import ModelInfo
from methods.illava import ILLaVA, lowest
from tests.routing_tools import ROWS, generate
from tests.tiny import IMAGE, batch, tiny_llava, tiny_llava_next
from tests.tower_tools import SIZES, big


def info(layers: int, tower: int) -> ModelInfo:
    return ModelInfo(layers, 8, 2, 2, 4, tower)


def test_counts_as_published_and_scaled() -> None:
    method = methods.parse("illava")
    assert method.merge_layers(info(28, 27)) == (5, 6, 7, 8)
    assert method.left(729, info(28, 27)) == [637, 545, 453, 361]
    assert method.merge_layers(info(32, 24)) == (4, 5, 6, 7)
    assert method.left(576, info(32, 24)) == [503, 430, 357, 284]  # 73 of 576 each
    assert method.merge_layers(info(12, 6)) == (1, 2, 3, 4)
    assert method.merge_layers(info(5, 3)) == (0, 1)
    assert methods.parse("illava:vit_remove=0").merge_layers(info(32, 24)) == ()


def test_weights_fall_in_the_tower_and_grow_in_the_language_model() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.4, 0.2, 0.3], [0.1, 0.1, 0.1, 0.9, 0.1]])
    there = torch.ones(2, 5, dtype=torch.bool)
    assign, weight = lowest(scores, there, [2, 3], growing=False)
    assert assign.tolist() == [[0, 4, 2, 4, 4], [0, 0, 0, 3, 0]]
    expected = [[1, 1 / 6, 1, 2 / 6, 3 / 6], [0.4, 0.3, 0.2, 1, 0.1]]
    torch.testing.assert_close(weight, torch.tensor(expected))
    _, weight = lowest(scores, there, [2, 0], growing=True)
    expected = [[1, 3 / 6, 1, 2 / 6, 1 / 6], [1] * 5]
    torch.testing.assert_close(weight, torch.tensor(expected).float())


# --- a naive tower
def naive_tower(model: Any, pixels: torch.Tensor, method: ILLaVA) -> list[dict[int, torch.Tensor]]:
    """Per crop: patch -> what the projector reads in its place, patches that are gone left out."""
    tower = model.model.vision_tower
    heads, depth = tower.config.num_attention_heads, len(tower.encoder.layers)
    facts = info(model.config.text_config.num_hidden_layers, depth)
    total = (tower.config.image_size // tower.config.patch_size) ** 2
    left = dict(zip(method.merge_layers(facts), method.left(total, facts), strict=True))
    found, c = [], int(hasattr(tower, "pre_layrnorm"))  # CLIP, which has a class token
    read = depth + 1 + model.config.vision_feature_layer
    for crop in pixels:
        x = tower.embeddings(crop[None])
        x = (tower.pre_layrnorm(x) if c else x)[0]
        patches = list(range(total))
        for number, layer in enumerate(list(tower.encoder.layers)[:read]):
            a, h = layer.self_attn, layer.layer_norm1(x)
            q, k, v = (f(h).view(len(h), heads, -1) for f in (a.q_proj, a.k_proj, a.v_proj))
            p = torch.einsum("ihd,jhd->hij", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
            x = x + a.out_proj(torch.einsum("hij,jhd->ihd", p, v).flatten(1))
            if number in left and left[number] < len(patches):
                given = p.mean((0, 1))[c:].float().numpy()
                ranked = sorted(range(len(patches)), key=lambda i: (-given[i], i))
                low = ranked[left[number] - 1 :]
                weight = range(len(low), 0, -1)
                mixed = sum(w * x[c + i] for w, i in zip(weight, low, strict=True)) / sum(weight)
                x = x.clone()
                x[c + low[0]] = mixed
                stay = [i for i in range(len(patches)) if i not in low[1:]]
                x, patches = x[[*range(c), *(c + i for i in stay)]], [patches[i] for i in stay]
            x = x + layer.mlp(layer.layer_norm2(x))
        found.append(dict(zip(patches, x[c:], strict=True)))
    return found


def at_layer_0(model: Any, inputs: Any, spec: str) -> Any:
    """(hidden, index, valid, kinds, origins of all columns), and records."""
    seen: list[Any] = []
    original = ILLaVA.layer

    def layer(self: Any, number: int, seq: Any) -> Any:
        if number == 0:
            origins = seq.samples.origins()
            seen.extend((seq.hidden, seq.index, seq.valid, seq.image, origins))
        return original(self, number, seq)

    with patch.object(ILLaVA, "layer", layer):
        return seen, record_of(model, inputs, spec)


@pytest.mark.parametrize(
    ("attn", "tower"), [("sdpa", "clip"), ("eager", "clip"), ("sdpa", "siglip")]
)
@pytest.mark.parametrize("tiles", [False, True])
@pytest.mark.parametrize(
    "options", ["", ":vit_remove=200", ":vit_layers=1:vit_remove=500", ":kv=0.2"]
)
def test_the_tower_equals_a_naive_pass(attn: str, tower: str, tiles: bool, options: str) -> None:
    spec = f"illava{options}"
    if tiles:
        model = tiny_llava_next(attn=attn, dtype=torch.float64, tower=tower)
        inputs = any_resolution(model, SIZES)
    else:
        model = tiny_llava(side=6, attn=attn, dtype=torch.float64, tower=tower)
        inputs = batch(model, big(ROWS))
        pixels = inputs["pixel_values"]
    (hidden, index, valid, image, origins), records = at_layer_0(model, inputs, spec)
    per_crop = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    if tiles:  # only the crops that the grids use went in
        used = [g["crops"] for r in records for g in r.grid]
        pixels = torch.cat(
            [inputs["pixel_values"][i, : sum(used[2 * i : 2 * i + 2])] for i in range(len(SIZES))]
        )
    with torch.no_grad():
        crops = naive_tower(model, pixels, methods.parse(spec))
        project = model.model.multi_modal_projector
        for b, record in enumerate(records):
            expected = {}
            for column, origin in enumerate(origins[b].tolist()):
                state = crops[origin // per_crop].get(origin % per_crop) if origin >= 0 else None
                if state is not None:
                    expected[column] = project(state)
            mine = image[b] & (origins[b][index[b]] >= 0)
            assert index[b][mine].tolist() == list(expected)
            if expected:
                want = torch.stack(list(expected.values()))
                # The library's eager attention takes its softmax in single precision.
                torch.testing.assert_close(
                    hidden[b][mine], want, rtol=0, atol=1e-9 if attn == "sdpa" else 1e-5
                )
            newlines = int((image[b] & ~mine).sum())
            assert newlines == sum(g["rows"] for g in record.grid if g["newline"])
            first = int((inputs["attention_mask"][b] == 0).sum())
            kept = np.nonzero(record.keep[0])[0] + first
            assert kept.tolist() == index[b][valid[b]].tolist()


def test_both_halves_are_the_language_half_on_a_shorter_image() -> None:
    """Merged patches as ready-made features of a prompt that has only so many image tokens."""
    model = tiny_llava(side=6, layers=6)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers release takes no ready image features")
    inputs = batch(model, [(3, [36], 4)])
    method = methods.parse("illava")
    with torch.no_grad():
        (crop,) = naive_tower(model, inputs["pixel_values"], method)
        features = encode_images(model, inputs["pixel_values"])
        left = model.model.multi_modal_projector(torch.stack(list(crop.values())))
        features.pooler_output = [left]
        ids = inputs["input_ids"][0]
        gone = torch.nonzero(ids == IMAGE).flatten()[len(left) :]
        short = torch.ones_like(ids).index_fill(0, gone, 0).bool()
        text = {"input_ids": ids[short][None]} | {"attention_mask": torch.ones(1, int(short.sum()))}
        with routed(model, methods.parse("illava:vit_remove=0")) as run:
            expected = generate(model, text, mm_encoder_outputs={"image": features})
            half = run.records()[0]
        with routed(model, method) as run:
            mine = generate(model, inputs)
            (record,) = run.records()
    assert mine[0, len(ids) :].tolist() == expected[0, int(short.sum()) :].tolist()
    kinds = (half.processed_per_layer(IMAGE_KIND), record.processed_per_layer(IMAGE_KIND))
    assert kinds[0].tolist() == kinds[1].tolist() == [26, *[18] * 5]


# --- the books
def record_of(model: Any, inputs: Any, spec: str) -> list[RoutingRecord]:
    with torch.no_grad(), routed(model, methods.parse(spec)) as run:
        model(**inputs)
        return run.records()


def test_a_tower_without_class_token_is_counted_without_one() -> None:
    """Three SigLIP layers and the pooling head, against torch's own count of the merged pass."""
    from torch.utils.flop_counter import FlopCounterMode

    model = tiny_llava(side=6, layers=6, attn="eager", tower="siglip")
    (record,) = record_of(model, batch(model, [(3, [36], 4)]), "illava")
    assert record.tower == [31, 26, 26]
    shape = shape_from_config(model.config.to_dict(), "tiny")
    tower = model.model.vision_tower
    pixels = torch.zeros(1, 3, 24, 24)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), routed(model, methods.parse("illava")), counter:
        encode_images(model, pixels, method=methods.parse("illava"))
    own = sum(v for v in counter.get_flop_counts()["Global"].values())
    projector = 2 * 26 * (16 * 16 + 16 * 16)
    rows = 2 * 16 * (36**2 + 31**2)  # the rows formed to rank: the ledger's router
    cost = sample_cost(record, shape, itemsize=4)
    assert cost.vision is not None
    assert own == round(cost.vision * 1e12) + projector + rows
    assert not hasattr(tower.embeddings, "class_embedding")
    read_out(record, shape, 4, vision_runs=True, referees=referees_for(shape))


def test_flops_follow_the_merge_and_the_counters_agree() -> None:
    model = tiny_llava(side=6, layers=6)
    records = record_of(model, batch(model, big(ROWS)), "illava")
    shape = shape_from_config(model.config.to_dict(), "tiny")
    vision, d = shape.vision, shape.vision.hidden
    assert [r.tower for r in records] == [[32, 27, 27], [], [32, 27, 27], [32, 27, 27]]
    for record, images in zip(records, (1, 0, 2, 1), strict=True):
        cost = sample_cost(record, shape, itemsize=4)
        assert cost.vision is not None
        layers = 0
        for attended, left in ((37, 32), (32, 27), (27, 27)):
            layers += attended * 4 * d * d + 2 * attended**2 * d + left * 2 * d * vision.ffn
        embed = 36 * 3 * vision.patch**2 * d
        assert cost.vision == pytest.approx(images * 2 * (embed + layers) / 1e12)
        width = shape.hidden
        assert cost.projector == pytest.approx(images * 2 * 26 * (d * width + width**2) / 1e12)
        rows = [c for c in record.scoring if c["kind"] == "tower_rows"]
        assert sum(c["calls"] * c["tokens"] ** 2 for c in rows) == images * (37**2 + 32**2)
        read_out(
            record, shape, 4, vision_runs=True, referees=referees_for(shape)
        )  # or RefereeError
    record = records[0]
    assert sample_cost(record, shape, 4).vision < summed(tower_parts(vision, 1), "vision") / 1e12  # type: ignore[operator]
    stored = unpack(pack(record))
    assert stored.tower == record.tower
    assert sample_cost(stored, shape, 4) == sample_cost(record, shape, 4)
