"""The routing record: what is read from it, by hand; files; agreement with the methods' kinds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from harness.store import record
from harness.store.record import RoutingRecord, dense_record
from methods import base


def example() -> RoutingRecord:
    """2 text, 4 image, 2 text tokens; layer 0 dense, 1 skips two, 2 drops two and merges one."""
    route = np.tile(np.arange(8, dtype=np.int16), (3, 1))
    route[1, [2, 3]] = record.SKIPPED
    route[2, [2, 3]] = record.DROPPED
    route[2, 5] = 4
    return RoutingRecord(
        kinds=np.array([0, 0, 2, 2, 2, 2, 1, 1], np.uint8),
        route=route,
        decode=np.array([[1, 1, 1], [1, 0, 1], [0, 0, 1]], bool),
        mod_layers=np.array([False, True, True]),
        grid=[{"kind": "base", "rows": 2, "cols": 2, "start": 2, "newline": False}],
        method="example:k=1",
        sample="doc 7",
    )


def test_readouts():
    r = example()
    assert (r.layers, r.n, r.n_text, r.n_image, r.n_out, r.n_answer) == (3, 8, 4, 4, 3, 0)
    assert r.processed_per_layer().tolist() == [8, 6, 5]
    assert r.processed_per_layer(record.IMAGE).tolist() == [4, 2, 1]
    assert r.kv_tokens.tolist() == [8 + 3, 6 + 2, 5 + 1]
    assert r.kv_bytes(kv_heads=2, head_dim=4, itemsize=2) == 25 * 2 * 2 * 4 * 2
    assert r.skip_mod_layers == pytest.approx(5 / 16)
    assert r.skip_all_layers == pytest.approx(5 / 24)
    assert r.kv_ratio_vision == pytest.approx((1 + 0.5 + 0.25) / 3)
    assert r.kv_ratio == r.kv_ratio_all == pytest.approx((8 + 6 + 5) / 24)


def test_dense_record_and_samples_without_image():
    r = dense_record(n_text=5, n_image=3, layers=2, n_out=4, prefix=2)
    assert r.kinds.tolist() == [0, 0, 2, 2, 2, 1, 1, 1]
    assert r.kv_tokens.tolist() == [12, 12]
    assert r.skip_all_layers == r.skip_mod_layers == 0
    assert r.kv_ratio_vision == 1
    assert dense_record(5, 0, 2).kv_ratio_vision is None


@pytest.mark.parametrize("steps", [0, 3, 9])
def test_npz_round_trip(tmp_path, steps):
    r = example()
    r.decode = np.arange(3 * steps).reshape(3, steps) % 2 == 0
    r.to_npz(tmp_path / "r.npz")
    again = RoutingRecord.from_npz(tmp_path / "r.npz")
    for name in ("kinds", "route", "decode", "mod_layers"):
        np.testing.assert_array_equal(getattr(again, name), getattr(r, name))
        assert getattr(again, name).dtype == getattr(r, name).dtype
    assert (again.grid, again.method, again.sample) == (r.grid, r.method, r.sample)


def test_long_prompts_need_wider_indices():
    assert record.route_dtype(100) is np.int16
    assert record.route_dtype(40_000) is np.int32
    assert dense_record(10, 40_000, 1).keep.all()


def test_kinds_are_the_same_numbers_everywhere():
    names = ("SYSTEM", "QUESTION", "IMAGE", "ANSWER")
    assert [getattr(record, n) for n in names] == [getattr(base, n) for n in names] == [0, 1, 2, 3]
    assert tuple(n.lower() for n in names) == record.KINDS


def test_records_need_no_torch():
    code = "import sys, harness.store.record; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
