"""Evidence recall: from boxes and the routing record to rows of evidence.csv."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from harness.bench.pictures import Boxes, words
from harness.readouts.evidence import counts, evidence_table, recall
from harness.statistics.stats import mean_intervals
from harness.store.packing import pack, unpack
from harness.store.record import DROPPED, IMAGE, SKIPPED, RoutingRecord, dense_record

GRID = {"kind": "base", "rows": 4, "cols": 4, "start": 2, "newline": False, "number": 0}
PLACED = GRID | {"box": [0, 0, 40, 40], "image": [40, 40], "fit": "crop"}


def record() -> RoutingRecord:
    """16 patches of 10 pixels behind 2 words; the evidence is the patches 2 + 0 and 2 + 1."""
    made = dense_record(6, 16, layers=3, prefix=2)
    made.grid, made.evidence = [dict(PLACED)], [[1.0, 1.0, 19.0, 9.0]]
    made.route[1, 2] = SKIPPED
    made.route[2, 2], made.route[2, 3] = DROPPED, 4
    return made


def test_recall_counts_what_a_layer_processes_in_its_own_slot() -> None:
    assert recall(record()) == {"patches": 2, "kept": [2, 1, 0], "merged": [0, 0, 1]}


def test_no_boxes_or_no_place_is_no_recall() -> None:
    bare = record()
    bare.evidence = []
    assert recall(bare) is None
    old = record()
    old.grid = [dict(GRID)]
    assert recall(old) is None
    outside = record()
    outside.evidence = [[100.0, 100.0, 120.0, 120.0]]  # cropped away
    assert recall(outside) is None


def test_boxes_and_places_survive_both_file_forms(tmp_path: Any) -> None:
    made = record()
    made.to_npz(tmp_path / "one.npz")
    read = RoutingRecord.from_npz(tmp_path / "one.npz")
    for again in (unpack(pack(made)), read):
        assert again.evidence == made.evidence
        assert again.grid == made.grid
        assert recall(again) == recall(made)


def count(doc: str, kept: list[int]) -> dict[str, Any]:
    return {"doc_id": doc, "patches": 4, "kept": kept, "merged": [0] * len(kept)}


def test_rows_split_by_answer_with_layers_and_their_mean() -> None:
    counted = [count("a", [4, 2]), count("b", [4, 0]), count("c", [4, 4])]
    scores, images = {"a": 1.0, "b": 0.3, "c": 1.0, "d": 0.0}, {"a": "x", "b": "y", "c": "z"}
    rows = evidence_table(counted, scores, images, seed=0)
    found = {(r["answered"], r["scope"], r["layer"]): r for r in rows}
    assert found["all", "layer", 1]["recall"] == pytest.approx(0.5)
    assert found["right", "layer", 1]["recall"] == pytest.approx(0.75)
    assert found["wrong", "layer", 1]["recall"] == 0.0
    assert found["wrong", "layer", 1]["ci_low"] is None  # a single image has no interval
    assert found["all", "mean", None]["recall"] == pytest.approx(0.75)
    assert [found[a, "layer", 0]["n"] for a in ("all", "right", "wrong")] == [3, 2, 1]


def test_scores_on_another_scale_are_not_split() -> None:
    rows = evidence_table([count("a", [4]), count("b", [2])], {"a": 57.0, "b": 0.0}, {}, seed=0)
    assert {r["answered"] for r in rows} == {"all"}
    assert evidence_table([], {}, {}, seed=0) == []


def test_only_samples_with_evidence_are_stored() -> None:
    bare = record()
    bare.evidence = []
    assert counts([("1", record()), ("2", bare)]) == [
        {"doc_id": "1", "patches": 2, "kept": [2, 1, 0], "merged": [0, 0, 1]}
    ]


def test_intervals_of_columns_hold_their_means_and_repeat() -> None:
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.random(60), np.ones(60)])
    clusters = [i // 2 for i in range(60)]
    first, flat = mean_intervals(values, clusters, seed=1)
    assert first.low < values[:, 0].mean() < first.high
    assert 0.1 < first.high - first.low < 0.2
    assert (flat.value, flat.low, flat.high) == (1.0, 1.0, 1.0)
    assert mean_intervals(values, clusters, seed=1) == [first, flat]


class Documents(list):
    column_names = ("boxes", "evidence", "bbox")

    def select_columns(self, names: list[str]) -> list[dict[str, Any]]:
        return [{name: row[name] for name in names} for row in self]


def test_boxes_of_documents() -> None:
    boxes = '[{"box":[1,2,3,4]},{"box":[5,6,7,8]}]'
    mini = Documents([{"boxes": boxes, "evidence": [1]}])
    assert Boxes().of("gqa_mini", mini, 0) == [[5.0, 6.0, 7.0, 8.0]]
    refer = Documents([{"bbox": [10, 20, 5, 6]}])
    refer.column_names = ("bbox", "image")
    assert Boxes().of("refcoco_bbox_val", refer, 0) == [[10.0, 20.0, 15.0, 26.0]]
    assert Boxes().of("refcoco_bbox_rec_val", refer, 0) == []
    assert Boxes().of("other", refer, 0) == []
    assert Boxes().of("other", [{"bbox": [1, 2, 3, 4]}], 0) == []


def test_words_leave_the_image_out() -> None:
    names = {1: "<s>", 5: "▁What", 6: "Ġis", 7: "<0x0A>"}
    tokenizer = SimpleNamespace(convert_ids_to_tokens=lambda ids: [names[i] for i in ids])
    kinds = np.array([0, IMAGE, IMAGE, 1, 1, 1])
    assert words(tokenizer, [1, 9, 9, 5, 6, 7], kinds) == ["<s>", " What", " is", "\n"]
    assert words(tokenizer, [1, 9], kinds) == []
