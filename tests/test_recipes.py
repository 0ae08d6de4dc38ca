"""The full-size recipes against the papers' settings, written down here a second time."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.families.catalog import info_of
from harness.model.catalog import find_model
from harness.train import estimate, sizes
from harness.train.recipe import InstructRecipe

FOLDER = ROOT / "recipes"
GLOBAL = re.compile(r"^# Global batch: (\d+) GPUs x (\d+) x (\d+) = (\d+)", re.MULTILINE)
# GPUs, batch, accumulation, global batch, length, learning rate, ZeRO stage
LLAVA = (8, 16, 1, 128, 2048, 2e-5, 3)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "llava-1.5-pretrain": (8, 32, 1, 256, 2048, 1e-3, 2),
    "dense-llava-1.5": LLAVA,
    "dense-llava-next": (8, 8, 2, 128, 4096, 2e-5, 3),
    "pmod-llava-1.5": (8, 4, 4, 128, 2048, 2e-5, 1),
    "pmod-llava-next": (8, 8, 2, 128, 4096, 2e-5, 3),
    "gamma-llava-1.5": LLAVA,
    "gamma-llava-hr": (8, 8, 2, 128, 2496 + 1024, 2e-5, 3),
    "mod-llava-1.5": LLAVA,
    "mod-all-layers-llava-1.5": LLAVA,
    "llavolta-4stage": LLAVA,
    "llavolta-3stage": LLAVA,
    "llavolta-heavy": LLAVA,
    "llavolta-light": LLAVA,
}
METHODS: dict[str, dict[str, Any]] = {
    "llava-1.5-pretrain": {"name": "dense"},
    "dense-llava-1.5": {"name": "dense"},
    "dense-llava-next": {"name": "dense"},
    "pmod-llava-1.5": {"name": "pmod", "beta": 0.5, "max": 0.85, "min": 0.15, "norm": "tanh"},
    "pmod-llava-next": {"name": "pmod", "beta": 0.5, "max": 0.85, "min": 0.15, "string": True},
    "gamma-llava-1.5": {"name": "gamma", "ratio": 0.34, "mask": "Q", "aux": 0.01, "shared": True},
    "gamma-llava-hr": {"name": "gamma", "ratio": 0.34, "mask": "Q", "aux": 0.01, "shared": True},
    "mod-llava-1.5": {"name": "mod", "capacity": 0.125, "layers": "odd", "weight": "raw"},
    "mod-all-layers-llava-1.5": {"name": "gamma", "layers": "all", "ratio": 0.34, "mask": "none"},
    "llavolta-4stage": {"name": "dense"},
    "llavolta-3stage": {"name": "llavolta", "k": 16, "stride": 2},
    "llavolta-heavy": {"name": "llavolta", "k": 2, "stride": 8},
    "llavolta-light": {"name": "llavolta", "k": 16, "stride": 8},
}
STAGES = {
    "llavolta-4stage": [(2, 8), (2, 2), (16, 2), None],
    "llavolta-3stage": [(2, 8), (2, 2), (16, 2)],
}


def load(name: str) -> InstructRecipe:
    return estimate.load_recipe(FOLDER / f"{name}.yaml")


def test_every_recipe_is_listed_here() -> None:
    assert sorted(SETTINGS) == sorted(METHODS) == sorted(p.stem for p in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_are_the_papers(name: str) -> None:
    recipe = load(name)
    gpus, batch, accumulation, whole, length, rate, zero = SETTINGS[name]
    found = GLOBAL.findall((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert [tuple(map(int, found[0]))] == [(gpus, batch, accumulation, whole)]
    assert (recipe.batch, recipe.accumulation) == (batch, accumulation)
    assert recipe.batch * recipe.accumulation * gpus == whole
    assert (recipe.max_length, recipe.learning_rate) == (length, rate)
    assert (recipe.epochs, recipe.max_steps) == (1, -1)
    assert (recipe.warmup, recipe.weight_decay, recipe.module_learning_rate) == (0.03, 0, 0)
    assert recipe.bf16 and recipe.tf32 and recipe.checkpointing
    config = json.loads((ROOT / recipe.deepspeed).read_text(encoding="utf-8"))
    assert config["zero_optimization"]["stage"] == zero


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_the_papers(name: str) -> None:
    recipe, expected = load(name), dict(METHODS[name])
    method = methods.parse(recipe.method)
    method.check(info_of(sizes.recipe_shape(recipe)))
    assert method.name == expected.pop("name")
    assert {key: getattr(method, key) for key in expected} == expected
    stages = [methods.parse(spec) for spec in recipe.stages]
    found = [None if m.name == "dense" else (m.k, m.stride) for m in stages]  # type: ignore[attr-defined]
    assert found == STAGES.get(name, [])


def test_models_and_data() -> None:
    for name in SETTINGS:
        recipe = load(name)
        hr = name == "gamma-llava-hr"
        learns = {"projector"} if "pretrain" in name else {"projector", "decoder"}
        assert set(recipe.train) == (learns | {"tower"} if hr else learns)
        assert recipe.template == ("plain" if "pretrain" in name else "vicuna_v1")
        assert (recipe.image_aspect == "anyres") == ("next" in name)
        assert bool(recipe.projector) == ("pretrain" not in name and not hr)
        assert (recipe.plan, recipe.plan_samples, recipe.plan_dense) == (
            ("arank", 50, 4) if name.startswith("gamma") else ("", 50, 4)
        )
        assert estimate.sample_count(recipe)[0] > 500_000


def test_step_count_is_llavoltas() -> None:
    """665,298 / 128: 5,197 whole steps, and one of the rest."""
    assert estimate.steps_of(load("llavolta-4stage"), 665_298, 8) == 5198


def test_llava_hr_ends_in_one_clear_line() -> None:
    with pytest.raises(UsageError, match="only the sizes of 'llava-hr-7b' are known") as caught:
        find_model(load("gamma-llava-hr").model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ratio", ["0.17", "0.34", "0.51", "0.68"])
@pytest.mark.parametrize("mask", ["none", "Q", "QA"])
def test_what_the_gamma_recipes_say_can_be_set(ratio: str, mask: str) -> None:
    spec = f"gamma:mask={mask}:ratio={ratio}:shared=false:layers=3+4+5+7"
    recipe = estimate.load_recipe(FOLDER / "gamma-llava-1.5.yaml", method=spec)
    assert methods.parse(recipe.method).params()["ratio"] == float(ratio)


@pytest.mark.parametrize("path", sorted((FOLDER / "deepspeed").glob("*.json")), ids=str)
def test_deepspeed_files_pass_the_recipe_on(path: Path) -> None:
    """All that the recipe also sets is left to it, the clip too."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("gradient_clipping", "train_micro_batch_size_per_gpu", "train_batch_size"):
        assert config[key] == "auto"
    assert config["gradient_accumulation_steps"] == config["bf16"]["enabled"] == "auto"
    assert "optimizer" not in config and "scheduler" not in config
    assert config["zero_optimization"]["stage"] == int(path.stem[-1])
