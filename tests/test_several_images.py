"""Prompts with several images: every family, the record, the report, the page of all samples."""

from __future__ import annotations

import json
import re
from itertools import cycle, islice
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import methods
from harness.check.case import Case
from harness.check.several import each_keeps_its_own, images_are_recorded
from harness.command.cli import main
from harness.families import tiny
from harness.families.catalog import FAMILIES
from harness.readouts.evidence import recall
from harness.store.images import ALL, image_rows, of_images
from harness.store.outline import outline
from harness.store.packing import plain
from harness.store.record import DROPPED, IMAGE, QUESTION, RoutingRecord
from harness.store.samples import Samples
from harness.store.tables import read_rows
from methods.base import Method
from methods.describe import images as said_of
from reports import build_report
from reports.samples.detail import detail
from reports.samples.index import Index
from tests.fakes import without_counters
from tests.fixtures.hub_models import write_llava
from tests.fixtures.several import write_muirbench

import torch  # isort: skip  after the fixtures

EVERY = ["fastv", "visionzip", "random"]
DOCUMENTS = 2


# --- families
@pytest.mark.parametrize("family", FAMILIES)
def test_three_images_of_different_shapes_answer_as_the_library_does(family: str) -> None:
    """Dense through the engine is plain `generate`, bit for bit; all three are in the record."""
    case = Case(methods.parse("dense"), dtype=torch.float32, family=family)
    inputs = tiny.any_resolution_inputs(case.model, list(islice(cycle(case.sizes), 3)))
    options = {"do_sample": False, "suppress_tokens": [tiny.IMAGE], "max_new_tokens": 3}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        alone = case.model.generate(**inputs, **options)
    routed, (record,) = case.generate(inputs)
    assert torch.equal(alone.sequences, routed.sequences[:, : alone.sequences.shape[1]])
    for a, b in zip(alone.logits, routed.logits, strict=False):
        assert torch.equal(a, b)
    assert len(record.images) == record.n_images == 3
    images_are_recorded(case)


@pytest.mark.parametrize("spec", ["pool:side=2", "fastv:tokens=8", "visionzip:tokens=8"])
def test_amounts_are_of_each_image_or_of_all_together(spec: str) -> None:
    case = Case(methods.parse(spec))
    _, (record,) = case.generate(tiny.inputs_of(case.model, [(3, 3, 4)]))
    kept = [record.keep[:, own].sum(axis=1).mean() for own in record.images]
    assert case.method.apart == (not spec.startswith("fastv"))
    if case.method.apart:
        assert len(set(kept)) == 1
        each_keeps_its_own(case)
    else:
        assert sum(kept) == pytest.approx(24, abs=1) and len(set(kept)) > 1


OWN = ["divprune:keep=0.5", "visionzip:ratio=0.5", "fastervlm:ratio=0.5", "prumerge", "pool"]
OWN += ["cdpruner:ratio=0.5", "mmtok:ratio=0.5", "scope:ratio=0.5"]


@pytest.mark.parametrize("spec", OWN)
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_where_images_do_not_compete_each_keeps_the_tokens_it_keeps_alone(
    family: str, spec: str
) -> None:
    case = Case(methods.parse(spec), family=family)
    inputs = tiny.inputs_of(case.model, [(3, 3, 4)])

    def record_of(given: dict[str, Any]) -> RoutingRecord:
        with torch.no_grad(), case.running() as run:
            run.set_samples(["one"], ["Which of them is red?"])
            case.model(**given)
            (record,) = run.records()
        return record

    together = record_of(inputs)
    images = together.images
    for number, own in enumerate(images):
        others = np.concatenate([one for i, one in enumerate(images) if i != number])
        left = np.delete(np.arange(together.n), others)
        alone = {name: inputs[name][:, left] for name in ("input_ids", "attention_mask")}
        single = record_of(alone | FAMILIES[family].some_images(inputs, [number]))
        assert (single.keep[:, single.images[0]] == together.keep[:, own]).all()


def test_an_image_that_takes_another_s_share_is_caught() -> None:
    """A method that says images do not compete, and lets them."""
    method = methods.parse("fastv:r=0.5")
    kind: Any = type("Greedy", (type(method),), {"apart": True})
    case = Case(kind(r=0.5))
    with pytest.raises(AssertionError, match="kept of three equal images"):
        each_keeps_its_own(case)


def test_what_becomes_of_several_images_is_said_of_every_method() -> None:
    kinds: dict[str, type[Method]] = {name: methods.load(name) for name in methods.names()}
    own = {name for name, kind in kinds.items() if kind.apart}
    assert {"visionzip", "divprune", "fastervlm", "prumerge", "mqt", "pool"} <= own
    assert not own & {"fastv", "pyramiddrop", "sparsevlm", "vscan", "illava", "random", "pmod"}
    assert said_of(kinds["visionzip"]).startswith("each keeps its own amount")
    assert "`tokens=` counts once an image" in said_of(kinds["fastv"])
    assert "one set" in said_of(kinds["freevideollm"])
    assert said_of(kinds["dense"]) == said_of(kinds["blind"]) == ""


# --- the record
def made_of(*grids: tuple[str, int, int, int], n: int, text: tuple[int, ...] = ()) -> Any:
    """Grids of (kind, start, rows, cols) among ``n`` tokens, those in ``text`` no image's."""
    kinds = np.full(n, IMAGE, np.uint8)
    kinds[list(text)] = QUESTION
    made = [{"kind": kind, "start": start, "rows": rows, "cols": cols, "newline": False}
            for kind, start, rows, cols in grids]  # fmt: skip
    route = np.tile(np.arange(n, dtype=np.int16), (2, 1))
    return RoutingRecord(kinds, route, np.ones((2, 0), bool), np.zeros(2, bool), made)


def test_tokens_are_of_the_image_they_stand_for() -> None:
    tiles = made_of(("base", 0, 2, 2), ("tile", 4, 2, 3), ("base", 10, 2, 2), n=14)
    assert [own.tolist() for own in tiles.images] == [[*range(10)], [*range(10, 14)]]
    # InternVL: the whole image last; one of a single tile; text between.
    last = made_of(("base", 0, 2, 2), ("tile", 5, 1, 2), ("tile", 7, 1, 2), ("base", 9, 1, 2),
                     n=11, text=(4,))  # fmt: skip
    assert [own.tolist() for own in last.images] == [[0, 1, 2, 3], [*range(5, 11)]]
    # LLaVA-OneVision: one newline behind each of several.
    padded = made_of(("base", 0, 1, 2), ("base", 3, 1, 2), n=6)
    assert [own.tolist() for own in padded.images] == [[0, 1, 2], [3, 4, 5]]


def test_tokens_made_of_several_crops_are_no_evidence() -> None:
    one = made_of(("base", 0, 2, 2), n=5, text=(4,))
    one.grid[0] |= {"number": 0, "image": [10, 10], "box": [0, 0, 10, 10]}
    one.evidence = [[1.0, 1.0, 2.0, 2.0]]
    assert recall(one) == {"patches": 1, "kept": [1, 1], "merged": [0, 0]}
    one.grid[0]["mixed"] = True
    assert recall(one) is None and one.images == []


def test_kept_tokens_are_counted_image_by_image_and_together() -> None:
    two = made_of(("base", 0, 1, 4), ("base", 5, 1, 2), n=7, text=(4,))
    two.route[1, [0, 1, 5]] = DROPPED
    two.route[:, 6] = 3  # merged: in another image's slot
    assert of_images(two) == {"image_tokens": "4 2", "image_kept": "3 0.5"}
    assert outline(plain(two)) is None  # kinds alone do not say it
    one = made_of(("base", 0, 1, 4), n=5, text=(4,))
    assert of_images(one) == {} and outline(plain(one)) is not None
    base = {"doc_id": "0", "image_tokens": "", "image_kept": ""}
    three = {"doc_id": "1", "image_tokens": "4 2 2", "image_kept": "1 2 0"}
    rows = image_rows(Samples.of([base | of_images(two), base, three]))
    assert [(row["image"], row["n"]) for row in rows] == [("1", 2), ("2", 2), ("3", 1), (ALL, 2)]
    assert [row["tokens"] for row in rows] == [4, 2, 2, 7]
    assert [row["kept"] for row in rows] == [2, 1.25, 0, 3.25]
    assert image_rows(Samples.of([base])) == []


# --- a run of documents with two images
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    model = write_llava(folder / "model")
    write_muirbench(folder / "data", ["Is <image> left of <image>?", "which is red?"], "AB")
    argv = ["--model", str(model), "--bench", "muirbench", "--data", str(folder / "data")]
    argv += ["--methods", "fastv:k=1:kv=0.5,divprune:ratio=0.5", "--limit", str(DOCUMENTS)]
    argv += ["--device", "cpu", "--dtype", "float32", "--quiet", "--out", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch:
        without_counters(patch)
        assert main(argv) == 0
    return folder / "run"


def test_a_run_has_images_csv_and_its_table(run: Path) -> None:
    rows = read_rows(run / "images.csv")
    cells = {row["cell_id"]: row["method"] for row in read_rows(run / "cells.csv")}
    found = {(cells[row["cell_id"]], row["image"]): row for row in rows}
    assert {image for _, image in found} == {"1", "2", ALL}
    for name in ("1", "2"):
        assert float(found["dense", name]["kept_fraction"]) == 1
        assert float(found["divprune", name]["kept_fraction"]) == 0.5
    shares = [float(found["fastv", name]["kept"]) for name in ("1", "2", ALL)]
    assert shares[0] + shares[1] == pytest.approx(shares[2])
    assert shares[2] == pytest.approx(float(found["fastv", ALL]["tokens"]) / 2, abs=1)
    text = (run / "report.md").read_text(encoding="utf-8")
    table = text[text.index("Image by image") :]
    assert "Image 1" in table and "Image 2" in table and "All images" in table


def test_pictures_show_each_image_with_its_own_tokens(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    told = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert told is not None
    data = json.loads(told[1])
    for sample in data["samples"]:
        assert len(sample["images"]) == 2 and set(sample["images"]) <= set(data["images"])
        assert [grid["number"] for grid in sample["grids"]] == [0, 1]
    assert len(data["images"]) == 2 * DOCUMENTS
    drawn = [read_rows(run / "figures" / f"overlay_muirbench{end}.csv") for end in ("", "_2")]
    for place, table in enumerate(drawn):
        (path,) = (run / "routing" / cell_of(run, "fastv")).glob("00-*.npz")
        record = RoutingRecord.from_npz(path)
        own = record.images[place]
        for row in (one for one in table if one["label"].startswith("fastv")):
            keep = record.keep[int(row["layer"]), own]
            assert (int(row["processed"]), int(row["tokens"])) == (keep.sum(), len(own))


def cell_of(run: Path, method: str) -> str:
    return next(r["cell_id"] for r in read_rows(run / "cells.csv") if r["method"] == method)


def test_the_page_of_all_samples_has_every_image(run: Path, tmp_path: Path) -> None:
    index = Index(run, tmp_path)
    builder = Thread(target=index.build)
    builder.start()
    builder.join(30)
    doc = detail(index, "muirbench", "0")
    assert doc is not None and doc["files"] == [True, True] and doc["images"] == 2
    assert [grid["number"] for grid in doc["methods"][1]["shown"]["grids"]] == [0, 1]
    one, other = (index.image("muirbench", "0", number) for number in (0, 1))
    assert not isinstance(one, str) and not isinstance(other, str) and one != other
    assert "no image 2" in str(index.image("muirbench", "0", 2))


def test_a_table_of_damaged_rows_says_so(run: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = copy / "images.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace(",2,", ",x,", 1), *lines[3:]]) + "\n")
    build_report(copy)
    text = (copy / "report.md").read_text(encoding="utf-8")
    assert "images.csv: 1 row(s) left out" in text and "Image by image" in text
