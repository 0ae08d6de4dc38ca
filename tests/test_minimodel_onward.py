"""A recipe that goes on from an earlier one's modules and low-rank updates."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.engine import model_info
from harness.minimodel.card import chain, history, write_card, write_history
from harness.minimodel.jobs import _earlier, _routing, check_along, sharpen
from harness.minimodel.log import write_log
from harness.minimodel.lowrank import add_low_rank, low_rank_state, take_low_rank
from harness.minimodel.parts import REGISTRY, parts_of
from harness.minimodel.recipe import Recipe
from harness.model.checkpoints import save_checkpoint
from harness.model.weights import file_hash
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
    base = file_hash(dense / "model.safetensors")
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


def test_sharpened_routers_keep_their_order_and_cut_closer_to_zero() -> None:
    torch.manual_seed(0)
    modules = random_modules(parse("gamma:layers=1+2"), tiny_llava(layers=4))
    seen = torch.randn(50, 16)
    plain, threshold = modules["router"](seen).diff(dim=-1)[:, 0], torch.tensor(0.005).logit()
    sharpen(modules, 8)
    sharp = modules["router"](seen).diff(dim=-1)[:, 0]
    assert torch.equal(sharp.argsort(), plain.argsort())
    assert torch.equal(sharp > threshold, plain > threshold / 8)
    assert ((sharp > threshold) != (plain > threshold)).any()


def test_sharpening_is_refused_where_it_has_no_such_meaning(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="linear, without bias"):
        sharpen(random_modules(parse("pmod"), tiny_llava(layers=5)), 2)
    with pytest.raises(UsageError, match="linear, without bias"):
        sharpen(None, 2)
    path = tmp_path / "r.yaml"
    for times in (0, -1):
        path.write_text(f"stage: tune\nsharpen: {times}\n")
        with pytest.raises(UsageError, match="expected a positive number"):
            Recipe.load(path)
    with ExitStack() as stack, pytest.raises(UsageError, match="linear, without bias"):
        _routing(Recipe("tune", sharpen=2), parse("dense"), tiny_llava(layers=3), stack, None)


def test_new_routers_are_sharpened_too() -> None:
    llava, found = tiny_llava(layers=5), []
    for times in (1.0, 16.0):
        torch.manual_seed(0)
        with ExitStack() as stack:
            recipe = Recipe("tune", "gamma", sharpen=times)
            modules, _ = _routing(recipe, parse("gamma"), llava, stack, None)
            found.append(modules["router"].weight.detach().clone())
    assert torch.equal(found[1], 16 * found[0]) and found[0].any()


def test_a_tower_tuned_beside_updates_loses_no_routers_and_no_projector() -> None:
    recipe, llava, qwen = Recipe("tune", rank=4, train_tower=True), *map(parts_of, REGISTRY)
    check_along(recipe, qwen, None)
    onward = replace(recipe, modules="dense")  # whose updates would give way to the start's
    for one, parts, modules in (
        (recipe, qwen, nn.ModuleDict()), (recipe, llava, None), (onward, qwen, None),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="rank 4 with train_tower"):
            check_along(one, parts, modules)


def test_the_card_counts_the_steps_of_all_parts_that_tuned_the_method(tmp_path: Path) -> None:
    parts = parts_of("llava")
    dense = sum(
        Recipe.load(ROOT / "recipes" / "tiny" / f"{name}.yaml").max_steps
        for name in ("dense-longer-first", "dense-longer")
    )
    earlier = Recipe("tune", max_steps=dense, until=dense - 5, start="dense")
    write_log(tmp_path / "pmod-first", earlier, {"seconds": 1.0})
    write_log(tmp_path / "dense", Recipe("tune", max_steps=900), {"seconds": 1.0})
    for last, said in ((5, f"the same {dense:,} extra"), (6, f"this one {dense + 1:,}) extra")):
        recipe = asdict(replace(earlier, rank=4, max_steps=last, until=0, modules="pmod-first"))
        before = chain(tmp_path, "pmod-first") + history(tmp_path, "dense")
        facts = {"recipe": recipe, "seconds": 1.0, "losses": [], "held_out": {}}
        facts |= {"data": {"scenes": {}, "drawn": {}, "questions": 1}}
        write_card(tmp_path, "pmod", facts, "a CPU", before, parts, "tiny-llava")
        assert said in (tmp_path / "README.md").read_text().replace("\n", " ")


def test_what_led_to_a_model_is_told_without_the_folders_of_it(tmp_path: Path) -> None:
    """A model that ships stands alone: the card of what is trained from it tells of all before."""
    for name, start in (("first", "tower"), ("second", "first"), ("dense", "second")):
        log = {"seconds": 60.0, "steps": 7, "losses": [[1, 2.0], [4, 1.5], [7, 1.0]]}
        write_log(tmp_path / name, Recipe("tune", start=start, rank=4), log | {"held_out": {}})
    before = history(tmp_path, "dense")
    assert [step["name"] for step in before] == ["dense", "second", "first"]
    write_history(tmp_path / "dense", before[1:])
    for gone in ("first", "second"):
        (tmp_path / gone / "training.json").unlink()
    recipe = asdict(Recipe("tune", start="dense", rank=4, max_steps=8))
    facts = {"recipe": recipe, "seconds": 1.0, "losses": [], "held_out": {}}
    facts |= {"data": {"scenes": {}, "drawn": {}, "questions": 1}}
    cards = []
    for steps in (before, history(tmp_path, "dense")):
        write_card(tmp_path, "pmod", facts, "a CPU", steps, parts_of("llava"), "tiny-llava")
        cards.append((tmp_path / "README.md").read_text())
    assert cards[0] == cards[1] and "first (7 steps, seed 0, 1 minutes, loss 2.00 to" in cards[0]
