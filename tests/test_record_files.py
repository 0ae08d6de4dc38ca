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

from harness.common.errors import StoreError
from harness.store.held import PackedRecords
from harness.store.packing import from_plain, pack, plain, unpack
from harness.store.record import ARRAYS, DROPPED, RoutingRecord, route_dtype
from harness.store.records import Basis, Records, write_records
from harness.store.response_log import Answer, Batch, ResponseLog

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


BASIS = Basis("tiny", {"model_type": "llava"}, 4, True)


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
    answer = Answer("text", 1, pack(record))
    ResponseLog(folder / "log", "cell").append(Batch((0,), (answer,), 1, 0.0))
    kept = PackedRecords()
    kept.add("doc", ResponseLog(folder / "log", "cell").answer(0).packed)
    same(record, kept["doc"])
    write_records(folder / "cell.gz", BASIS, {"a": record, "b": example()})
    whole = Records(folder / "cell.gz")
    assert whole.basis == BASIS
    (first, one), (second, two) = whole
    assert (first, second) == ("a", "b")
    same(one, record)
    same(two, example())


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


def npz(record: RoutingRecord, **changed: Any) -> io.BytesIO:
    """The file of a record with some entries of its ``meta`` other, or gone where None."""
    buffer = io.BytesIO()
    record.to_npz(buffer)
    buffer.seek(0)
    with np.load(buffer) as data:
        parts = {name: data[name] for name in data.files}
    meta = {**json.loads(str(parts["meta"])), **changed}
    parts["meta"] = np.array(json.dumps({k: v for k, v in meta.items() if v is not None}))
    return _saved(parts)


def _saved(parts: dict[str, Any]) -> io.BytesIO:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **parts)
    buffer.seek(0)
    return buffer


def test_older_files_are_read_and_newer_fields_refused() -> None:
    record = example()
    old = RoutingRecord.from_npz(npz(record, tower=None, evidence=None, scoring=None))
    assert (old.tower, old.evidence, old.scoring) == ([], [], [])
    with pytest.raises(ValueError, match="newer version: surprise"):
        RoutingRecord.from_npz(npz(record, surprise=1))
    deep = {"meta": np.array("[" * 20_000)} | {name: getattr(record, name) for name in ARRAYS}
    with pytest.raises(ValueError, match="nested too deeply"):
        RoutingRecord.from_npz(_saved(deep))


def packed(head: dict[str, Any]) -> bytes:
    """An example with some fields of its JSON other, or gone where None."""
    whole = plain(example())
    size = int.from_bytes(whole[:4], "little")
    fields = {**json.loads(whole[4 : 4 + size]), **head}
    text = json.dumps({k: v for k, v in fields.items() if v is not None}).encode()
    return len(text).to_bytes(4, "little") + text + whole[4 + size :]


@pytest.mark.parametrize("head", [{"tower": None}, {"surprise": 1}])
def test_packed_records_of_another_version_are_refused(head: dict[str, Any]) -> None:
    """Also one without `tower`: costs of a method that merges in the tower would be wrong."""
    with pytest.raises(ValueError, match="fields of another version"):
        from_plain(packed(head))


@settings(max_examples=100, deadline=None)
@given(st.data())
@pytest.mark.parametrize("form", ["npz", "packed", "cell"])
def test_a_damaged_file_is_a_refusal_or_the_same_record(
    form: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged-{form}"
    if form == "npz":
        example().to_npz(path.open("wb"))
    elif form == "packed":
        path.write_bytes(pack(example()))
    else:
        write_records(path, BASIS, {"a": example()})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(bytes(whole[: cut or None]))
    try:
        if form == "npz":
            read = RoutingRecord.from_npz(path)
        elif form == "packed":
            read = unpack(path.read_bytes())
        else:
            ((_, read),) = Records(path)
    except (ValueError, StoreError):
        return
    same(read, example())
