"""`--costs-only`: predicted routing is the engine's own, and lands on the published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import methods
from harness.command.cli import main
from harness.cost.ledger import sample_cost
from harness.cost.replica import DependsOnWeights, predicted_record
from harness.cost.rows import cost_rows
from harness.families import tiny
from harness.families.catalog import config_for, shape_of
from harness.store.record import IMAGE

TOWER = {"image_size": 56, "patch_size": 14, "hidden_size": 8, "num_hidden_layers": 2}
DECODER = {"num_hidden_layers": 6, "hidden_size": 16, "num_attention_heads": 2}
SMALL = {
    "model_type": "llava",
    "text_config": {"model_type": "llama", **DECODER},
    "vision_config": {"model_type": "clip_vision_model", **TOWER},
}


def test_published_numbers_of_llava_1_5() -> None:
    """p-MoD and FastV through the real engine, without weights: the papers' TFLOPs columns."""
    model = "llava-hf/llava-1.5-7b-hf"
    for spec, paper, one_rule in (("pmod", 4.923, 4.802), ("fastv:k=2:r=0.5", None, 4.751)):
        record = predicted_record(methods.parse(spec), config_for(model), n_text=58, n_out=1)
        cost = sample_cost(record, shape_of(model), itemsize=2)
        assert record.n_image == 576
        assert round(cost.prefill["causal"], 3) == one_rule
        # 64 unused rows of the converted vocabulary add 0.0003 on all positions.
        assert paper is None or cost.prefill["paper-pmod"] == pytest.approx(paper, abs=1e-3)


def test_any_resolution_counts_newlines() -> None:
    config = {**SMALL, "model_type": "llava_next"}
    config["image_grid_pinpoints"] = [[56, 112], [112, 112]]
    record = predicted_record(methods.parse("dense"), config, n_text=10, n_out=1)
    assert record.n_image == 16 + 8 * 8 + 8
    assert [grid["kind"] for grid in record.grid] == ["base", "tile"]


@pytest.mark.parametrize(("model", "tokens"), [("llava-hr-7b", 1024), ("mini-gemini-hd-7b", 2880)])
def test_models_of_which_only_sizes_are_known(model: str, tokens: int) -> None:
    """FastV K=2, R=50 %: half of a fixed number of image tokens from layer 2 on."""
    record = predicted_record(methods.parse("fastv"), config_for(model), n_text=58, n_out=1)
    image = record.processed_per_layer(IMAGE)
    assert image.tolist() == [tokens] * 2 + [tokens // 2] * 30


def test_decode_steps_are_recorded() -> None:
    record = predicted_record(methods.parse("uniform"), SMALL, n_text=8, n_out=5)
    assert record.n_out == 4  # the last new token is never fed back
    assert (record.n_text, record.n_image, record.layers) == (8, 16, 6)


def test_thresholds_depend_on_weights() -> None:
    with pytest.raises(DependsOnWeights):
        predicted_record(methods.parse("gamma"), SMALL, n_text=8, n_out=2)


@pytest.mark.usefixtures("undrawn")
def test_costs_only_writes_and_prints_the_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMALL))
    out = tmp_path / "costs"
    argv = ["--costs-only", "--methods", "pmod,blind,gamma", "--n-text", "8", "--n-out", "3"]
    argv += ["--model", str(folder), "--out", str(out)]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    assert "gamma: left out" in printed
    assert "pmod" in printed
    cost = pd.read_csv(out / "cost.csv")
    assert cost.method.unique().tolist() == ["dense", "pmod", "blind"]
    assert set(cost.counter) == {"closed_form", "fvcore", "torch"}
    full = cost[cost.convention == "full"].set_index(["method", "scope", "counter"]).tflops_mean
    for (method, scope, _), counted in full.items():
        assert counted == pytest.approx(full[method, scope, "closed_form"], rel=1e-9)
    assert set(cost[cost.counter == "fvcore"].convention) == {"full"}
    assert len(cost[cost.convention == "paper-fastv"]) == 3  # prefill only
    total = cost[(cost.scope == "total") & (cost.convention == "causal")].set_index("method")
    assert total.tflops_mean["blind"] < total.tflops_mean["pmod"] < total.tflops_mean["dense"]
    assert total.tflops_ci_low.isna().all()  # one workload, no samples
    vision = cost[(cost.scope == "vision") & (cost.convention == "causal")].set_index("method")
    assert vision.tflops_mean["blind"] == 0
    assert np.isnan(total.kv_ratio_vision["blind"]) or total.kv_ratio_vision["blind"] == 0
    assert json.loads((out / "run.json").read_text())["settings"]["n_text"] == 8
    assert main(argv) == 0  # the same settings may be repeated in the same folder
    assert main([*argv, "--n-out", "4"]) == 2


def test_samples_of_an_older_version_are_still_read() -> None:
    """A samples file without the column of a later convention has no row of it, and no zero."""
    sample = {
        "tflops_prefill": "2.0",
        "tflops_prefill_full": "2.5",
        "tflops_vision": "",
        "tflops_projector": "0.5",
        "tflops_decode": "1.0",
        "kv_ratio": "0.5",
    }
    rows = cost_rows({"method": "old"}, [sample, sample], seed=0)
    found = {(row["convention"], row["scope"]): row.get("tflops_mean") for row in rows}
    assert {convention for convention, _ in found} == {"causal", "full"}
    assert found["causal", "llm_prefill"] == 2.0
    assert found["full", "llm_prefill"] == 2.5
    assert found["causal", "vision"] is None
    assert found["causal", "total"] is None


# --- not counted ----------------------------------------------------------------------------
def small_model(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", **SMALL}))
    return str(folder)


@pytest.mark.usefixtures("undrawn")
def test_a_clip_model_of_unknown_sizes_is_not_counted_and_not_zero(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["--costs-only", "--methods", "cdpruner,divprune", "--n-text", "8", "--n-out", "2"]
    assert main([*argv, "--model", small_model(tmp_path / "model"), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = (line for line in lines if line.split()[:1] == ["cdpruner"])
    assert "not counted" in row
    cost = pd.read_csv(out / "cost.csv").query("convention == 'full'")
    cost = cost.set_index(["method", "counter", "scope"]).tflops_mean
    for counter in ("closed_form", "fvcore", "torch"):
        assert pd.isna(cost["cdpruner", counter, "router"])
        assert pd.isna(cost["cdpruner", counter, "total"])
        assert cost["divprune", counter, "router"] > 0


# --- the batch --------------------------------------------------------------------------------
@pytest.mark.usefixtures("uncounted", "undrawn")
def test_the_cache_is_that_of_the_batch_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against a real cache: eight prompts through a model of that shape."""
    model = tiny.build(dtype=torch.float32)
    inputs = tiny.inputs_of(model, [(3, 1, 5)] * 8)
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=4, suppress_tokens=[60],
                             return_dict_in_generate=True)  # fmt: skip
    held = [layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers]
    folder = tmp_path / "model"
    model.config.save_pretrained(folder)
    argv = ["--costs-only", "--methods", "dense", "--n-text", "8", "--n-out", "4", "--model"]
    argv += [str(folder), "--dtype", "float32", "--batch-size", "8", "--out", str(tmp_path / "out")]
    assert main(argv) == 0
    cost = pd.read_csv(tmp_path / "out" / "cost.csv")
    assert set(cost.kv_batch) == {8}
    assert cost.kv_mib_end[0] == pytest.approx(sum(held) / 2**20)
    assert cost.kv_mib[0] == pytest.approx(sum(held) / 2**20 * 24 / 27)
    printed = capsys.readouterr().out
    assert "TFLOP of one sample, KV cache of the whole batch of 8" in " ".join(printed.split())
    assert f"{cost.kv_mib_end[0]:.4g}" in printed


def test_a_batch_that_nobody_chose_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--costs-only", "--methods", "dense", "--batch-size", "auto"]
    argv += ["--out", str(tmp_path / "out")]
    assert main(argv) == 2
    assert "--batch-size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
