"""Vision features: once an image, never those of another model."""

from __future__ import annotations

import pytest

import methods
from harness.bench.benches import Bench
from harness.model.session import Session
from harness.store.record import IMAGE
from methods.quarter import Quarter
from tests.loop.cells import DOCUMENTS, predictions, run

import torch  # isort: skip  after the fixtures, which prepare torchvision


def test_features_are_computed_once_per_image(llava: Session, gqa: Bench) -> None:
    towers = []
    hook = llava.model.model.vision_tower.register_forward_hook(lambda *_: towers.append(1))
    assert llava.features is not None
    llava.features.clear()
    try:
        shared = run(llava, gqa)
        assert len(towers) == 3  # five questions, three images
        others = [run(llava, gqa, methods.parse(spec)) for spec in ("uniform", "pool")]
        assert len(towers) == 3
        alone = run(llava, gqa, share_features=False)
        assert len(towers) == 3 + DOCUMENTS
    finally:
        hook.remove()
    assert predictions(shared) == predictions(alone)
    assert all(predictions(other) != predictions(shared) for other in others)
    assert "get_image_features" not in vars(llava.model.model)


def test_blind_leaves_no_zeros_behind(llava: Session, gqa: Bench) -> None:
    assert llava.features is not None
    llava.features.clear()
    run(llava, gqa, methods.parse("blind"))
    assert len(llava.features) == 0
    assert predictions(run(llava, gqa)) == predictions(run(llava, gqa, share_features=False))


def test_smaller_images_share_with_nobody(llava: Session, gqa: Bench) -> None:
    """Downsample keeps nothing; a quarter of the pixels is kept beside the whole image."""
    assert llava.features is not None
    llava.features.clear()
    small = run(llava, gqa, methods.parse("downsample"))
    assert len(llava.features) == 0
    whole = run(llava, gqa)
    kept = len(llava.features)
    quarter = run(llava, gqa, Quarter())
    assert len(llava.features) == 2 * kept == 6
    assert predictions(quarter) == predictions(run(llava, gqa, Quarter(), share_features=False))
    assert predictions(quarter) != predictions(whole) == predictions(run(llava, gqa))
    images = [[sample.image_id for sample in one.samples] for one in (small, whole, quarter)]
    assert images[0] == images[1] == images[2]  # one cluster each
    for doc, record in quarter.records.items():
        (mine,), (theirs,) = record.grid, whole.records[doc].grid
        assert mine["image"] == theirs["image"]  # placed in the image as it is
        assert mine["box"] == pytest.approx(theirs["box"], abs=2)  # sides are whole pixels
        assert record.n_image == record.processed_per_layer(IMAGE).min()


def test_feature_cache_is_bounded() -> None:
    from harness.model.features import FeatureCache

    cache = FeatureCache(max_bytes=100)
    a, b, c = (torch.full((10,), float(i)) for i in range(3))
    cache.put(("a",), a)
    cache.put(("b",), b)
    assert cache.get(("a",)) is a
    cache.put(("c",), c)  # b was used least recently
    assert cache.get(("b",)) is None and cache.get(("c",)) is c and cache.bytes == 80
    cache.put(("huge",), torch.zeros(1000))
    assert cache.get(("huge",)) is None and len(cache) == 2
