"""MQT: the resampler against plain loops and torch's own attention, and its place in the engine."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import methods
from harness.command.cli import main
from harness.cost.ledger import sample_cost
from harness.cost.replica import predicted_record
from harness.engine import model_info, routed
from harness.families.catalog import config_for, shape_of
from harness.families.tiny import any_resolution_inputs as any_resolution
from harness.train.sizes import router_parameters
from methods import MethodError, resampler
from methods.base import ModelInfo
from tests.routing_tools import ROWS, generate, random_modules
from tests.tiny import IMAGE, batch, tiny_llava, tiny_llava_next

WIDE = ModelInfo(2, 24, 2, 2, 12, tower_layers=3, tower_width=128, tower_side=6)  # two heads


def wide(queries: int) -> Any:
    """Random weights of a resampler of two heads on 6 x 6 patches, in float64."""
    modules: Any = methods.parse(f"mqt:queries={queries}").build_modules(WIDE)
    draw = torch.Generator().manual_seed(3)
    for value in modules.parameters():
        value.data = torch.randn(value.shape, generator=draw, dtype=torch.float64) * 0.2
    return modules


def patches(crops: int = 2, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(crops, 36, 128, generator=draw, dtype=torch.float64)


# --- the resampler by itself ----------------------------------------------------------------------
def position(row: float, column: float, width: int) -> list[float]:
    """The published table at one place: column first, then row; sines, then cosines."""
    found = []
    for at in (column, row):
        angles = [at / 10000 ** (i / (width // 4)) for i in range(width // 4)]
        found += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    return found


def cubic(x: float, a: float = -0.75) -> float:
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def resized(own: int, side: int, width: int) -> torch.Tensor:
    """[side * side, width] by the definition of bicubic interpolation, edges repeated."""
    rows = []
    for r in range(side):
        for c in range(side):
            y, x = ((n + 0.5) * own / side - 0.5 for n in (r, c))
            total = torch.zeros(width, dtype=torch.float64)
            for i in range(math.floor(y) - 1, math.floor(y) + 3):
                for j in range(math.floor(x) - 1, math.floor(x) + 3):
                    at = [min(max(n, 0), own - 1) for n in (i, j)]
                    total += (
                        cubic(y - i) * cubic(x - j) * torch.tensor(position(*at, width)).double()
                    )
            rows.append(total)
    return torch.stack(rows)


def reference(modules: Any, states: torch.Tensor) -> torch.Tensor:
    """All tokens, by torch's own multi-head attention on batches, as the release does it."""
    queries, width = modules["query"].weight.shape
    own, side = math.ceil(math.sqrt(queries)), math.isqrt(states.shape[1])
    table = [position(i // own, i % own, width) for i in range(queries)]
    attention = nn.MultiheadAttention(width, width // 64, batch_first=True).double()
    with torch.no_grad():
        for part in ("weight", "bias"):
            stacked = torch.cat([getattr(modules[n], part) for n in "qkv"])
            getattr(attention, f"in_proj_{part}").copy_(stacked)
            getattr(attention.out_proj, part).copy_(getattr(modules["out"], part))
    q = modules["ln_q"](modules["query"].weight + torch.tensor(table).double())
    k = modules["ln_k"](resized(own, side, width))
    many = [len(states), -1, -1]
    mixed = attention(q.expand(many), k.expand(many), modules["ln_v"](states))[0]
    return mixed @ modules["proj"].weight.T


@pytest.mark.parametrize("queries", [36, 16, 9, 7])
def test_the_forward_is_the_published_one(queries: int) -> None:
    modules, states = wide(queries), patches()
    with torch.no_grad():
        mine = resampler.resample(modules, states, queries)
        torch.testing.assert_close(mine, reference(modules, states), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("m", [1, 2, 13, 35])
def test_fewer_tokens_are_the_first_of_all(m: int) -> None:
    modules, states = wide(36), patches()
    everything = resampler.resample(modules, states, 36)
    torch.testing.assert_close(resampler.resample(modules, states, m), everything[:, :m])


def test_attention_does_not_depend_on_the_image() -> None:
    """Two pictures whose patches are exchanged give tokens that add up to the same."""
    modules, states = wide(16), patches()
    swap = torch.rand(36, 1, generator=torch.Generator().manual_seed(1)) < 0.5
    mixed = torch.where(swap, states.flip(0), states)
    before, after = (resampler.resample(modules, x, 16) for x in (states, mixed))
    assert not torch.allclose(before, after)
    torch.testing.assert_close(before.sum(dim=0), after.sum(dim=0))
    masks = resampler.masks(modules, 6, 16)
    assert masks.shape == (2, 16, 36)
    torch.testing.assert_close(masks.sum(dim=-1), torch.ones(2, 16).double())


def test_sizes_are_counted_without_building() -> None:
    shape = shape_of("llava-hf/llava-1.5-7b-hf")
    built = methods.parse("mqt").build_modules(replace(WIDE, width=64, tower_width=32))
    many = sum(p.numel() for p in built.parameters())  # type: ignore[union-attr]
    assert resampler.parameters(36, 32, 64) == many
    # 256 queries, three norms, four matrices with bias of width 1024, and the matrix to 4096
    by_hand = 256 * 1024 + 3 * 2 * 1024 + 4 * (1024 * 1024 + 1024) + 1024 * 4096
    assert router_parameters(methods.parse("mqt"), shape) == by_hand


# --- in the engine --------------------------------------------------------------------------------
def in_its_place(model: Any, inputs: Any, modules: Any, keep: list[list[int]]) -> torch.Tensor:
    """Logits of the plain model's last token, one unpadded prompt, fed with embeddings by hand.

    ``keep``: for every image, the tokens of each of its crops.
    """
    inner, layer = model.model, model.config.vision_feature_layer
    ids = inputs["input_ids"][0].tolist()
    pixels, images = inputs["pixel_values"], []
    if pixels.dim() == 4:
        pixels = pixels[:, None]
    for squares, parts in zip(pixels, keep, strict=True):
        tower = inner.vision_tower(squares[: len(parts)], output_hidden_states=True)
        states = tower.hidden_states[layer][:, 1:]
        have = modules["query"].num_embeddings
        tokens = resampler.resample(modules, states, have)
        images.append(torch.cat([line[:k] for line, k in zip(tokens, parts, strict=True)]))
    embeds, at = [], 0
    for i, token in enumerate(ids):
        if token != IMAGE:
            embeds.append(inner.language_model.embed_tokens(torch.tensor([token])))
        elif i == 0 or ids[i - 1] != IMAGE or at in starts(inputs, len(images)):
            embeds.append(images.pop(0))
        at += token == IMAGE
    out = inner.language_model(inputs_embeds=torch.cat(embeds)[None])
    return model.lm_head(out.last_hidden_state)[:, -1]


def starts(inputs: Any, images: int) -> list[int]:
    """Image tokens before each image of a prompt with images of 16 tokens."""
    return [16 * i for i in range(images + 8)] if inputs["pixel_values"].dim() == 4 else []


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(("spec", "m"), [("mqt:m=5", 5), ("mqt", 16), ("mqt:kv=0.25", 4)])
def test_the_model_runs_on_resampled_embeddings(spec: str, m: int, attn: str) -> None:
    model = tiny_llava(dtype=torch.float64, attn=attn)
    method = methods.parse(spec)
    modules = random_modules(method, model)
    for before, images, after in [(3, [16], 4), (2, [16, 16], 2)]:
        inputs = batch(model, [(before, images, after)])
        with torch.no_grad():
            wanted = in_its_place(model, inputs, modules, [[m]] * len(images))
            with routed(model, method, modules) as run:
                found = model(**inputs).logits[:, -1]
                (record,) = run.records()
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
        kept = before + m * len(images) + after
        assert record.processed_per_layer().tolist() == [kept] * 4


def test_any_resolution_gives_every_crop_its_tokens() -> None:
    """Base crop first, then the tiles, their padding read like the rest; no newline stays."""
    model = tiny_llava_next(dtype=torch.float64)
    method = methods.parse("mqt:m=3")
    modules = random_modules(method, model)
    inputs = any_resolution(model, [(20, 30)])
    with torch.no_grad(), routed(model, method, modules) as run:
        found = model(**inputs).logits[:, -1]
        (record,) = run.records()
    crops = sum(grid["crops"] for grid in record.grid)
    assert crops == 5
    text = int((inputs["input_ids"] != IMAGE).sum())
    assert record.processed_per_layer().tolist() == [text + 3 * crops] * 4
    with torch.no_grad():
        wanted = in_its_place(model, inputs, modules, [[3] * crops])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)


def test_a_budget_is_split_over_crops() -> None:
    model = tiny_llava_next(dtype=torch.float64)
    inputs = any_resolution(model, [(20, 30)])
    text = int((inputs["input_ids"] != IMAGE).sum())
    for spec, total in (("mqt:tokens=12", 12), ("mqt:tokens=1", 1), ("mqt:tokens=0", 0)):
        method = methods.parse(spec)
        with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
            model(**inputs)
            (record,) = run.records()
        assert set(record.processed_per_layer().tolist()) == {text + total}


@pytest.mark.parametrize("spec", ["mqt:m=5", "mqt:ratio=0.5", "mqt:tokens=3"])
def test_a_ragged_batch_gives_what_single_prompts_give(spec: str) -> None:
    model = tiny_llava(dtype=torch.float64)
    method, inputs = methods.parse(spec), batch(model, ROWS)
    modules = random_modules(method, model)
    with torch.no_grad(), routed(model, method, modules) as run:
        extra = {"return_dict_in_generate": True, "output_logits": True}
        together = generate(model, inputs, **extra)
        many = run.records()
        first = 0
        for i, (_, images, _) in enumerate(ROWS):
            real = inputs["attention_mask"][i].bool()
            single = {k: inputs[k][i][real][None] for k in ("input_ids", "attention_mask")}
            if images:
                single["pixel_values"] = inputs["pixel_values"][first : first + len(images)]
            first += len(images)
            alone = generate(model, single, **extra)
            for a, b in zip(together.logits, alone.logits, strict=True):
                torch.testing.assert_close(a[i], b[0], atol=1e-5, rtol=1e-5)
            (record,) = run.records()
            assert (record.route == many[i].route).all()
            assert record.scoring == many[i].scoring


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("mqt:m=17", "m=17 is above the 16 queries"),
        ("mqt:queries=4:m=5", "m=5 is above the 4 queries"),
        ("mqt:queries=17", "above the 16 patches"),
        ("mqt:queries=4:kv=0.5", "8 tokens is above the 4 queries"),
    ],
)
def test_more_tokens_than_queries_are_refused(spec: str, word: str) -> None:
    method = methods.parse(spec)
    with pytest.raises(MethodError, match=word) as caught:
        method.check(model_info(tiny_llava()))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["mqt:m=0", "mqt:queries=0", "mqt:m=2.5", "mqt:kv=0.5:tokens=3"])
def test_values_without_sense_are_refused(spec: str) -> None:
    with pytest.raises(MethodError):
        methods.parse(spec)


@pytest.mark.slow  # as of most methods in test_check.py
def test_the_conformance_suite_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "mqt"]) == 0
    assert "FAIL" not in capsys.readouterr().out


def test_the_ledger_counts_the_linear_layers_at_true_widths() -> None:
    name = "llava-hf/llava-1.5-7b-hf"
    record = predicted_record(methods.parse("mqt:m=144"), config_for(name), 58, 1)
    wide, d = 1024, 4096
    by_hand = 2 * 576 * wide * wide + 2 * 144 * (wide * wide + wide * d)
    # The masks, the same for every image, are made anew all the same; then the pooling.
    by_hand += 2 * (144 + 576) * wide * wide + 2 * (2 * 144 * 576 * wide)
    cost = sample_cost(record, shape_of(name), itemsize=2)
    assert cost.router == pytest.approx(by_hand / 1e12, rel=1e-12)
    assert set(record.processed_per_layer().tolist()) == {58 + 144}
