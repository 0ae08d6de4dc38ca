"""What a method computes to decide: noted by the engine, read by the ledger, counted again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.cost.ledger import sample_cost
from harness.cost.referees import referees_for
from harness.cost.replica import predicted_record
from harness.engine import find_parts, routed
from harness.families.catalog import config_for, shape_from_config, shape_of
from harness.store.packing import pack, unpack
from harness.store.record import RoutingRecord, dense_record
from tests.routing_tools import ALL, IMAGES, ROWS, generate, random_modules
from tests.tiny import batch, row, tiny_llava

LLAVA = "llava-hf/llava-1.5-7b-hf"
D, N = 4096, 58 + 576
SILENT = ("dense", "blind", "random", "uniform", "pool", "llavolta")


def router_tflops(spec: str, n_out: int = 1) -> float:
    record = predicted_record(methods.parse(spec), config_for(LLAVA), n_text=58, n_out=n_out)
    return sample_cost(record, shape_of(LLAVA), itemsize=2).router


def routed_records(model: Any, inputs: Any, spec: str, **how: Any) -> list[RoutingRecord]:
    method = methods.parse(spec)
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        run.set_samples([f"doc {i}" for i in range(inputs["input_ids"].shape[0])])
        generate(model, inputs)
        return run.records(**how)


def test_p_mod_scores_every_running_token_with_one_row_of_weights() -> None:
    """A layer stays plain while 0.5·cos(pi·l/31) + 0.5 is above 0.85; else 2·d for each token."""
    plain = sum(0.5 * math.cos(math.pi * layer / 31) + 0.5 > 0.85 for layer in range(32))
    assert router_tflops("pmod") == pytest.approx((32 - plain) * N * 2 * D / 1e12, rel=1e-12)
    assert router_tflops("pmod", n_out=9) == router_tflops("pmod")  # decides in the prompt only


def test_fastv_pays_for_one_row_or_for_all() -> None:
    last = 2 * D * D * N + 2 * D * D + 2 * D * N
    assert router_tflops("fastv") == pytest.approx(last / 1e12, rel=1e-12)
    every = 2 * (2 * D * D * N) + 2 * D * N * N
    assert router_tflops("fastv:score=all") == pytest.approx(every / 1e12, rel=1e-12)


@pytest.mark.parametrize("spec", SILENT)
def test_methods_without_router_and_attention_scores_spend_nothing(spec: str) -> None:
    assert router_tflops(spec) == 0


def test_gamma_decides_for_every_fed_token_too() -> None:
    model = tiny_llava(layers=6)
    inputs = batch(model, [(3, [16], 4)])
    record = routed_records(model, inputs, "gamma:threshold=0.5")[0]
    mod = int(record.mod_layers.sum())
    assert record.n_out == 4
    found = {(one["phase"], one["tokens"]): one for one in record.scoring}
    assert found["prompt", 23] == {
        "phase": "prompt", "kind": "linear", "tokens": 23, "calls": mod, "out": 2
    }  # fmt: skip
    assert found["decode", 1]["calls"] == 4 * mod
    shape = shape_from_config(model.config.to_dict(), "tiny")
    assert sample_cost(record, shape, 4).router == mod * (23 + 4) * 2 * 16 * 2 / 1e12


@pytest.mark.parametrize("spec", [*ALL, "fastv:score=all", "gamma:rule=topk", "mod:shared=true"])
def test_a_row_has_the_same_notes_alone_and_in_a_ragged_batch(spec: str) -> None:
    """Padding is never counted, nor are decode steps of rows that go on longer."""
    model = tiny_llava(layers=6)
    inputs = batch(model, ROWS)
    lengths = [5, 3, 1, 4]
    together = routed_records(model, inputs, spec, out_lengths=lengths)
    for i, images in enumerate(IMAGES):
        method = methods.parse(spec)
        with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
            run.set_samples([f"doc {i}"])
            generate(model, row(inputs, i, images))
            alone = run.records(out_lengths=[lengths[i]])[0]
        assert together[i].scoring == alone.scoring
        if spec in SILENT:
            assert alone.scoring == []


def test_without_a_cache_the_prompt_has_the_same_notes() -> None:
    model = tiny_llava(layers=6)
    inputs = batch(model, [(3, [16], 4)])
    method = methods.parse("pmod")
    found = []
    for cached in (True, False):
        with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
            generate(model, inputs, use_cache=cached)
            found.append(run.records()[0].scoring)
    assert found[0] == found[1] != []


def test_nothing_stays_on_the_modules_or_the_model() -> None:
    model = tiny_llava()
    method = methods.parse("pmod")
    modules = random_modules(method, model)
    with torch.no_grad(), routed(model, method, modules) as run:
        assert all(m._forward_hooks for m in modules.children())
        generate(model, batch(model, [(3, [16], 4)]))
        before = run.records()[0].scoring
        next(modules.children())(torch.zeros(1, 7, 16))  # outside a pass: nobody decides
        assert run.records()[0].scoring == before
    assert not any(m._forward_hooks for m in [*modules.modules(), *find_parts(model).layers])
    with routed(model, method, modules, record=False):
        assert not any(m._forward_hooks for m in modules.modules())


def test_files_keep_the_notes(tmp_path: Path) -> None:
    record = dense_record(4, 6, 2, n_out=1)
    record.scoring = [{"phase": "prompt", "kind": "last_row", "tokens": 10, "calls": 1}]
    record.to_npz(tmp_path / "r.npz")
    assert RoutingRecord.from_npz(tmp_path / "r.npz").scoring == record.scoring
    assert unpack(pack(record)).scoring == record.scoring


def test_the_head_is_part_of_prefill_and_decode() -> None:
    shape = shape_of(LLAVA)
    cost = sample_cost(dense_record(58, 576, 32, n_out=7), shape, itemsize=2)
    assert cost.lm_head == 8 * 2 * 4096 * 32064 / 1e12
    longer = sample_cost(dense_record(58, 576, 32, n_out=8), shape, itemsize=2)
    assert longer.lm_head - cost.lm_head == pytest.approx(2 * 4096 * 32064 / 1e12)


def test_counters_on_real_modules_agree() -> None:
    """Grouped-query attention, a router with a hidden layer narrower than the model."""
    config = {
        "model_type": "llava",
        "text_config": {
            "model_type": "llama",
            "num_hidden_layers": 4,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 50,
        },
        "vision_config": {"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14},
    }
    shape = shape_from_config(config, "small")
    record = dense_record(6, 4, 4, n_out=3)
    record.scoring = [
        {"phase": "prompt", "kind": "linear", "tokens": 10, "calls": 3, "out": 12},
        {"phase": "prompt", "kind": "linear", "tokens": 10, "calls": 3, "out": 1, "in": 12},
        {"phase": "prompt", "kind": "last_row", "tokens": 10, "calls": 2},
        {"phase": "prompt", "kind": "mean_row", "tokens": 9, "calls": 1},
    ]
    by_hand = 3 * 2 * 10 * (32 * 12 + 12)
    by_hand += 2 * 2 * (32 * 32 + 10 * 32 * 16 + 10 * 32)
    by_hand += 2 * (9 * 32 * 32 + 9 * 32 * 16 + 9 * 9 * 32)
    cost = sample_cost(record, shape, itemsize=4)
    assert cost.router == by_hand / 1e12
    for scopes in referees_for(shape).sample(record).values():
        assert scopes["router"] == cost.router
        assert scopes["lm_head"] == cost.lm_head
