"""`--estimate` against closed forms worked out by hand, the engine's record and real modules."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import methods
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.cost.replica import predicted_record
from harness.families.catalog import config_for, info_of, shape_from_config, shape_of
from harness.families.towers import CLIP_L_336
from harness.train import estimate, memory, sizes, work
from harness.train.__main__ import main

RECIPES = ROOT / "recipes"
VICUNA, CLIP, PROJECTOR = 6_738_415_616, 303_507_456, 20_979_712
GIB = 1024**3


def load(name: str, **changes: object):
    return estimate.load_recipe(RECIPES / f"{name}.yaml", **changes)


# --- parameters -------------------------------------------------------------------------------
def test_parameters_are_those_of_the_released_models() -> None:
    """The parts of p-MoD's LLaVA-1.5 add up to its released file: 14,126,002,224 bytes of bf16."""
    recipe = load("pmod-llava-1.5")
    found = sizes.parameters(sizes.recipe_shape(recipe), methods.parse(recipe.method))
    assert found == {
        "decoder": VICUNA,
        "projector": PROJECTOR,
        "newline": 0,
        "tower": CLIP,
        "routers": 24 * 4097,
    }
    assert 2 * sum(found.values()) == 14_126_002_224


def test_thirteen_billion_has_its_own_decoder_and_projector() -> None:
    shape = sizes.recipe_shape(load("dense-llava-1.5", decoder="lmsys/vicuna-13b-v1.5"))
    assert sizes.decoder_parameters(shape) == 13_015_864_320
    assert sizes.projector_parameters(shape) == 1025 * 5120 + 5121 * 5120


@pytest.mark.parametrize(
    "spec", ["mod", "mod:shared=true", "gamma", "gamma:shared=false", "pmod", "llavolta", "dense"]
)
def test_router_parameters_are_those_of_the_modules(spec: str) -> None:
    method, shape = methods.parse(spec), shape_of("llava-hf/llava-1.5-7b-hf")
    modules = method.build_modules(info_of(shape))
    built = 0 if modules is None else sum(p.numel() for p in modules.parameters())
    assert sizes.router_parameters(method, shape) == built


def test_llava_hr_tower() -> None:
    """ConvNeXt-L without its head has 196.2 million parameters (its 1,000 class head 1.5)."""
    from harness.families.convnext import second_parameters

    shape = shape_of("llava-hr-7b")
    assert shape.slow is not None
    adapters = 3 * (1536**2 + 1536 + 1536 * 1024 + 1024 + 50 * 1024 + 1024**2 + 1024)
    adapters += 3 * (2048 * 512 + 512 + 512 + 1) + 1024**2 + 1536 * 1024 + 2048
    convnext = second_parameters(shape.vision, shape.slow) - adapters
    assert convnext == pytest.approx(196.23e6, rel=1e-3)


# --- work -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "spec",
    ["dense", "pmod", "pmod:beta=0.4", "mod", "mod:layers=all:capacity=0.66", "gamma:rule=topk"]
    + ["llavolta:k=2:stride=8", "llavolta:k=16:stride=2", "llavolta:stride=5:remainder=average"],
)
def test_counts_are_what_the_engine_records(spec: str) -> None:
    """At 20 layers and 144 image tokens; gamma's training rule is its top-k at inference."""
    config = dict(config_for("llava-hf/llava-1.5-7b-hf"))
    config["text_config"] = {**config["text_config"], "num_hidden_layers": 20}
    config["vision_config"] = {**CLIP_L_336, "num_hidden_layers": 2, "image_size": 168}
    shape = shape_from_config(config, "reduced")
    record = predicted_record(methods.parse(spec), config, n_text=80, n_out=1)
    mine = work.training_counts(methods.parse(spec), shape, 80, 144)
    assert mine.tolist() == record.processed_per_layer().tolist()


def test_work_by_hand() -> None:
    """LLaVA-1.5-7B, 634 tokens: 13.214 GF a token, causal attention, four passes of the layers."""
    recipe = load("dense-llava-1.5")
    shape = sizes.recipe_shape(recipe)
    done = work.sample_work(recipe, methods.parse("dense"), shape, n_text=58)
    linear, head = 32 * 2 * 202_375_168 * 634, 2 * 131_072_000 * 634
    attention = 32 * 2 * 4096 * 634**2
    assert linear + head == pytest.approx(634 * 13.214154752e9, rel=1e-12)
    assert done.forward["decoder"] == linear + attention
    below = done.forward["tower"] + 3 * done.forward["projector"]
    assert done.training == pytest.approx(4 * (linear + attention) + 3 * head + below, rel=1e-12)


def test_frozen_decoder_saves_the_gradients_of_its_weights() -> None:
    recipe = load("llava-1.5-pretrain")
    shape = sizes.recipe_shape(recipe)
    done = work.sample_work(recipe, methods.parse("dense"), shape, n_text=30)
    linear, head = 32 * 2 * 202_375_168 * 606, 2 * 131_072_000 * 606
    attention = 32 * 2 * 4096 * 606**2
    below = done.forward["tower"] + 3 * done.forward["projector"]
    assert done.training == pytest.approx(3 * linear + 4 * attention + 2 * head + below, rel=1e-12)


def test_llavolta_trains_on_the_mean_of_its_stages() -> None:
    """61.5 % of the visual token layers: the mean of 18.0, 53.1, 75 and 100 %."""
    recipe = load("llavolta-4stage")
    shape = sizes.recipe_shape(recipe)
    counts = [
        work.training_counts(method, shape, 0, 576).mean() / 576
        for method in estimate.schedule_of(recipe, shape)
    ]
    assert counts == pytest.approx([0.1797, 0.53125, 0.75, 1.0], abs=1e-4)
    assert np.mean(counts) == pytest.approx(0.615, abs=5e-4)


# --- memory -----------------------------------------------------------------------------------
def test_states_by_hand() -> None:
    """16 bytes a trained parameter, 2 a frozen one; what a mode divides is divided by 8."""
    trained, frozen = 1_000, 100
    expected = {
        "ddp": 2 * 1100 + 2 * 1000 + 12 * 1000,
        "zero1": 2 * 1100 + 2 * 1000 + 12 * 1000 / 8,
        "zero2": 2 * 1100 + 2 * 1000 / 8 + 12 * 1000 / 8,
        "zero3": (2 * 1100 + 2 * 1000 + 12 * 1000) / 8
        + 2 * 1100,  # gathered: all of so small a model
        "host": 2 * 1100 + 2 * 1000,
    }
    assert {m: memory.states(trained, frozen, m, 8).device for m in memory.MODES} == expected
    assert memory.states(trained, frozen, "host", 8).host == 12 * 1000 / 8


def test_zero3_of_seven_billion() -> None:
    """(16 x 6.759e9 + 2 x 0.304e9) / 8 = 13.59e9 bytes, and 2e9 of gathered weights."""
    held = memory.states(VICUNA + PROJECTOR, CLIP, "zero3", 8)
    assert held.device == pytest.approx(13.595e9 + 2e9, rel=1e-3)


def test_layer_activations_are_what_autograd_keeps() -> None:
    """Bytes that a bf16 Llama layer saves for its backward pass, weights left out."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    from harness.cost.modules import llama_layer

    shape = sizes.recipe_shape(load("dense-llava-1.5"))
    small = dataclasses.replace(shape, hidden=256, ffn=688, heads=4, kv_heads=4, head_dim=64)
    layer = llama_layer(small).to(torch.bfloat16).train()
    states = torch.randn(1, 128, 256, dtype=torch.bfloat16, requires_grad=True)
    config = layer.self_attn.config
    angles = LlamaRotaryEmbedding(config)(states, torch.arange(128)[None])
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        out = layer(states, position_embeddings=angles, attention_mask=None)
    measured = sum(storage.nbytes() for storage in kept.values()) / 128
    assert out.requires_grad
    assert memory.layer_bytes(small) == 24 * 256 + 8 * 688
    # What is left: rotary tables shared by all layers, one number a token and norm or head.
    assert 0 < measured - memory.layer_bytes(small) < 300


def test_without_checkpointing_every_layer_is_kept_at_its_own_count() -> None:
    recipe = load("pmod-llava-1.5")
    shape, method = sizes.recipe_shape(recipe), methods.parse("pmod")
    whole = dataclasses.replace(recipe, checkpointing=False)
    counts = work.training_counts(method, shape, 2048 - 576, 576)
    expected = memory.layer_bytes(shape) * int(counts.sum()) + 12 * 32000 * 2048
    assert memory.sample_bytes(whole, method, shape) == expected
    assert memory.sample_bytes(recipe, method, shape) < expected / 4


def test_p_mods_own_setting_fits_its_cards_and_the_next_batch_does_not() -> None:
    """Paper and code: 8 cards of 48 GB, ZeRO-1, batch 4 (accumulation 4)."""
    recipe = load("pmod-llava-1.5")
    shape, method = sizes.recipe_shape(recipe), methods.parse("pmod")
    held = memory.states(VICUNA + PROJECTOR + 24 * 4097, CLIP, "zero1", 8).device
    sample = memory.sample_bytes(recipe, method, shape)
    assert 4 <= memory.largest_batch(48 * GIB, held, sample) < 8


# --- the command ------------------------------------------------------------------------------
def test_every_recipe_has_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    for path in sorted(RECIPES.glob("*.yaml")):
        assert main(["--recipe", str(path), "--estimate"]) == 0, path
    assert "assumption" in capsys.readouterr().out


def test_hours_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """27.88 EFLOP on 8 x 312 TFLOP/s at 40 %: 7.76 hours."""
    assert estimate.Device().hours(27.88e18) == pytest.approx(7.757, abs=1e-3)
    flags = ["--gpus", "1", "--mfu", "0.2"]
    assert main(["--recipe", str(RECIPES / "dense-llava-1.5.yaml"), "--estimate", *flags]) == 0
    out = capsys.readouterr().out
    assert "accumulation 8" in out and "global batch 16" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--mfu", "0"], "--mfu"),
        (["--method", "fastv"], "no closed form"),
        (["--method", "pmodd"], "pmod"),
        (["--decoder", "vicuna"], "no sizes"),
        (["--vision", "foo/bar"], "no sizes of unknown tower 'foo/bar'"),
        (["--data", "/nonexistent.json"], "'/nonexistent.json' is not here"),
        (["--model", "llava-hf/llava-1.5-7b-hf", "--vision", "foo/bar"], "either a model, or"),
        (["--max-steps", "9", "--epochs", "2"], "--epochs: not with max_steps (9 here)"),
        *(
            ([f"--{name}", "1"], f"--{name}: not with --estimate")
            for name in (
                *("images", "projector", "learning-rate", "workers", "seed", "out", "start"),
                *("all", "ship", "jobs"),
            )
        ),
    ],
)
def test_refused_in_one_line(flags: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["--recipe", str(RECIPES / "dense-llava-1.5.yaml"), "--estimate", *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_data_and_model_of_the_command_are_what_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.json").write_text("[{}, {}, {}]")
    recipe = ["--recipe", str(RECIPES / "dense-llava-1.5.yaml"), "--estimate"]
    flags = ["--data", str(tmp_path / "mine.json"), "--model", "llava-hf/llava-1.5-13b-hf"]
    assert main([*recipe, *flags]) == 0
    out = capsys.readouterr().out
    assert "llava-1.5-13b-hf, dense: 3 samples (counted in" in out and "13,016,519,680" in out


def test_tiny_recipes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--recipe", str(RECIPES / "tiny/dense.yaml"), "--estimate"]) == 2
    assert "instruct" in capsys.readouterr().err


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys; from harness.train.__main__ import main; "
        f"main(['--recipe', {str(RECIPES / 'pmod-llava-next.yaml')!r}, '--estimate']); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(ROOT), capture_output=True)
    assert run.returncode == 0, run.stderr
    assert UsageError.exit_code == 2


# --- methods of a file ------------------------------------------------------------------------
OWN = """
from dataclasses import dataclass
from methods.base import Method

@dataclass(frozen=True)
class Own(Method):
    name = "{name}"
    trained = True

    def mod_layers(self, info):
        return [i % 2 == 1 for i in range(info.layers)]
"""
PARAMETERS = "    def module_parameters(self, info):\n        return sum(self.mod_layers(info))\n"
HALF = (
    "    def training_counts(self, info, n_text, n_image):\n"
    "        return [n_text + n_image // (1 + r) for r in self.mod_layers(info)]\n"
)


def _estimate(path: Path, text: str) -> int:
    path.write_text(text, encoding="utf-8")
    recipe = str(RECIPES / "dense-llava-1.5.yaml")
    return main(["--recipe", recipe, "--estimate", "--method", str(path)])


def test_a_trained_method_of_a_file_is_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = OWN.format(name="own_whole") + PARAMETERS + HALF
    assert _estimate(tmp_path / "whole.py", text) == 0
    assert "own_whole" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "more", "words"),
    [
        ("own_bare", HALF, "module_parameters"),
        ("own_uncounted", PARAMETERS, "training_counts"),
        ("own_short", PARAMETERS + HALF.replace("info)]", "info)][1:]"), "32 whole numbers"),
        ("own_more", PARAMETERS + HALF.replace("//", "* 2 //"), "the sample"),
    ],
)
def test_a_file_that_does_not_declare_it_is_told_what(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, more: str, words: str
) -> None:
    assert _estimate(tmp_path / f"{name}.py", OWN.format(name=name) + more) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
