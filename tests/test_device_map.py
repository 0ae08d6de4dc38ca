"""A model spread over two places by accelerate answers as one that is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import methods
from harness.bench.benches import Bench, resolve_bench
from harness.common.errors import UsageError
from harness.model.catalog import load_model
from harness.model.session import Session
from harness.store.packing import plain
from tests.fixtures.hub_data import write_gqa
from tests.fixtures.hub_models import write_llava
from tests.loop.cells import run
from tests.tiers import some

PLAIN = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
METHODS = ("dense", "fastv:k=1", "random", "fastervlm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def gqa(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("copies")
    write_gqa(root, ["red"] * 2)
    return resolve_bench("gqa", str(root))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Session:
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def spread(folder: Path, whole: Session) -> Session:
    """Every second decoder layer lies on disk."""
    decoder = whole.model.model.language_model
    places: dict[str, Any] = dict.fromkeys(PLAIN, "cpu")
    names = [name for name, _ in decoder.named_children() if name != "layers"]
    places |= {f"model.language_model.{name}": "cpu" for name in names}
    for i in range(len(decoder.layers)):
        places[f"model.language_model.layers.{i}"] = "disk" if i % 2 else "cpu"
    return load_model(str(folder), device="cpu", device_map=places)


@pytest.mark.parametrize("spec", some(METHODS, *METHODS[1::2]))
def test_a_spread_model_answers_as_a_whole_one(
    spec: str, whole: Session, spread: Session, gqa: Bench
) -> None:
    assert any(value.device.type == "meta" for value in spread.model.parameters())
    assert "spread over devices" in spread.device_name
    method = methods.parse(spec)
    here, there = (run(loaded, gqa, method, batch_size=2) for loaded in (whole, spread))
    assert [s.prediction for s in there.samples] == [s.prediction for s in here.samples]
    for name, record in here.records.items():
        assert plain(there.records[name]) == plain(record)


def test_trained_weights_need_the_model_in_memory(spread: Session, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--device-map: .* lie on the host or on disk"):
        spread.check(methods.parse("pmod"), tmp_path)


def test_words_of_transformers(folder: Path) -> None:
    session = load_model(str(folder), device="cpu", device_map="auto")
    assert "spread over devices" in session.device_name
