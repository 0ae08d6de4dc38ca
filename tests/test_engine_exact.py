"""Every method against the independent reference: float64, prefill and decode, batch 1 and 4,
to 1e-9."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

import methods
from harness.engine import routed
from tests import naive
from tests.routing_tools import (
    IMAGES,
    ROWS,
    depth_of,
    exact_norms,
    forced,
    naive_params,
    naive_sample,
    random_modules,
    with_positions,
)
from tests.tiny import batch, next_tokens, row, tiny_llava, tiny_llava_next

SPECS = [
    "dense",
    "blind",
    "random:keep=0.4",
    "random:k=2:seed=3:positions=compact",
    "uniform:keep=0.3",
    "uniform:k=3:positions=compact",
    "pool",
    "pool:side=3:positions=original",
    "fastv",
    "fastv:k=1:r=0.75:score=all",
    "fastv:k=3:r=0.3:positions=compact:rounding=int",
    "llavolta",
    "llavolta:k=0:stride=3",
    "llavolta:k=1:stride=5:remainder=average",
    "pmod",
    "pmod:beta=0.3:string=false",
    "pmod:schedule=linear:norm=sigmoid:weight_on=layer_output",
    "pmod:schedule=stepped:norm=softmax:scale=4:weight_on=residual_update",
    "pmod:schedule=constant:span=all:ratio=0.4:norm=shifted_softmax:rank=raw",
    "pmod:schedule=interleaved:ratio=0.1:norm=none:scale=0.1",
    "mod",
    "mod:layers=all:weight=softmax:scope=mlp_branch:capacity=0.5",
    "mod:layers=even:weight=tanh:shared=true:router_input=normed:positions=compact",
    "mod:layers=2-per-3:weight=sigmoid:scope=layer_output",
    "gamma:layers=all:threshold=0.5",
    "gamma:layers=even:threshold=0.45:positions=original:shared=false",
    "gamma:threshold=0.5:weight_on=layer_output",
    "gamma:layers=all:threshold=0.5:decode_threshold=0.9",
]
STEPS = 4


def reference(model, method, modules, single, answer, name, grids=None):
    sample = naive_sample(model, single, answer, name, grids)
    params = naive_params(method, depth_of(model))
    return naive.run(model, sample, method.name, params, modules)


@pytest.mark.parametrize("spec", SPECS)
def test_equals_reference_alone_and_in_a_ragged_batch(spec):
    model = exact_norms(tiny_llava(layers=6, dtype=torch.float64))
    method = methods.parse(spec)
    modules = random_modules(method, model)
    inputs = batch(model, ROWS)
    answer = torch.randint(3, 50, (4, STEPS), generator=torch.Generator().manual_seed(5))
    names = [f"doc{i}" for i in range(4)]
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(names)
        together = forced(model, with_positions(inputs), answer)
        records = run.records()
        for i, record in enumerate(records):
            single = row(inputs, i, IMAGES[i])
            expected = reference(model, method, modules, single, answer[i], names[i])
            torch.testing.assert_close(together[i], expected.logits(), rtol=0, atol=1e-9)
            run.set_samples([names[i]])
            alone = forced(model, with_positions(single), answer[i : i + 1])[0]
            torch.testing.assert_close(alone, expected.logits(), rtol=0, atol=1e-9)
            mine = run.records()[0]
            np.testing.assert_array_equal(mine.route, record.route)
            active = torch.stack(expected.active).numpy()
            np.testing.assert_array_equal(mine.keep, active[:, : mine.n])
            np.testing.assert_array_equal(mine.decode, active[:, mine.n :])


@pytest.mark.parametrize(
    "spec", ["dense", "pmod", "fastv", "llavolta", "pool:keep=0.3", "gamma:threshold=0.5", "mod"]
)
def test_any_resolution_equals_reference(spec):
    model = exact_norms(tiny_llava_next(layers=5, dtype=torch.float64))
    sizes = [(20, 30), (40, 16), (16, 16)]
    counts = [next_tokens(model, s) for s in sizes]
    inputs = batch(model, [(3, counts[:1], 4), (4, counts[1:], 6)], sizes=sizes)
    images = [[0], [1, 2]]
    grids = [[[(4, 4, False), (6, 8, True)]], [[(4, 4, False), (10, 4, True)]]]
    grids[1].append([(4, 4, False), (8, 8, True)] if counts[2] > 80 else [(4, 4, False)])
    square = counts[2] - 16
    side = next(s for s in range(1, 20) if s * (s + 1) == square)
    grids[1][1] = [(4, 4, False), (side, side, True)]
    method = methods.parse(spec)
    modules = random_modules(method, model)
    answer = torch.randint(3, 50, (2, 2), generator=torch.Generator().manual_seed(5))
    with torch.no_grad(), routed(model, method, modules) as run:
        together = forced(model, with_positions(inputs), answer)
        for i, record in enumerate(run.records()):
            single = row(inputs, i, images[i])
            expected = reference(model, method, modules, single, answer[i], "", grids[i])
            torch.testing.assert_close(together[i], expected.logits(), rtol=0, atol=1e-9)
            flat = [g for image in grids[i] for g in image]
            assert [(g["rows"], g["cols"], g["newline"]) for g in record.grid] == flat
            config = model.config
            tower = (config.image_grid_pinpoints, config.vision_config.image_size)
            crops = [image_size_to_num_patches(sizes[j], *tower) for j in images[i]]
            assert sum(g["crops"] for g in record.grid) == sum(crops)


@pytest.mark.parametrize("text", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize("spec", ["pmod", "fastv", "gamma:threshold=0.5"])
def test_other_decoders_and_eager_attention(text, spec):
    """Eager softmax runs in single precision, so this comparison does too."""
    method = methods.parse(spec)
    results = []
    for attn in ("sdpa", "eager"):
        model = tiny_llava(text, layers=5, attn=attn)
        modules = random_modules(method, model)
        answer = torch.randint(3, 50, (4, STEPS), generator=torch.Generator().manual_seed(5))
        with torch.no_grad(), routed(model, method, modules) as run:
            results.append(forced(model, with_positions(batch(model, ROWS)), answer))
            routes = [r.route for r in run.records()]
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)
    assert len(routes) == 4
