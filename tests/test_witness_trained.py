"""Published numeric traits of p-MoD, gamma-MoD and MoD, and where paper and code differ.

As in test_witness.py: what no other test holds, each trait with the sheet it was read in.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from harness.cost.ledger import sample_cost
from harness.engine import routed
from harness.families.catalog import shape_of
from methods.base import ModelInfo
from tests.routing_tools import random_modules
from tests.tiny import batch, tiny_llava
from tests.witness_tools import NEXT, SMALL, VICUNA, parsed, record_of

# --- p_mod.md ------------------------------------------------------------------------------------
DECAY = {
    # beta, max: (plain layers, decaying ratios, first layer of the .15 plateau), 32 layers
    "pmod": (8, ".8445 .8061 .7645 .7202 .6737 .6253 .5757 .5253 .4747 .4243 .3747 .3263 .2798 "
             ".2355 .1939 .1555", 24),
    "pmod:beta=0.4": (5, ".8372 .8104 .7794 .7445 .7061 .6645 .6202 .5737 .5253 .4757 .4253 .3747 "
                      ".3243 .2747 .2263 .1798", 21),
    "pmod:beta=0.3": (0, ".8000 .7974 .7898 .7771 .7595 .7372 .7104 .6794 .6445 .6061 .5645 .5202 "
                      ".4737 .4253 .3757 .3253 .2747 .2243 .1747", 19),
    "pmod:beta=0.3:max=0.75": (5, ".7372 .7104 .6794 .6445 .6061 .5645 .5202 .4737 .4253 .3757 "
                               ".3253 .2747 .2243 .1747", 19),
}  # fmt: skip


@pytest.mark.parametrize("spec", DECAY)
def test_pmod_ratios_layer_by_layer(spec: str) -> None:
    """p_mod.md 3, the table of the released function."""
    plain, decay, plateau = DECAY[spec]
    expected = [1.0] * plain + [float(r) for r in decay.split()] + [0.15] * (32 - plateau)
    assert len(expected) == 32
    assert parsed(spec).ratios(32) == pytest.approx(expected, abs=5.1e-5)


@pytest.mark.parametrize(("dtype", "values"), [(torch.bfloat16, 78), (torch.float16, 616)])
def test_pmod_weights_take_few_values_in_half_precision(dtype: torch.dtype, values: int) -> None:
    """p_mod.md 2: ranking ties come from the weight's dtype, 0.2 tanh(r) + 1 at most this many."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    raw = every[torch.isfinite(every)][None]
    weights = parsed("pmod").weights(raw, torch.ones_like(raw, dtype=torch.bool))
    assert weights.dtype == dtype
    assert float(weights.min()) == pytest.approx(0.8, abs=4e-3)
    assert float(weights.max()) == pytest.approx(1.2, abs=4e-3)
    assert len(weights.unique()) <= values
    assert len(weights.unique()) > values * 0.9  # the bound is nearly met


def test_pmod_predictors_have_4097_parameters() -> None:
    """p_mod.md 1: Linear(4096 -> 1) with bias in each of 24 layers."""
    modules = parsed("pmod").build_modules(VICUNA)
    sizes = [sum(p.numel() for p in one.parameters()) for one in modules.values()]
    assert sizes == [4097] * 24


# --- gamma_mod.md --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("ratio", "skipped", "share"),
    [
        (0.17, 180, 0.165),
        (0.34, 360, 0.331),
        (0.5, 529, None),
        (0.51, 540, 0.496),
        (0.68, 720, 0.661),
    ],
)
def test_gamma_skips_a_share_of_the_first_1059_tokens(
    ratio: float, skipped: int, share: float | None
) -> None:
    """gamma_mod.md 4: A = 35 + 1024, exactly floor(A * ratio) skipped; 6: shares of N ~ 1089."""
    model = tiny_llava(layers=6, side=32)
    inputs = batch(model, [(35, [1024], 30)])
    method = parsed(f"gamma:rule=topk:ratio={ratio}")
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        model(**inputs)
        (record,) = run.records()
    kept = np.asarray(record.keep).sum(axis=1)
    assert record.n == 1089
    assert kept.tolist() == [1089] * 3 + [1089 - skipped] * 2 + [1089]  # all but 0, 1, 2 and L - 1
    assert np.asarray(record.keep)[:, 1059:].all()  # the question is protected
    if share is not None:
        assert skipped / 1089 == pytest.approx(share, abs=6e-4)


def test_gamma_router_sizes_layers_and_loss_at_chance() -> None:
    """gamma_mod.md 3: 8192 (7B) and 10,240 (13B) parameters; 2: 87.5 and 90 % of the layers;
    5: 0.01 * 28 * ln 2 = 0.194 at chance."""
    wide = ModelInfo(40, 5120, 40, 40, 128)
    for info, size, share in ((VICUNA, 8192, 0.875), (wide, 10_240, 0.9)):
        (router,) = parsed("gamma").build_modules(info).parameters()
        assert router.numel() == size
        assert np.mean(parsed("gamma").mod_layers(info)) == share
    model = tiny_llava(layers=32).train()
    method = parsed("gamma")
    modules = method.build_modules(ModelInfo(32, 16, 4, 2, 4))
    torch.nn.init.zeros_(modules["router"].weight)
    with routed(model, method, modules) as run:
        model(**batch(model, [(3, [16], 6)]))
        found: Any = run.aux_loss()
    assert float(found.detach()) == pytest.approx(0.01 * 28 * math.log(2), rel=1e-5)


# --- mod.md 5 ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("spec", "model", "kv", "tflops"),
    [
        pytest.param("mod", NEXT, 0.562, 22.87, marks=pytest.mark.slow),
        ("mod:capacity=0.075", NEXT, 0.537, 21.91),
        pytest.param("mod:layers=all:capacity=0.5375", NEXT, 0.537, 21.91, marks=pytest.mark.slow),
        pytest.param("pmod", NEXT, 0.537, 21.91, marks=pytest.mark.slow),
        ("mod", SMALL, 0.5625, 5.114),
        ("pmod", SMALL, 0.537, 4.923),
    ],
)
def test_default_mod_budgets_by_pmods_rule(spec: str, model: str, kv: float, tflops: float) -> None:
    record = record_of(spec, model)
    cost = sample_cost(record, shape_of(model), itemsize=2)
    assert cost.kv_ratio_vision == pytest.approx(kv, abs=6e-4)
    assert cost.prefill["paper-pmod"] == pytest.approx(tflops, abs=1e-3 if tflops < 10 else 1e-2)


# --- differences between paper and code are parameters -------------------------------------------
@pytest.mark.parametrize(
    ("spec", "default"),
    [
        ("fastv:score=all", "last"),  # fastv.md 1: the paper words it as the mean over all rows
        ("fastv:rounding=int", "round"),  # fastv.md 2: lmms-eval's variant truncates
        ("fastv:positions=compact", "original"),  # fastv.md 2: the old cache file re-indexes
        ("llavolta:remainder=average", "drop"),  # llavolta.md 7
        ("pmod:weight_on=layer_output", "mlp_branch"),  # p_mod.md 1, paper form
        ("pmod:string=false", True),  # p_mod.md 7, Table 3 rows 1-2
        ("pmod:denominator=31", None),  # p_mod.md 3: hard-coded in the code
        ("pmod:rank=raw", "weight"),  # p_mod.md 2
        ("gamma:weight_on=layer_output", "mlp_branch"),  # gamma_mod.md 3, Eq. 2
        ("gamma:rule=topk", "threshold"),  # gamma_mod.md 1, training against inference
        ("gamma:mask=QA", "Q"),  # gamma_mod.md 1: the paper's default against the code's
        ("gamma:shared=false", True),  # gamma_mod.md 6, Table 2
        ("gamma:positions=original", "compact"),  # gamma_mod.md 3
        ("mod:scope=mlp_branch", "residual_update"),  # mod.md 7
        ("mod:offset=0", 1.0),  # mod.md 7: from scratch
        ("pyramiddrop:positions=original", "compact"),  # pruning_methods.md 4
        ("sparsevlm:version=2", "1.5"),  # pruning_methods.md 2
        ("freevideollm:grid=as_released", "true"),  # pruning_methods.md 6, defect
        ("illava:weights=descending", "as_released"),  # pruning_methods.md 7, defect
        ("prumerge:plus=1", False),  # pruning_methods.md 8
        ("divprune:space=crop", "packed"),  # newer_methods.md 3
        ("divprune:newlines=keep", "candidate"),
        ("cdpruner:question=full", "stripped"),  # newer_methods.md 2
    ],
)
def test_where_paper_and_code_differ_there_is_a_parameter(spec: str, default: Any) -> None:
    """Its default is the one that the file's first lines state, and they name the parameter."""
    name, _, setting = spec.partition(":")
    parameter, _, _ = setting.partition("=")
    other, usual = parsed(spec), parsed(name)
    assert usual.params()[parameter] == default
    assert other.params()[parameter] != default
    said = __import__(type(usual).__module__, fromlist=["x"]).__doc__ or ""
    assert f"{parameter}=" in said or f"``{parameter}``" in said or f"  {parameter}  " in said
