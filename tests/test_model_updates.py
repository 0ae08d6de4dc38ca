"""A model kept as what it adds to another one is put together bit for bit."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.common.errors import UsageError
from harness.minimodel import shipping
from harness.minimodel.folders import undo_updates
from harness.minimodel.lowrank import (
    add_low_rank,
    low_rank_state,
    merge_low_rank,
    take_low_rank,
)
from harness.minimodel.parts import Shared
from harness.model.convert import folders
from harness.model.convert.use import as_model
from harness.model.updates import RECORD, TENSORS, save_updates, whole_model
from harness.model.weights import SINGLE, file_hash
from tests.tiny import tiny_llava

SHARED = ("language_model.model.", "language_model.model.")
IMAGE = "model.vision_tower.embeddings.class_embedding"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the folder that ships, the whole model), beside a base `tiny-llava`."""
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    tiny_llava(layers=3, seed=1).half().save_pretrained(tmp_path / "assets" / "tiny-llava")
    model = tiny_llava(layers=3, seed=1)
    add_low_rank(model.model.language_model, rank=2)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith(".B") or name == IMAGE:
                value.normal_(std=0.05)
    updates, whole = merge_low_rank(model), tmp_path / "whole"
    assert updates and low_rank_state(model) == {}
    model.half().save_pretrained(whole)
    named = {SHARED[1] + k.removeprefix("model.language_model."): v for k, v in updates.items()}
    base = tmp_path / "assets" / "tiny-llava"
    save_updates(whole, base, SHARED, named)
    added = load_file(whole / TENSORS)
    assert IMAGE.removeprefix("model.") in added  # not the base's
    assert SHARED[1] + "norm.weight" not in added  # the base's, unchanged
    query = SHARED[1] + "layers.1.self_attn.q_proj.weight"
    assert query not in added and added[query + ".A"].shape[0] == 2
    ships = tmp_path / "assets" / "second"
    shutil.copytree(whole, ships, ignore=shutil.ignore_patterns(SINGLE))
    return ships, whole


def test_a_second_part_goes_on_with_the_updates_of_the_first(
    kept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it to begin new ones, what ships would be of twice their rank, or the model whole."""
    monkeypatch.setattr("harness.minimodel.folders.DATA", tmp_path)
    _, whole = kept
    parts: Any = SimpleNamespace(shared=Shared("tiny-llava", *SHARED, "model.language_model."))
    model = type(tiny_llava()).from_pretrained(whole, dtype=torch.float32)
    ours, before = model.state_dict(), {k: v.clone() for k, v in model.state_dict().items()}
    taken = undo_updates(parts, whole, model)
    base = tiny_llava(layers=3, seed=1).half().state_dict()
    assert taken and all(torch.equal(ours[name], base[name].float()) for name in taken)
    add_low_rank(model.model.language_model, rank=2)
    take_low_rank(model, taken)
    moved = merge_low_rank(model)
    for name, (a, b) in moved.items():
        assert torch.equal(a, taken[name][0]) and torch.equal(b, taken[name][1])
        assert torch.equal(ours[name], before[name]) and not torch.equal(ours[name], base[name])
    assert undo_updates(parts, tmp_path, model) == {}
    other = shutil.copytree(whole, tmp_path / "other")
    tiny_llava(layers=3, seed=3).half().save_pretrained(other)
    with pytest.raises(UsageError, match="is of another model than"):
        undo_updates(parts, other, model)
    tiny_llava(layers=3, seed=2).half().save_pretrained(tmp_path / "assets" / "tiny-llava")
    with pytest.raises(UsageError, match="updates of other weights than"):
        undo_updates(parts, whole, model)


def test_the_whole_model_is_made_again_bit_for_bit_and_once(kept: tuple[Path, Path]) -> None:
    ships, whole = kept
    made = as_model(ships)
    assert file_hash(made / SINGLE) == file_hash(whole / SINGLE)
    assert {p.name for p in made.iterdir()} == {p.name for p in whole.iterdir()} - {RECORD, TENSORS}
    assert as_model(ships) == made and as_model(whole) == whole and as_model(made) == made
    config = json.loads((ships / "config.json").read_text()) | {"another": 1}
    (ships / "config.json").write_text(json.dumps(config))
    assert as_model(ships) != made  # of other files


def test_processes_that_begin_at_once_wait_for_one_of_them(
    kept: tuple[Path, Path], tmp_path: Path
) -> None:
    ships, whole = kept
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        made = list(pool.map(whole_model, [ships] * 2, [tmp_path / "at-once"] * 2))
    assert len(set(made)) == 1 and file_hash(made[0] / SINGLE) == file_hash(whole / SINGLE)


def test_updates_of_another_base_and_damaged_ones_are_refused(kept: tuple[Path, Path]) -> None:
    ships, _ = kept
    base, good = ships.parent / "tiny-llava", load_file(ships / TENSORS)
    old = load_file(base / SINGLE)
    first = next(name for name in good if name.endswith(".A"))
    save_file({**good, first: good[first][:, :-1].contiguous()}, ships / TENSORS)
    with pytest.raises(UsageError, match="no update of a tensor of its base"):
        as_model(ships)
    (ships / TENSORS).write_bytes(b"short")
    with pytest.raises(UsageError, match="damaged or missing"):
        as_model(ships)
    save_file({**good, first: good[first] + 1}, ships / TENSORS)
    with pytest.raises(UsageError, match="not those that were saved"):
        as_model(ships)
    save_file(good, ships / TENSORS)
    save_file({k: v + 1 for k, v in old.items()}, base / SINGLE)
    with pytest.raises(UsageError, match="updates of other weights than"):
        as_model(ships)
    shutil.rmtree(base)
    with pytest.raises(UsageError, match="no weights"):
        as_model(ships)
    for text in ("{", "{}", '{"base": "../x", "sha256": "", "whole": "", "shared": ["a", "b"]}'):
        (ships / RECORD).write_text(text)
        with pytest.raises(UsageError, match=RECORD):
            as_model(ships)


def test_a_model_that_its_updates_do_not_make_is_not_kept_so(kept: tuple[Path, Path]) -> None:
    ships, whole = kept
    values = load_file(whole / SINGLE)
    name = SHARED[1] + "layers.0.mlp.up_proj.weight"
    added = load_file(whole / TENSORS)
    pair = (added[name + ".A"], added[name + ".B"])
    values[name][0, 0] += 1
    save_file(values, whole / SINGLE)
    with pytest.raises(ValueError, match=r"up_proj\.weight is not tiny-llava's with its update"):
        save_updates(whole, ships.parent / "tiny-llava", SHARED, {name: pair})


def test_updates_ship_in_place_of_the_whole_model(
    kept: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = kept
    work = tmp_path / "work"
    monkeypatch.setattr(shipping, "DATA", tmp_path / "data")
    shipped = tmp_path / "data" / "assets"
    shutil.copytree(tmp_path / "assets" / "tiny-llava", shipped / "tiny-llava")
    (shipped / "tiny-qwen").mkdir()
    (shipped / "tiny-qwen" / SINGLE).write_text("of a time when it was kept whole")
    for name in shipping.named("tiny-qwen")["tiny-qwen"].ships:
        shutil.copytree(whole, work / "tiny-qwen" / name)
        (work / "tiny-qwen" / name / "training.json").write_text("{}")
        if name != "tune":
            (work / "tiny-qwen" / name / RECORD).unlink()
    list(shipping.ship(shipping.named("tiny-qwen"), work))
    assert (shipped / "tiny-qwen" / TENSORS).is_file()
    assert not (shipped / "tiny-qwen" / SINGLE).exists()
    assert (shipped / "tiny-qwen-pmod" / SINGLE).is_file()
    base = load_file(shipped / "tiny-llava" / SINGLE)
    save_file({k: v + 1 for k, v in base.items()}, shipped / "tiny-llava" / SINGLE)
    with pytest.raises(UsageError, match=r"adds to other weights than .* ship tiny-llava first"):
        list(shipping.ship(shipping.named("tiny-qwen"), work))
    for name in shipping.named("tiny-llava")["tiny-llava"].ships:
        (work / name).mkdir()
        (work / name / "training.json").write_text("{}")
        shutil.copyfile(shipped / "tiny-llava" / SINGLE, work / name / SINGLE)
    *_, last = shipping.ship(shipping.named("tiny-llava"), work)
    assert last.startswith("note: tiny-qwen adds to the tiny-llava of before")
    (work / "tiny-qwen" / "tune" / SINGLE).write_text("trained again")
    with pytest.raises(UsageError, match=r"updates\.json is of another model"):
        list(shipping.ship(shipping.named("tiny-qwen"), work))
