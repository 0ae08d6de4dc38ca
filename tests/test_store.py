"""The run directory: cell ids, what a run writes, and files that are never torn."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.common.errors import StoreError
from harness.store import columns
from harness.store.cells import CellKey, source_digest
from harness.store.csvfile import append_row, cell_text, read_rows, repair, to_csv, write_atomic
from harness.store.rundir import Store
from tests.fakes import DOCUMENTS, FakeRun, run

KEY = CellKey(
    method="fastv",
    params={"k": 2, "r": 0.5},
    method_source="m",
    engine_source="e",
    versions={"torch": "2"},
    model="tiny-llava",
    weights={"revision": None, "files": {"model.safetensors": "a"}, "checkpoint": None},
    processor="p",
    bench="gqa",
    task="gqa_mini",
    task_version="1",
    data="mini",
    fingerprint="f",
    limit=None,
    device="cpu",
    dtype="float32",
    attn="sdpa",
    batch_size=1,
    seed=0,
)


# --- the key ------------------------------------------------------------------------------------


def test_every_field_of_a_key_changes_the_id() -> None:
    changes: dict[str, Any] = {
        "params": {"k": 2, "r": 0.75},
        "weights": {**KEY.weights, "files": {"model.safetensors": "b"}},
        "limit": 100,
        "batch_size": 8,
        "seed": 1,
        "halved_to": 4,
    }
    ids = {KEY.cell_id}
    for field in dataclasses.fields(KEY):
        value = changes.get(field.name, f"other {field.name}")
        ids.add(dataclasses.replace(KEY, **{field.name: value}).cell_id)
    assert len(ids) == len(dataclasses.fields(KEY)) + 1


def test_same_settings_same_id_whatever_the_order_of_parameters() -> None:
    twin = dataclasses.replace(KEY, params={"r": 0.5, "k": 2})
    assert twin.cell_id == KEY.cell_id
    assert KEY.ran_at(1).cell_id == KEY.cell_id
    assert KEY.ran_at(4) != KEY


def test_source_digest_sees_every_file_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    first = source_digest([tmp_path])
    assert source_digest([tmp_path]) == first
    (tmp_path / "a.py").write_text("x = 2")
    second = source_digest([tmp_path])
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert len({first, second, source_digest([tmp_path])}) == 3


def test_methods_of_a_run_never_share_an_id(tmp_path: Path) -> None:
    methods = ("fastv", "fastv:k=3", "fastv:r=0.75", "random", "uniform", "pool", "blind")
    assert run(tmp_path / "run", methods=methods) == 0
    ids = [row["cell_id"] for row in read_rows(tmp_path / "run/cells.csv")]
    assert len(ids) == len(set(ids)) == 2 * (len(methods) + 1)


# --- what a run writes --------------------------------------------------------------------------


def test_files_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    cells = pd.read_csv(out / "cells.csv")
    assert list(cells.columns) == list(columns.CELLS)
    assert cells.status.tolist() == ["done"] * 6
    assert cells.method.tolist() == ["dense", "fastv", "random"] * 2  # dense was added
    assert json.loads(cells.params[1]) == {"k": 2, "r": 0.5} | json.loads(cells.params[1])
    for cell_id in cells.cell_id:
        samples = pd.read_csv(out / "samples" / f"{cell_id}.csv")
        assert list(samples.columns) == list(columns.SAMPLES)
        assert len(samples) == DOCUMENTS
        assert samples.prediction[0] == 'a "quoted", answer\nof two lines'
        assert samples[list(columns.SAMPLES[4:12])].notna().all().all()
        assert (out / "records" / f"{cell_id}.gz").is_file()
        pictures = sorted((out / "routing" / cell_id).glob("*.npz"))
        assert len(pictures) == 4
        with np.load(pictures[0]) as data:
            assert {"keep", "kinds"} <= set(data.files)
    assert not (out / "partial").exists()
    assert not list(out.rglob("*.tmp*"))


def test_run_json(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    content = json.loads((out / "run.json").read_text())
    assert content["schema_version"] == 1
    assert content["argv"] == ["--out", str(out)]
    assert content["weight_hashes"] == {"model.safetensors": "aa"}
    wanted = "created_at git_commit versions device_name dtype attn seed model_id revision settings"
    assert set(wanted.split()) <= set(content)
    assert {"python", "torch", "transformers", "lmms-eval"} <= set(content["versions"])


def test_accuracy_table(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    table = pd.read_csv(out / "accuracy.csv")
    assert list(table.columns) == list(columns.ACCURACY)
    headline = table[table.headline == 1]
    assert headline.metric.unique().tolist() == ["exact_match"]
    dense = headline[headline.method == "dense"]
    unmeasured = ["delta", "delta_ci_low", "delta_ci_high", "p_value", "p_adjusted", "verdict"]
    assert dense[unmeasured].isna().all().all()
    others = headline[headline.method != "dense"]
    assert others[["ci_low", "ci_high", "dense_value", *unmeasured]].notna().all().all()
    assert (others.p_adjusted >= others.p_value).all()
    assert np.allclose(others.delta, others.value - others.dense_value)
    # F1 is no mean of per-sample scores: a value and a plain difference, but no interval.
    f1 = table[(table.metric == "f1") & (table.method == "fastv")]
    assert f1.ci_low.isna().all()
    assert f1.p_value.isna().all()
    assert f1.delta.notna().all()


def test_cost_and_routing_tables(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(out)
    cost = pd.read_csv(out / "cost.csv")
    assert list(cost.columns) == list(columns.COST)
    assert set(cost.unit) == {"FLOP"}
    one = cost[(cost.method == "fastv") & (cost.bench == "gqa")].set_index(["convention", "scope"])
    parts = ("vision", "projector", "llm_prefill", "llm_decode", "router")
    for convention in ("causal", "full"):
        whole = sum(one.tflops_mean[convention, part] for part in parts)
        assert one.tflops_mean[convention, "total"] == pytest.approx(whole)
    assert ("paper-pmod", "llm_prefill") in one.index
    assert ("paper-pmod", "total") not in one.index
    assert one.kv_ratio_vision.unique() == pytest.approx([(1 + 3 * 0.5) / 4])
    dense = cost[(cost.method == "dense") & (cost.bench == "gqa")]
    assert set(dense.kv_ratio_all) == {1.0}
    routing = pd.read_csv(out / "routing.csv")
    fastv = read_rows(out / "cells.csv")[1]["cell_id"]
    image = routing[(routing.cell_id == fastv) & (routing.kind == "image")]
    assert image.kept_fraction.tolist() == [1.0, 0.5, 0.5, 0.5]
    assert image.tokens.tolist() == [16 * DOCUMENTS] * 4


def test_the_table_a_run_ends_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = FakeRun(fail={"random": ValueError("no")})
    assert run(tmp_path / "run", broken, quiet=False) == 3
    printed = capsys.readouterr().err.splitlines()
    table = printed[next(i for i, line in enumerate(printed) if " method " in line) :]
    lines = {line.split()[0]: line for line in table if line.strip()}
    averages = {row["label"]: row for row in read_rows(tmp_path / "run/averages.csv")}
    pairs = read_rows(tmp_path / "run/comparisons.csv")
    delta = next(r["delta"] for r in pairs if (r["bench"], r["a"]) == ("(average)", "fastv"))
    assert f"{float(averages['dense']['average']) * 100:.1f}" in lines["dense"]
    assert f"{float(delta) * 100:+.1f}".replace("-", "−") in lines["fastv"]
    assert "failed" in lines["random"]


# --- files --------------------------------------------------------------------------------------


def test_a_run_of_an_older_version_keeps_its_cells(tmp_path: Path) -> None:
    """Rows with new columns are not put below an old header, where readers would drop them."""
    run(tmp_path / "run", limit=4, bench=("gqa",))
    path = tmp_path / "run" / "cells.csv"
    old = pd.read_csv(path, dtype=str).drop(columns="data_source")
    old.to_csv(path, index=False, lineterminator="\n")
    run(tmp_path / "new", limit=4, bench=("pope",), methods=("uniform",))
    with Store(tmp_path / "run") as store:
        for row in read_rows(tmp_path / "new" / "cells.csv"):
            store.record(row)
    rows = read_rows(path)
    assert len(rows) == len(old) + 2 and rows[0]["data_source"] == ""
    assert rows[-1]["data_source"] == "documents@ff"


def test_a_file_of_half_a_header_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("cell_id,mod")
    assert read_rows(path) == []
    assert repair(path) is True
    assert not path.exists()


def test_values_in_a_csv() -> None:
    texts = [cell_text(v) for v in (None, float("nan"), 0.1, np.float64(0.1), np.int64(3), True)]
    assert texts == ["", "", "0.1", "0.1", "3", "true"]
    assert to_csv(("a", "b"), [{"b": 'x,"y"\nz'}]) == b'a,b\n,"x,""y""\nz"\n'
    with pytest.raises(ValueError, match="no such column: c"):
        to_csv(("a",), [{"c": 1}])


def test_appending_to_a_full_disk_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    append_row(path, ("a", "b"), {"a": 1, "b": 2})
    before = path.read_bytes()
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        return real(descriptor, data[: len(data) // 2])  # what a disk does that fills up

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(StoreError, match="only part of a line"):
        append_row(path, ("a", "b"), {"a": 3, "b": 4})
    assert path.read_bytes() == before


def test_a_failed_replacement_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, b"old\n")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot write .*table\.csv: No space left on device"):
        write_atomic(path, b"new\n")
    assert path.read_bytes() == b"old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_rows_survive_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = [{"a": "ä,\n\r\"'", "b": ""}, {"a": "\u2028", "b": "x"}]
    for row in rows:
        append_row(path, ("a", "b"), row)
    assert read_rows(path) == rows
    with path.open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == rows
