"""A recipe that goes on from an earlier one's modules and low-rank updates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from harness.common.errors import UsageError
from harness.engine import model_info
from harness.minimodel.card import chain
from harness.minimodel.folders import sha256
from harness.minimodel.jobs import _earlier
from harness.minimodel.log import write_log
from harness.minimodel.lowrank import add_low_rank, low_rank_state, take_low_rank
from harness.minimodel.recipe import Recipe
from harness.model.checkpoints import save_checkpoint
from methods import parse
from tests.routing_tools import random_modules
from tests.tiny import tiny_llava


def test_updates_go_on_where_they_belong_to_this_dense_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, method = tiny_llava(layers=5), parse("pmod")
    dense = tmp_path / "dense"
    dense.mkdir()
    save_file({"w": torch.zeros(2)}, dense / "model.safetensors")
    trained = tiny_llava(layers=5)
    add_low_rank(trained.model.language_model, rank=2)
    deltas = low_rank_state(trained)
    modules, info = random_modules(method, model), model_info(model)
    base = sha256(dense / "model.safetensors")
    save_checkpoint(tmp_path / "first", method, modules, info, deltas, base=base)
    recipe = Recipe("tune", method="pmod", start="dense", modules="first", rank=2)
    found = _earlier(recipe, tmp_path, model, method)
    assert found is not None and found.modules is not None
    add_low_rank(model.model.language_model, rank=2)
    take_low_rank(model, found.deltas)
    for name, (a, b) in low_rank_state(model).items():
        assert torch.equal(a, deltas[name][0]) and torch.equal(b, deltas[name][1])
    assert _earlier(replace(recipe, modules=""), tmp_path, model, method) is None
    plain = tiny_llava(layers=5)
    with pytest.raises(UsageError, match="give the rank of those"):
        _earlier(replace(recipe, rank=0), tmp_path, plain, method)
    save_file({"w": torch.ones(2)}, dense / "model.safetensors")
    with pytest.raises(UsageError, match=r"modules: .*other dense weights"):
        _earlier(recipe, tmp_path, plain, method)


def test_the_card_names_every_part_that_modules_come_from(tmp_path: Path) -> None:
    for name, before in (("one", ""), ("two", "one"), ("three", "two")):
        write_log(tmp_path / name, Recipe("tune", modules=before), {"seconds": 1.0})
    assert [step["name"] for step in chain(tmp_path, "three")] == ["three", "two", "one"]
    assert chain(tmp_path, "") == []
