"""LLaVA-HR and Mini-Gemini-HD under the engine: exact, and as the reference has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.engine import find_parts, routed
from harness.engine.model import check_method
from methods.base import MethodError
from tests import naive
from tests.routing_tools import (
    exact_norms,
    forced,
    generate,
    naive_params,
    naive_sample,
    random_modules,
    with_positions,
)
from tests.tiers import some
from tests.tiny import row
from tests.two_towers_tools import build, prompts

BOTH = ("llava_hr", "mini_gemini_hd")
TOKENS = {"llava_hr": 16, "mini_gemini_hd": 80}
IMAGES: list[list[int]] = [[0], [], [1, 2], [3]]
SPECS = [
    "fastv",
    "fastv:k=1:r=0.75:score=all:positions=compact",
    "llavolta",
    "llavolta:k=1:stride=5:remainder=average",
    "pmod",
    "pmod:schedule=constant:span=all:ratio=0.4:norm=shifted_softmax:rank=raw",
    "mod",
    "gamma:threshold=0.5",
    "gamma:layers=all:threshold=0.5:decode_threshold=0.9",
    "pool:keep=0.3",
    "random:keep=0.4",
]


def rows(kind: str) -> list[tuple[int, list[int], int]]:
    """One row of each kind: plain, text only, two adjacent images, another length."""
    n = TOKENS[kind]
    return [(3, [n], 4), (2, [], 5), (2, [n, n], 2), (5, [n], 7)]


def grids(kind: str, images: int) -> list[list[tuple[int, int, bool]]]:
    """The patch grids of so many images, as the reference takes them."""
    return [[(4, 4, False)] * (TOKENS[kind] // 16) for _ in range(images)]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", BOTH)
def test_nothing_dropped_is_plain_generate_to_the_bit(kind: str, attn: str) -> None:
    model = build(kind, attn, torch.float32)
    inputs = prompts(model, rows(kind))
    options = {"return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        for given in (inputs, row(inputs, 0, [0])):
            plain = generate(model, given, **options)
            with routed(model, methods.parse("dense")):
                ours = generate(model, given, **options)
            assert torch.equal(plain.sequences, ours.sequences)
            for a, b in zip(plain.logits, ours.logits, strict=True):
                assert torch.equal(a, b)


@pytest.mark.parametrize("spec", some(SPECS, *SPECS[::2]))
@pytest.mark.parametrize("kind", BOTH)
def test_methods_equal_the_reference(kind: str, spec: str) -> None:
    """Alone and in a ragged batch of four, prefill and decode, in float64."""
    model = exact_norms(build(kind))
    method = methods.parse(spec)
    modules = random_modules(method, model)
    inputs = prompts(model, rows(kind))
    answer = torch.randint(3, 50, (4, 3), generator=torch.Generator().manual_seed(5))
    names = [f"doc{i}" for i in range(4)]
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(names)
        together = forced(model, with_positions(inputs), answer)
        for i, record in enumerate(run.records()):
            single = row(inputs, i, IMAGES[i])
            where = grids(kind, len(IMAGES[i]))
            sample = naive_sample(model, single, answer[i], names[i], where)
            params = naive_params(method, 6)
            expected = naive.run(model, sample, method.name, params, modules)
            torch.testing.assert_close(together[i], expected.logits(), rtol=0, atol=1e-9)
            run.set_samples([names[i]])
            alone = forced(model, with_positions(single), answer[i : i + 1])[0]
            torch.testing.assert_close(alone, expected.logits(), rtol=0, atol=1e-9)
            active = torch.stack(expected.active).numpy()
            np.testing.assert_array_equal(record.keep, active[:, : record.n])


@pytest.mark.parametrize("kind", BOTH)
def test_blind_runs_neither_tower(kind: str) -> None:
    model = build(kind)
    inputs = prompts(model, rows(kind))
    ran: list[str] = []
    tower = model.model.vision_tower
    hooks = [
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
        for name, part in tower.named_modules()
        if name
    ]
    with torch.no_grad(), routed(model, methods.parse("blind")) as run:
        generate(model, inputs)
        records = run.records()
    for hook in hooks:
        hook.remove()
    assert ran == []
    assert [int(record.processed_per_layer().max()) for record in records] == [7, 7, 4, 12]


@pytest.mark.parametrize("kind", BOTH)
def test_merging_inside_the_tower_is_refused(kind: str) -> None:
    model = build(kind)
    with pytest.raises(MethodError, match="joins a second one patch by patch") as error:
        check_method(find_parts(model), methods.parse("illava:vit_layers=1"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", BOTH)
def test_what_it_cannot_give_is_an_error(kind: str) -> None:
    model = build(kind)
    images = torch.zeros(1, 3, 64, 128, dtype=torch.float64)
    with pytest.raises(ValueError, match="64x128 pixels where the model sees 128x128"):
        model.model.get_image_features(images)
    usual: dict[str, Any] = {"pixel_values": images.new_zeros(1, 3, 128, 128)}
    with pytest.raises(ValueError, match="output_hidden_states is not available"):
        model.model.get_image_features(**usual, output_hidden_states=True)
