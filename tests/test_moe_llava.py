"""MoE-LLaVA: exact under the engine, equal to experts written down a second time, counted."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

import methods
from harness.command.cli import main
from harness.common.errors import UsageError
from harness.cost.executed import executed
from harness.cost.ledger import sample_cost
from harness.cost.modules import decoder_like
from harness.cost.referees import referees_for
from harness.engine import find_parts, routed
from harness.families.catalog import FAMILIES, completed, shape_from_config, shape_of
from harness.store.csvfile import read_rows
from tests import naive
from tests.fixtures.hub_models import write_llava
from tests.moe_tools import DECODERS, one_by_one, tiny_moe
from tests.routing_tools import (
    IMAGES,
    ROWS,
    exact_norms,
    forced,
    generate,
    naive_params,
    naive_sample,
    random_modules,
    with_positions,
)
from tests.tiers import some
from tests.tiny import batch, row

OPENCHAT, STABLELM, PHI = "moe-llava-7b-4e", "moe-llava-1.6b-4e", "moe-llava-2.7b-4e"
SPECS = ["dense", "fastv", "pmod", "gamma:layers=all:threshold=0.5", "mod:layers=all:capacity=0.5"]
SPECS += ["llavolta:k=1", "random:keep=0.4", "mod:layers=all:scope=mlp_branch:capacity=0.5"]
FULL = {"return_dict_in_generate": True, "output_logits": True}


# --- exactness
@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("text", DECODERS)
def test_dense_is_bit_equal_to_plain_generate(text: str, attn: str, rows: Any) -> None:
    model = tiny_moe(text, attn=attn)
    inputs = batch(model, rows)
    plain = generate(model, inputs, **FULL)
    with routed(model, methods.parse("dense")):
        mine = generate(model, inputs, **FULL)
    assert torch.equal(plain.sequences, mine.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))


@pytest.mark.parametrize("text", some(["mistral", "stablelm"], "stablelm"))
@pytest.mark.parametrize("spec", SPECS)
def test_equals_reference_alone_and_in_a_ragged_batch(spec: str, text: str) -> None:
    model = exact_norms(tiny_moe(text, layers=5, dtype=torch.float64))
    method, twin = methods.parse(spec), one_by_one(model)
    modules = random_modules(method, model)
    inputs = batch(model, ROWS)
    answer = torch.randint(3, 50, (4, 3), generator=torch.Generator().manual_seed(5))
    names, params = [f"doc{i}" for i in range(4)], naive_params(method, 5)
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(names)
        together = forced(model, with_positions(inputs), answer)
        for i, record in enumerate(run.records()):
            single = row(inputs, i, IMAGES[i])
            sample = naive_sample(model, single, answer[i], names[i])
            expected = naive.run(twin, sample, method.name, params, modules)
            torch.testing.assert_close(together[i], expected.logits(), rtol=0, atol=1e-6)
            run.set_samples([names[i]])
            alone = forced(model, with_positions(single), answer[i : i + 1])[0]
            torch.testing.assert_close(alone, expected.logits(), rtol=0, atol=1e-6)
            active = torch.stack(expected.active).numpy()
            np.testing.assert_array_equal(record.keep, active[:, : record.n])
            np.testing.assert_array_equal(record.decode, active[:, record.n :])


def test_the_gate_decides_in_single_precision_whatever_the_model_s_dtype() -> None:
    """Two logits that half precision cannot tell apart: the first two experts are still right."""
    mlp = tiny_moe(dtype=torch.bfloat16).model.language_model.layers[0].mlp
    row = torch.zeros(1, 32, dtype=torch.bfloat16)
    row[0, :2] = torch.tensor([256.0, 1.0])
    with torch.no_grad():
        mlp.gate.weight.zero_()
        mlp.gate.weight[:, 0] = 1.0
        mlp.gate.weight[:, 1] = torch.tensor([0.0, 0.5, 0.25, 0.75])
        weights, chosen = mlp.gate(row)
    assert chosen.tolist() == [[3, 1]] and weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([[0.75, 0.5]]).softmax(-1))


# --- files
@pytest.mark.parametrize("text", DECODERS)
def test_saved_and_loaded_it_is_the_same_model(text: str, tmp_path: Path) -> None:
    model = tiny_moe(text, moe_layers_idx=[1, 2])
    model.save_pretrained(tmp_path)
    again, report = (
        FAMILIES["moe_llava"]
        .model_class()
        .from_pretrained(
            tmp_path, output_loading_info=True, dtype=torch.float32, use_safetensors=True
        )
    )
    assert not any(report.values())
    mine, theirs = model.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert find_parts(again).info == find_parts(model).info
    assert shape_from_config(again.config.to_dict(), "tiny").mixed == (False, True, True, False)


def test_fresh_weights_are_drawn() -> None:
    """Experts are no layers that the library would draw: none is left as memory had it."""
    family = FAMILIES["moe_llava"]
    for made in (tiny_moe(), tiny_moe("stablelm")):
        model = family.model_class()._from_config(made.config)
        experts = model.model.language_model.layers[0].mlp.experts
        for value in experts.parameters():
            assert value.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.slow
def test_a_folder_of_it_answers_benchmarks(tmp_path: Path) -> None:
    """Processor and prompts are LLaVA's; the folder says which layers have experts."""
    folder = write_llava(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        file.unlink()
    family = FAMILIES["moe_llava"]
    made = family.config_class()(**{**config, "model_type": "moe_llava"}, moe_layers_idx=[1])
    model = family.model_class()._from_config(made)
    model.save_pretrained(folder)
    argv = ["--model", str(folder), "--bench", "gqa", "--data", "mini", "--limit", "2", "--quiet"]
    argv += ["--device", "cpu", "--dtype", "float32", "--out", str(tmp_path / "out")]
    assert main([*argv, "--methods", "fastv,random"]) == 0
    rows = read_rows(tmp_path / "out" / "cells.csv")
    assert [line["status"] for line in rows] == ["done"] * 3


CONFIG: dict[str, Any] = tiny_moe().config.to_dict()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"moe_layers_idx": [0, 4]}, r"moe_layers_idx is \[0, 4\], not a list of different layers"),
        ({"moe_layers_idx": [0, 0]}, "different layers from 0 to 3"),
        ({"moe_layers_idx": 2}, "moe_layers_idx is 2"),
        ({"num_local_experts": 1}, "num_local_experts is 1, not a whole number above 1"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok is 1: only 2 works"),
        ({"text_config": {"model_type": "phi"}}, "only its sizes are known: moe-llava-2.7b-4e"),
        ({"text_config": {"model_type": "gemma"}}, "llama, mistral, qwen2, stablelm"),
        ({"text_config": {"model_type": "stablelm", "use_parallel_residual": True}}, "was built"),
        ({"text_config": {"model_type": "stablelm", "hidden_size": 0}}, "hidden_size is 0"),
        ({"text_config": {"model_type": "llama", "mlp_bias": True}}, "its experts cannot be"),
    ],
)
def test_what_it_cannot_be_is_refused_in_a_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        completed({**CONFIG, **change}, "x")
    assert "\n" not in str(error.value)


def test_stablelm_s_defaults_are_those_of_the_library() -> None:
    from transformers import StableLmConfig

    mine = completed({**CONFIG, "text_config": {"model_type": "stablelm"}}, "x")["text_config"]
    theirs = StableLmConfig()
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
        assert mine[name] == getattr(theirs, name)
    assert mine["num_attention_heads"] == theirs.num_attention_heads
    assert mine["num_key_value_heads"] == theirs.num_key_value_heads


# --- counted
COUNTERS: dict[str, Any] = {}


RAN = list(itertools.product(
    ("llama", "stablelm"), ("dense", "gamma:layers=all:threshold=0.5", "fastv", "mod", "blind")
))  # fmt: skip


@pytest.mark.parametrize("case", some(RAN, *RAN[1:7:2]))
def test_what_runs_is_what_the_ledger_says(case: tuple[str, str]) -> None:
    text, spec = case
    model, method = tiny_moe(text), methods.parse(spec)
    modules = random_modules(method, model)
    with torch.no_grad(), executed(model) as ran, routed(model, method, modules) as run:
        generate(model, batch(model, ROWS[:1]))
        (record,) = run.records([5])
    shape = shape_from_config(model.config.to_dict(), "tiny")
    cost = sample_cost(record, shape, itemsize=4, vision_runs=method.needs_images)
    assert cost.whole == pytest.approx(ran.tflops, rel=1e-12)
    if text not in COUNTERS:  # each shape of a layer is counted once, whatever runs on it
        parts = find_parts(model)
        COUNTERS[text] = referees_for(shape, decoder_like(parts.layers[0], parts.config))
    for scopes in COUNTERS[text].sample(record).values():
        assert scopes["llm_prefill"] == pytest.approx(cost.prefill["full"], rel=1e-9)
        assert scopes["llm_decode"] == pytest.approx(cost.decode, rel=1e-9)
        assert scopes["router"] == pytest.approx(cost.router, rel=1e-9)


def test_the_library_s_own_sparse_block_costs_what_the_ledger_says() -> None:
    """Mixtral's block with products that a tracer can follow, at OpenChat's sizes."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    shape = shape_of(OPENCHAT)
    config = MixtralConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_local_experts=4,
        num_experts_per_tok=2,
        experts_implementation="batched_mm",
    )
    with torch.device("meta"):
        block = MixtralSparseMoeBlock(config).eval()
        states = torch.empty(1, 634, shape.hidden)
    closed = 2 * 634 * (shape.weights_met(mixed=True) - shape.attention_weights)
    with torch.no_grad():
        macs = FlopCountAnalysis(block, states).unsupported_ops_warnings(False).total()
        with FlopCounterMode(display=False) as counter:
            block(states)
    assert 2 * macs == pytest.approx(closed, rel=0.005)
    assert counter.get_total_flops() == pytest.approx(closed, rel=0.005)


def test_published_sizes() -> None:
    """Billions of weights stored and met by a token, as reported (recalled, not looked up)."""
    known = {STABLELM: (2.9, 2.0), "moe-llava-qwen-1.8b-4e": (3.1, 2.2), PHI: (5.3, 3.6)}
    for name, (stored, met) in known.items():
        shape = shape_of(name)
        words = 2 * shape.head_weights
        assert shape.stored_weights + words == pytest.approx(stored * 1e9, rel=0.03)
        assert sum(shape.all_weights_met) + words == pytest.approx(met * 1e9, rel=0.03)
        assert sum(shape.mixed) == shape.layers / 2 and shape.mixed[0]
    shape = shape_of(PHI)
    d, ffn, tower = 2560, 10240, 303_507_456
    assert shape.all_weights_met[:2] == (4 * d * d + 4 * d * ffn + 4 * d, 4 * d * d + 2 * d * ffn)
    # Its listed weight file: 11.21 GB of two bytes each, tower included.
    total = shape.stored_weights + 2 * shape.head_weights + tower + shape.projector_weights
    assert 2 * total == pytest.approx(11.21e9, rel=0.002)
    # OpenChat is Mistral-7B's 7.24 billion, and three more MLPs in each of 16 layers.
    shape = shape_of(OPENCHAT)
    total = shape.stored_weights + 2 * shape.head_weights
    assert total == pytest.approx(7.24e9 + 16 * 3 * 3 * 4096 * 14336, rel=0.001)


@pytest.mark.slow
def test_costs_without_weights(tmp_path: Path) -> None:
    argv = ["--costs-only", "--methods", "fastv", "--model", PHI, "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    rows = read_rows(tmp_path / "run" / "cost.csv")
    assert {line["method"] for line in rows} == {"dense", "fastv"}


def test_a_model_known_by_size_is_run_with_random_weights_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--methods", "fastv", "--bench", "gqa", "--out", str(tmp_path / "run")]
    assert main([*argv, "--model", OPENCHAT]) == 2
    assert "it runs with --costs-only" in capsys.readouterr().err
