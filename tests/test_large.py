"""Large runs: a cell's price is the cell's, whatever is kept or shared gives the same numbers."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.cost.readouts import Readouts, read_out
from harness.cost.referees import Referees
from harness.readouts.derive import Derived
from harness.statistics import signflip, stats
from harness.store import samples
from harness.store.csvfile import read_rows, to_csv
from harness.store.folder import read_run_json
from harness.store.held import PackedRecords
from harness.store.outline import outline
from harness.store.packing import from_plain, pack, plain
from harness.store.record import DROPPED, IMAGE, QUESTION, SKIPPED, RoutingRecord, dense_record
from harness.store.records import Basis, Records, write_records
from harness.store.rundir import Store
from tests.fakes import CONFIG, DERIVED, SHAPE, FakeRun, derived, run


def records() -> list[RoutingRecord]:
    """Every way a token can go, with some that differ in one thing only."""
    dense = dense_record(9, 16, SHAPE.layers, n_out=3, prefix=4)
    image = np.flatnonzero(dense.kinds == IMAGE)

    def changed(**words: Any) -> RoutingRecord:
        new = {"kinds": dense.kinds.copy(), "route": dense.route.copy()}
        return dataclasses.replace(dense, **(new | words))

    dropped, moved, last, merged = (changed() for _ in range(4))
    dropped.route[1:, image[:8]] = DROPPED
    moved.route[1:, image[8:]] = DROPPED  # other tokens, as many
    last.route[1:, image[:8]] = DROPPED
    last.route[-1, image[:8]] = SKIPPED
    merged.route[2:, image[1:4]] = image[0]
    acting = changed(mod_layers=np.arange(SHAPE.layers) > 0)
    decode = dense.decode.copy()
    decode[1, 1] = False
    call = {"phase": "prompt", "kind": "last_row", "tokens": dense.n, "calls": 1}
    kinds = dense.kinds.copy()
    kinds[image[0]] = QUESTION
    return [
        dense, dropped, moved, last, merged, acting,
        changed(decode=decode), changed(scoring=[call]), changed(kinds=kinds),
        changed(scoring=None), changed(evidence=[[0.0, 0.0, 4.0, 4.0]], sample="another"),
    ]  # fmt: skip


def test_equal_outlines_are_read_out_once_to_the_same_numbers() -> None:
    referees = Referees(SHAPE)
    how = SHAPE, 4, True, referees
    one = Readouts(*how)
    every = [plain(record) for record in records()]
    for data in every * 2:
        assert one.of(data, from_plain) == read_out(from_plain(data), *how)
    assert outline(every[1]) == outline(every[2])  # which tokens are kept changes nothing
    assert one.of(every[1], from_plain) is one.of(every[2], from_plain)
    assert len({outline(data) for data in every}) == len(every) - 2


@pytest.mark.parametrize("cut", [0, 3, 40, -1])
def test_what_is_no_record_has_no_outline(cut: int) -> None:
    data = plain(records()[1])
    assert outline(data[:cut]) is None
    assert outline(data + b"\0\0") is None


def test_samples_by_column_are_those_by_row(tmp_path: Path) -> None:
    texts = ['a "quoted", answer\nof two lines', "", "über", " spaces ", "cut\roff", "NA", "1e5"]
    rows = [
        {"doc_id": str(i), "prediction": text, "score": 0.1 * i, "n_image": None if i % 2 else i}
        for i, text in enumerate(texts)
    ]
    path = tmp_path / "samples" / "cell.csv"
    path.parent.mkdir()
    path.write_bytes(to_csv(["doc_id", "score", "prediction", "n_image"], rows))
    for torn in (b"", b'7,0.7,"torn'):
        path.write_bytes(path.read_bytes() + torn)
        found, read = samples.read(path), read_rows(path)
        assert found.texts("prediction").to_pylist() == [row["prediction"] for row in read] == texts
        assert found.numbers("score").tolist() == [float(row["score"]) for row in read]
        assert np.isnan(found.numbers("n_image")).tolist() == [not r["n_image"] for r in read]


def test_amounts_drawn_together_have_the_intervals_they_have_alone() -> None:
    rng = np.random.default_rng(0)
    images = [f"i{number // 3}" for number in range(700)]
    columns = [rng.random(700), rng.integers(0, 2, 700).astype(float), np.full(700, 0.3)]
    together = stats.quantity_intervals(columns, images, seed=5)
    for column, found in zip(columns, together, strict=True):
        assert found == stats.quantity_interval(column, images, seed=5)
    sums, sizes = np.bincount(stats.cluster_ids(images, 700), columns[0]), np.full(234, 3.0)
    sizes[-1] = 1
    drawn = np.random.default_rng((5, 234)).integers(0, 234, size=(stats.RESAMPLES, 234))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert (together[0].low, together[0].high) == tuple(np.quantile(means, [0.025, 0.975]))


@pytest.mark.parametrize("scores", [(0, 1), (0, 0.3, 0.6, 0.9, 1), (0, 1 / 3, 1), (0.12, 0.5, 1)])
def test_flipped_sums_are_exact_whatever_the_scale(scores: tuple[float, ...]) -> None:
    rng = np.random.default_rng(3)
    sums = rng.choice(scores, (50, 4)) * 0.0125
    found = signflip.flipped([("gqa", sums)], seed=1)
    assert found[0] == pytest.approx(sums.sum(0), abs=1e-12)
    assert (np.abs(found) <= sums.sum(0) + 1e-12).all()
    single = signflip.flipped([("gqa", sums[:, :1])], seed=1)
    assert found[:, 0] == pytest.approx(single[:, 0], abs=1e-12)


def test_rows_kept_beside_a_cell_are_those_made_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    before, about = derived(out), read_run_json(out)
    kept = sorted((out / "samples").glob("*.tables.json"))
    assert len(kept) == len(about["cells"])
    for fresh in (False, True):
        for name in DERIVED:
            (out / name).unlink()
        Derived(Store(out), about["cells"], 0, fresh=fresh).write()
        assert derived(out) == before
    for path in kept:
        path.write_text("{")
    Derived(Store(out), about["cells"], 0).write()
    assert derived(out) == before


def test_kept_rows_of_other_samples_do_not_count(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    about = read_run_json(out)
    path = sorted((out / "samples").glob("*.metrics.json"))[0]
    metrics = json.loads(path.read_text())
    metrics[0]["scores"] = dict.fromkeys(metrics[0]["scores"], 1.0)
    metrics[0]["value"] = 1.0
    path.write_text(json.dumps(metrics))
    Derived(Store(out), about["cells"], 0).write()
    cell = path.name.partition(".")[0]
    rows = [row for row in read_rows(out / "accuracy.csv") if row["cell_id"] == cell]
    assert float(rows[0]["value"]) == 1.0 and float(rows[0]["ci_high"]) == 1.0


def test_kept_rows_against_other_dense_samples_do_not_count(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert run(out) == 0
    about = read_run_json(out)
    dense = next(row["cell_id"] for row in read_rows(out / "cells.csv") if row["label"] == "dense")
    path = out / "samples" / f"{dense}.metrics.json"
    metrics = json.loads(path.read_text())
    for one in metrics:
        one["scores"] = {doc: 1.0 - score for doc, score in one["scores"].items()}
    path.write_text(json.dumps(metrics))
    before = derived(out)["accuracy.csv"]
    Derived(Store(out), about["cells"], 0).write()
    found = derived(out)
    assert found["accuracy.csv"] != before
    Derived(Store(out), about["cells"], 0, fresh=True).write()
    assert derived(out) == found


def test_tables_of_pairs_wait_and_come_at_the_end(tmp_path: Path) -> None:
    """Between, accuracy.csv has every finished cell; at the end all of the tables are there."""
    seen: list[int] = []

    def look(method: str, doc: int) -> None:
        path = tmp_path / "run" / "accuracy.csv"
        if doc == 0 and path.exists():
            seen.append(len({row["cell_id"] for row in read_rows(path)}))

    assert run(tmp_path / "run", FakeRun(on_answer=look)) == 0
    assert seen == list(range(1, len(seen) + 1)) and len(seen) == 5
    again = tmp_path / "at-once"
    shutil.copytree(tmp_path / "run", again)
    Derived(Store(again), read_run_json(again)["cells"], 0, fresh=True).write()
    assert derived(again) == derived(tmp_path / "run")


def test_packed_records_are_written_as_they_are(tmp_path: Path) -> None:
    named = {str(number): record for number, record in enumerate(records())}
    packed = PackedRecords()
    for name, record in named.items():
        packed.add(name, pack(record))
    basis = Basis("fake", CONFIG, 2, True)
    write_records(tmp_path / "a.gz", basis, named)
    write_records(tmp_path / "b.gz", basis, packed)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert [name for name, _ in Records(tmp_path / "b.gz")] == [*named]
