"""Vision features: once an image, never those of another model."""

from __future__ import annotations

import methods
from harness.bench.benches import Bench
from harness.model.session import Session
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
