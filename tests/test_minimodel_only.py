"""`--all MODEL --only RECIPES`: what is trained then, and what it starts from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.families.catalog import MINIS
from harness.minimodel import shipping
from harness.minimodel.card import history
from harness.model.weights import file_hash
from harness.train import __main__ as command
from harness.train.__main__ import main as train
from tests import tiny  # noqa: F401  declares operators before the library asks for them


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_recipes_named_alone_bring_what_they_build_on_up_to_the_model() -> None:
    (parts,) = shipping.named("tiny-llava").values()
    assert names(shipping.chosen(parts, ["pmod"])) == ["pmod-first", "pmod"]
    found = names(shipping.chosen(parts, ["mqt", "gamma-second"]))
    assert found == ["gamma-first", "gamma-second", "mqt-first", "mqt-second", "mqt"], (
        "in the order of training"
    )
    whole = names(shipping.chosen(parts, ["dense"]))
    assert whole[0] == "tower" and whole[-1] == "dense" and "pmod" not in whole
    assert names(shipping.chosen(parts, ["pmod", "dense"])) == [*whole, "pmod-first", "pmod"]
    assert shipping.chosen(parts, parts.recipes) == shipping.recipes(parts)
    with pytest.raises(UsageError, match="did you mean 'pmod'"):
        shipping.chosen(parts, ["pmot"])


@pytest.mark.parametrize("name", MINIS)
def test_a_model_that_ships_is_what_recipes_start_from(name: str, tmp_path: Path) -> None:
    """Its weights are those that the shipped methods name, also where updates of another ship."""
    (parts,) = shipping.named(name).values()
    named = shipping.chosen(parts, ["pmod"])
    (line,) = shipping.take(name, parts, tmp_path, named)
    assert line.endswith(f"not trained, taken from {ROOT / 'assets' / name}")
    start = tmp_path / shipping.main_recipe(parts)
    about = json.loads((ROOT / "assets" / f"{name}-pmod" / "method.json").read_text())
    assert file_hash(start / "model.safetensors") == about["base"]
    assert [step["name"] for step in history(tmp_path, start.name)][-1] == "tower"
    (start / "model.safetensors").write_text("one's own")
    assert "as it lies in" in next(shipping.take(name, parts, tmp_path, named))
    assert (start / "model.safetensors").read_text() == "one's own"
    (start / "training.json").unlink()
    with pytest.raises(UsageError, match=r"no training\.json in it"):
        next(shipping.take(name, parts, tmp_path, named))
    assert (start / "model.safetensors").read_text() == "one's own", "nothing is removed"
    for only in (["tower"], [start.name, "pmod"]):
        assert not [*shipping.take(name, parts, tmp_path / "x", shipping.chosen(parts, only))]
    assert not (tmp_path / "x").exists(), "what starts from nothing, and what trains it"


def test_only_those_named_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(command, "_run", lambda path, args, work: ran.append(path.stem))
    words = ["--all", "tiny-llava", "--work", str(tmp_path)]
    assert train([*words, "--only", "pmod,mod"]) == 0
    assert ran == ["mod-first", "mod", "pmod-first", "pmod"]
    said = capsys.readouterr().out
    assert "dense: not trained, taken from" in said and "make ship" not in said
    assert f"trained mod-first, mod, pmod-first, pmod in {tmp_path}" in said
