"""What a run keeps for pictures: places in the image, words, images, attention; nothing moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from harness.bench.benches import Bench
from harness.engine.attention import SIDE, head_mean_maps
from harness.model.session import Session
from harness.store.pictures import LONGEST, save_image
from harness.store.record import IMAGE
from reports.geometry import rects
from tests.loop.cells import comparable, run


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_shown_samples_bring_what_a_picture_needs(
    request: pytest.FixtureRequest, gqa: Bench, name: str
) -> None:
    loaded: Session = request.getfixturevalue(name)
    seen: dict[str, Any] = {}
    fastv = methods.parse("fastv:k=1")
    options: dict[str, Any] = {"pictured": lambda i: i < 2, "on_image": seen.__setitem__}
    result = run(loaded, gqa, fastv, limit=3, batch_size=2, **options)
    assert [bool(s.picture) for s in result.samples] == [True, True, False]
    for sample in result.samples[:2]:
        assert sample.picture is not None
        record, image = result.records[sample.doc_id], seen[sample.picture["images"][0]]
        assert len(sample.picture["words"]) == (record.kinds != IMAGE).sum()
        for grid in record.grid:
            assert grid["image"] == [image.height, image.width]
            left, top, right, bottom = grid["box"]
            places = rects(grid)
            assert places is not None
            assert places[0, :2].tolist() == [left, top]
            assert places[-1, 2:] == pytest.approx([right, bottom])
            middle = (left + right) / 2, (top + bottom) / 2
            assert middle == pytest.approx((image.width / 2, image.height / 2), abs=1.5)
    fits = {"llava": ["crop"], "llava_next": ["stretch", "tiles"]}
    assert [grid["fit"] for grid in record.grid] == fits[name]


def test_pictures_change_no_number(llava: Session, gqa: Bench, tmp_path: Path) -> None:
    plain = comparable(run(llava, gqa, limit=3))
    shown = comparable(run(llava, gqa, limit=3, attention=True, on_image=lambda *_: None))
    assert shown.pop("attention") is not None
    assert plain.pop("attention") is None
    assert plain == shown
    again = run(llava, gqa, limit=3, response_log=tmp_path / "log")
    log = run(llava, gqa, limit=3, response_log=tmp_path / "log", attention=True)
    assert [s.picture for s in again.samples] == [s.picture for s in log.samples]
    assert log.attention is not None  # also where every answer came from the log


def test_attention_maps_are_the_softmax_of_a_causal_model(
    llava: Session, gqa: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(llava, gqa, limit=1, attention=True).attention
    assert found is not None
    maps = found["maps"].astype(np.float64)
    assert found["layers"][0] == 0
    assert found["layers"][-1] == llava.info.layers - 1
    assert maps.shape[1:] == (min(SIDE, found["tokens"]),) * 2
    assert maps.sum(2) == pytest.approx(np.ones(maps.shape[:2]), abs=2e-3)
    assert np.triu(maps, 1).max() == 0
    assert llava.model.config.text_config._attn_implementation == "sdpa"
    monkeypatch.setattr("harness.engine.attention.LONGEST", 3)
    import torch

    assert head_mean_maps(llava.model, {"input_ids": torch.ones((1, 4), dtype=torch.long)}) is None


def test_an_image_is_stored_once_and_small(tmp_path: Path) -> None:
    from PIL import Image

    large = Image.new("RGB", (3000, 1500), (10, 200, 30))
    save_image(tmp_path, "abc", large)
    path = tmp_path / "images" / "abc.jpg"
    with Image.open(path) as stored:
        assert stored.size == (LONGEST, LONGEST // 2)
    before = path.stat().st_mtime_ns
    save_image(tmp_path, "abc", Image.new("RGB", (8, 8)))
    assert path.stat().st_mtime_ns == before
    assert [p.name for p in path.parent.iterdir()] == ["abc.jpg"]
