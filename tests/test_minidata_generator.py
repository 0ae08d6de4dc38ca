"""The generator of the mini benchmarks: splits that share no scene, and the shipped documents."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from minidata import BENCHES, IMAGE_SIZE, charts, scene, tasks
from minidata.rows import read
from tests.fixtures.drawing import made_up_pack

Docs = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rows() -> Docs:
    return {b: read(tasks.data_files(b)).to_pylist() for b in BENCHES}


def test_one_composition_in_ten_is_a_test_scene() -> None:
    hits = sum(scene.is_test(scene.scene_id("objects", [["cat", i, None]])) for i in range(5000))
    assert 400 < hits < 600


@pytest.mark.parametrize("family", ["objects", "text", "doc"])
def test_no_composition_is_in_both_splits(family: str, rows: Docs) -> None:
    """Composing needs no source packages (charts do: see the network test below)."""
    from minidata import build

    def composed(test: bool, count: int) -> set[str]:
        return {
            build.compose(seed, i, test, None, family)[0] for seed in (1, 7) for i in range(count)
        }

    train, test = composed(False, 400), composed(True, 150)
    shipped = {r["scene_id"] for docs in rows.values() for r in docs}
    assert len(train) > 700
    assert len(test) > 250
    assert len(test & shipped) > 100  # seed 7 made the shipped data: the comparison is alive
    assert not train & (test | shipped)


def test_the_hash_sees_content_and_family() -> None:
    base = scene.scene_id("objects", [["cat", 0, "red"]])
    assert base != scene.scene_id("objects", [["cat", 0, "blue"]])
    assert base != scene.scene_id("text", [["cat", 0, "red"]])
    assert base == scene.scene_id("objects", [["cat", 0, "red"]])


def test_the_last_name_of_a_chart_stays_in_the_picture() -> None:
    """A long one is moved in whole, a stroke beyond the edge stays where it was."""
    pack = made_up_pack()

    def right_end(name: str) -> float:
        pairs = [("Fiat", 7), ("Opel", 12), ("Ford", 9), ("Saab", 4), (name, 11)]
        spec = {"title": "Cars", "pairs": pairs, "form": "bar", "colors": ["red"] * 5}
        image, boxes = charts.render({**spec, "printed": True}, random.Random(0), pack)
        (box,) = (b for b in boxes if b.attrs.get("role") == "category" and b.label == name)
        assert box.box[2] <= image.width == IMAGE_SIZE
        return box.chars[-1][1] - image.width

    assert right_end("Mercury") == right_end("Peugeot") == 0
    assert 0 < right_end("Builder") < charts.SPILL
    assert right_end("Audi") < 0


# --- the whole generator: needs its source packages


@pytest.fixture(scope="module")
def pack() -> Any:
    from minidata import sources
    from minidata.__main__ import DEFAULT_CACHE

    return sources.load(DEFAULT_CACHE)


@pytest.mark.network
@pytest.mark.parametrize("family", ["objects", "text", "chart", "doc"])
def test_train_and_test_never_share_a_scene(family: str, pack: Any, rows: Docs) -> None:
    from minidata import build

    train = {
        build.make(seed, i, False, pack, family).identifier for seed in (1, 7) for i in range(150)
    }
    test = {
        build.make(seed, i, True, pack, family).identifier for seed in (1, 7) for i in range(100)
    }
    shipped = {r["scene_id"] for docs in rows.values() for r in docs}
    assert len(train) > 200
    assert len(test) > 100
    assert not train & (test | shipped)


@pytest.mark.network
@pytest.mark.parametrize("bench", BENCHES)
def test_the_generator_gives_the_shipped_documents(bench: str, pack: Any, rows: Docs) -> None:
    from minidata import bench as writer
    from minidata.__main__ import SHIPPED

    assert json.loads((tasks.folder().parent / "manifest.json").read_text())["seed"] == SHIPPED
    for made, stored in zip(
        writer.documents(bench, SHIPPED, 60, pack), rows[bench][:60], strict=True
    ):
        for key in set(made) - {"image"}:  # JPEG bytes may differ between library builds
            assert made[key] == stored[key], key


@pytest.mark.network
def test_workers_do_not_change_the_training_data(pack: Any, tmp_path: Path) -> None:
    from minidata import train
    from minidata.__main__ import DEFAULT_CACHE

    for workers in (1, 2):
        train.write(tmp_path / str(workers), 130, 3, workers, DEFAULT_CACHE)
    for name in ("scenes.jsonl", "images.npy"):
        one, two = ((tmp_path / w / name).read_bytes() for w in "12")
        assert one == two


def test_a_missing_package_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from minidata.__main__ import main

    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["train", "--out", str(tmp_path), "--n", "1", "--cache", str(tmp_path / "c")]) == 1
    assert capsys.readouterr().err.strip() == (
        "minidata: npm is not installed; it downloads emoji-datasource-google@16.0.0"
    )
