"""Released weights of methods: beside a model, with the routing they had under their own names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import methods
import methods.base
from harness.command.cli import main
from harness.common.errors import UsageError
from harness.engine import routed
from harness.jobs.resolve import checkpoint
from harness.model.checkpoints import load_checkpoint
from harness.model.convert import folders
from harness.model.convert.use import as_checkpoint, as_model, config_behind, convert
from tests import released_tools as tools
from tests.released_tools import Draw, loaded, prompt, put, reference, write, write_tower

STORED = "model.vision_tower.vision_tower.vision_model."
INFO = methods.base.ModelInfo(32, tools.WIDTH, 4, 2, 4)
DEPTH = 32  # p-MoD's schedule in numbers: layers 8 to 31 route
ROUTED = range(8, 32)
PMOD = {
    "model_type": "pmod_llava_llama",
    "architectures": ["PmodLlavaLlamaForCausalLM"],
    "mod_target_layers": "shiftedcos_decay_0.85_0.15",
    "mod_target_layer_indices": list(ROUTED),
    "mod_target_token_type": "vision_all",
    "mod_router_factor": 0.5,
    "mod_weight_norm": "tanh_0.2_1",
    "mod_bias_enabled": True,
    "mod_special_init": True,
    "mm_vision_tower": "openai/clip",
    "unfreeze_mm_vision_tower": True,
}


def made(source: Path, to: Path, tower: Path | None = None) -> dict[str, Any]:
    return convert(source, to, tower, lambda line: None)


def sight(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(STORED): v for k, v in tensors.items() if k.startswith(STORED)}


def pmod_tensors() -> dict[str, Tensor]:
    draw = Draw(3)
    found = tools.decoder(draw, DEPTH, "decoder_layer.", ROUTED) | tools.projector(draw)
    found |= tools.tower(draw, STORED)
    for i in ROUTED:
        found[f"model.layers.{i}.router.router.weight"] = draw(1, tools.WIDTH)
        found[f"model.layers.{i}.router.router.bias"] = draw(1)
    return found


def answers(model: Any, method: Any, modules: Any) -> tuple[Tensor, Any]:
    """Logits of a prompt over the released words, and its routing record."""
    with torch.no_grad(), routed(model, method, modules) as run:
        logits = model(**prompt()).logits[..., : tools.WORDS]
        return logits, run.records()[0]


def same(one: tuple[Tensor, Any], other: tuple[Tensor, Any]) -> None:
    """Equal answers and equal routing, with something skipped in it."""
    torch.testing.assert_close(one[0], other[0])
    assert (one[1].route == other[1].route).all()
    assert (one[1].mod_layers == other[1].mod_layers).all()
    assert len({*one[1].route.ravel().tolist()}) > 1


def test_pmod_routes_and_answers_as_under_its_own_names(tmp_path: Path) -> None:
    tensors = pmod_tensors()
    source = write(tmp_path / "src", tools.config(DEPTH, **PMOD), tensors, "safetensors")
    record = made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert (record["method"], record["model"]) == ("pmod", True)
    assert any("trained under p-MoD" in note for note in record["notes"])
    method = methods.build("pmod", {"scale": 0.2, "bias": 1.0})
    own: Any = method.build_modules(INFO)
    for i in ROUTED:
        for part in ("weight", "bias"):
            put(own[str(i)], part, tensors[f"model.layers.{i}.router.router.{part}"])
    wanted = answers(reference(tensors, sight(tensors), layers=DEPTH), method, own)
    model = loaded(tmp_path / "out")
    read = load_checkpoint(tmp_path / "out" / "pmod", model, methods.parse("pmod"))
    assert read.modules is not None
    assert read.method == methods.parse("pmod")
    assert read.method.mod_layers(INFO) == [i in ROUTED for i in range(DEPTH)]
    same(answers(model, read.method, read.modules), wanted)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mod_weight_norm": "softmax_1_0"}, "mod_weight_norm is 'softmax_1_0'; read are tanh"),
        ({"mod_target_layers": "stairs"}, "mod_target_layers is 'stairs'"),
        ({"mod_target_token_type": "all"}, "mod_target_token_type is 'all'"),
        ({"mod_router_factor": 0.3}, "it lacks weights of the method"),
        ({"mod_router_factor": None}, "mod_router_factor is missing"),
    ],
)
def test_pmods_config_must_say_what_its_files_hold(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    said = tools.config(DEPTH, **{**PMOD, **change})
    source = write(tmp_path / "src", said, pmod_tensors(), "safetensors")
    with pytest.raises(UsageError, match=word) as caught:
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


# --- gamma-MoD --------------------------------------------------------------------------------
def gamma(tmp_path: Path, layers: list[int], where: dict[int, Tensor], **more: Any) -> Path:
    """gamma-MoD on LLaVA-1.5: a depth of 6, routers as ``where`` says."""
    draw = Draw(7)
    tensors = tools.decoder(draw, 6) | tools.projector(draw) | tools.tower(draw, STORED)
    tensors |= {f"model.layers.{i}.router.weight": value for i, value in where.items()}
    mod = {
        "mod_enable": True,
        "mod_mode": "arank_mod",
        "mod_layers_idx": layers,
        "capacity_factor": 0.5,
        "router_aux_loss_coef": 0.01,
    }
    said = tools.config(6, model_type="mod_llava_llama", mod=mod | more)
    return write(tmp_path / "src", said, tensors, "bin")


def gamma_router(seed: int = 0) -> Tensor:
    """[2, d], wide enough that some tokens fall below the threshold of .005."""
    return Draw(seed)(2, tools.WIDTH) * 20


@pytest.mark.parametrize("copies", [[3, 4], [3]])
def test_gamma_routes_and_answers_as_under_its_own_names(tmp_path: Path, copies: list[int]) -> None:
    router = gamma_router()
    source = gamma(tmp_path, [3, 4], dict.fromkeys(copies, router))
    record = made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert record["method"] == "gamma"
    method = methods.parse("gamma:layers=3+4")
    own = nn.ModuleDict({"router": nn.Linear(tools.WIDTH, 2, bias=False)})
    put(own["router"], "weight", router)
    draw = Draw(7)
    tensors = tools.decoder(draw, 6) | tools.projector(draw) | tools.tower(draw, STORED)
    wanted = answers(reference(tensors, sight(tensors), layers=6), method, own)
    model = loaded(tmp_path / "out")
    read = load_checkpoint(tmp_path / "out" / "gamma", model, methods.parse("gamma"))
    assert read.method == methods.parse("gamma")  # layers 3 and 4 of 6 are its usual ones
    same(answers(model, read.method, read.modules), wanted)


def test_routers_that_differ_are_one_a_layer(tmp_path: Path) -> None:
    routers = {1: gamma_router(1), 4: gamma_router(2)}
    record = made(gamma(tmp_path, [4, 1], routers), tmp_path / "out", write_tower(tmp_path / "c"))
    assert any("layers 1, 4, not" in note for note in record["notes"])
    model = loaded(tmp_path / "out")
    read = load_checkpoint(tmp_path / "out" / "gamma", model, methods.parse("gamma"))
    assert read.method == methods.parse("gamma:layers=1+4:shared=false")
    assert read.modules is not None
    for i, value in routers.items():
        assert torch.equal(read.modules.state_dict()[f"{i}.weight"], value)


@pytest.mark.parametrize(
    ("layers", "where", "more", "word"),
    [
        ([3, 4], {}, {}, "no router in it"),
        ([3, 4], {3: gamma_router(), 5: gamma_router()}, {}, "routers in layers 5, which"),
        ([2, 3, 4], {2: gamma_router(1), 3: gamma_router(2)}, {}, "differ .* layers 4 have none"),
        ([3, 9], {3: gamma_router()}, {}, r"mod_layers_idx is \[3, 9\], expected"),
        ([3], {3: torch.ones(1, tools.WIDTH)}, {}, r"router.weight .* shape \[1, 16\]"),
        ([3], {3: gamma_router()}, {"mod_enable": False}, "mod_enable is false"),
    ],
)
def test_gamma_routers_that_do_not_fit_are_named(
    tmp_path: Path, layers: list[int], where: Any, more: Any, word: str
) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        made(gamma(tmp_path, layers, where, **more), tmp_path / "out", write_tower(tmp_path / "c"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


# --- LLaVolta, and where weights are looked for -------------------------------------------------
def test_a_llavolta_stage_is_a_model_whose_pooling_the_user_says(tmp_path: Path) -> None:
    draw = Draw(1)
    tensors = tools.decoder(draw) | tools.projector(draw)
    said = tools.config(model_type="llava", grouping="avgpool1d")
    source = write(tmp_path / "src", said, tensors, "bin")
    tower = write_tower(tmp_path / "clip")
    record = made(source, tmp_path / "out", tower)
    assert record["method"] == "" and any("llavolta:k=" in note for note in record["notes"])
    loaded(tmp_path / "out")
    with pytest.raises(UsageError, match="no weights of llavolta, but a model for --model"):
        as_checkpoint(tmp_path / "out", "llavolta")
    write(source, said | {"grouping": "abstractor"}, tensors, "bin")
    with pytest.raises(UsageError, match="grouping is 'abstractor'"):
        made(source, tmp_path / "new", tower)


def test_released_weights_of_a_method_are_found_behind_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    source = gamma(tmp_path, [3, 4], {3: gamma_router()})
    write_tower(source / "openai" / "tiny-tower")
    model = as_model(source)
    assert model.parent == tmp_path / "cache"
    method = methods.parse("gamma")
    assert checkpoint(method, str(source), None) == model / "gamma"
    assert checkpoint(method, str(model), None) == model / "gamma"  # a converted folder as well
    with pytest.raises(UsageError, match="no weights of pmod, but weights of gamma"):
        as_checkpoint(source, "pmod")


def test_costs_need_a_released_folders_config_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    said = tools.config(DEPTH, **PMOD)
    said["mm_vision_tower"] = "openai/clip-vit-large-patch14-336"  # known by its name
    source = write(tmp_path / "src", said, {"model.norm.weight": torch.ones(1)}, "one.bin")
    found = config_behind(str(source))
    assert found["text_config"]["num_hidden_layers"] == DEPTH
    assert found["vision_config"]["image_size"] == 336
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_gamma_runs_from_its_released_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    source, run = gamma(tmp_path, [3, 4], {3: gamma_router()}), tmp_path / "run"
    write_tower(source / "openai" / "tiny-tower")
    words = ["--model", str(source), "--methods", "gamma", "--checkpoint", f"gamma={source}"]
    words += ["--bench", "gqa", "--data", "mini", "--limit", "2", "--batch-size", "1"]
    assert main([*words, "--out", str(run), "--quiet"]) == 0
    assert (run / "cells.csv").read_text().count("done") == 2
    assert json.loads((run / "run.json").read_text())["checkpoints"]["gamma"]
