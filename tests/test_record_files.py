"""The stored form of a routing record: every field comes back, a damaged file is one ValueError."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from harness.store.record import ARRAYS, DROPPED, RoutingRecord, route_dtype
from harness.store.response_log import Answer, Batch, PackedRecords, ResponseLog

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
FLOAT = st.floats(allow_nan=False)
NOTES = st.lists(st.dictionaries(st.text(), JSON, max_size=3), max_size=3)
OF_TYPE = {  # where the annotation alone does not say enough; any other type is drawn from it
    list[dict[str, Any]]: NOTES,
    list[dict[str, Any]] | None: st.none() | NOTES,
    list[list[float]]: st.lists(st.lists(FLOAT, min_size=4, max_size=4), max_size=3),
}


@st.composite
def records(draw: st.DrawFn) -> RoutingRecord:
    """Any record: the arrays fit together, every other field is drawn from its own type."""
    layers, n, n_out = (draw(st.integers(low, 12)) for low in (1, 0, 0))
    dtype = draw(st.sampled_from([np.int16, np.int32]))
    one = st.integers(DROPPED, n - 1)
    made: dict[str, Any] = {
        "kinds": draw(arrays(np.uint8, n, elements=st.integers(0, 3))),
        "route": draw(arrays(dtype, (layers, n), elements=one)),
        "decode": draw(arrays(np.bool_, (layers, n_out))),
        "mod_layers": draw(arrays(np.bool_, layers)),
    }
    hints = get_type_hints(RoutingRecord)
    for name in {f.name for f in dataclasses.fields(RoutingRecord)} - {*made}:
        made[name] = draw(OF_TYPE.get(hints[name], st.from_type(hints[name])))
    return RoutingRecord(**made)


def same(one: RoutingRecord, other: RoutingRecord) -> None:
    for field in dataclasses.fields(RoutingRecord):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name
        assert getattr(a, "dtype", None) == getattr(b, "dtype", None), field.name


@settings(max_examples=60, deadline=None)
@given(records())
def test_every_field_survives_its_file_and_the_log(
    tmp_path_factory: pytest.TempPathFactory, record: RoutingRecord
) -> None:
    folder = tmp_path_factory.mktemp("record")
    record.to_npz(folder / "one.npz")
    same(record, RoutingRecord.from_npz(folder / "one.npz"))
    answer = Answer("text", 1, packed=record.to_bytes())
    ResponseLog(folder / "log", "cell").append(Batch((0,), (answer,), 1, 0.0))
    kept = PackedRecords()
    packed = ResponseLog(folder / "log", "cell").done[0].answers[0].packed
    assert packed is not None
    kept.add("doc", packed)
    same(record, kept["doc"])


def example() -> RoutingRecord:
    n = 6
    route = np.tile(np.arange(n, dtype=route_dtype(n)), (3, 1))
    kinds = np.array([0, 2, 2, 2, 2, 1], np.uint8)
    return RoutingRecord(kinds, route, np.ones((3, 2), bool), np.zeros(3, bool), tower=[4, 2])


def test_other_programs_find_masks_kinds_and_grids(tmp_path: Path) -> None:
    record = example()
    record.route[1, 2] = DROPPED
    record.grid = [{"kind": "base", "rows": 2, "cols": 2, "start": 1, "newline": False}]
    record.to_npz(tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz") as data:
        assert np.unpackbits(data["keep"], axis=1)[:, :6].tolist()[1] == [1, 1, 0, 1, 1, 1]
        assert data["kinds"].tolist() == record.kinds.tolist()
        assert json.loads(str(data["meta"]))["grid"] == record.grid


def stored(record: RoutingRecord, **changed: Any) -> bytes:
    """The bytes of a record with some entries of its ``meta`` other, or gone where None."""
    with np.load(io.BytesIO(record.to_bytes())) as data:
        parts = {name: data[name] for name in data.files}
    meta = {**json.loads(str(parts["meta"])), **changed}
    parts["meta"] = np.array(json.dumps({k: v for k, v in meta.items() if v is not None}))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)
    return buffer.getvalue()


def test_older_files_are_read_and_newer_fields_refused() -> None:
    record = example()
    old = RoutingRecord.from_bytes(stored(record, tower=None, evidence=None, scoring=None))
    assert (old.tower, old.evidence, old.scoring) == ([], [], [])
    with pytest.raises(ValueError, match="newer version: surprise"):
        RoutingRecord.from_bytes(stored(record, surprise=1))
    with pytest.raises(ValueError, match="nested too deeply"):
        RoutingRecord.from_bytes(_with_meta("[" * 20_000))


def _with_meta(text: str) -> bytes:
    buffer, record = io.BytesIO(), example()
    np.savez(buffer, meta=np.array(text), **{name: getattr(record, name) for name in ARRAYS})
    return buffer.getvalue()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_a_value_error_or_the_same_record(data: st.DataObject) -> None:
    whole = bytearray(example().to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    try:
        read = RoutingRecord.from_bytes(bytes(whole[: cut or None]))
    except ValueError:
        return
    same(read, example())
