"""What the report shows of recorded routing: the same states, each image once, no wrong picture."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.store.record import RoutingRecord
from reports import build_report, record, shown, viewer
from reports.agreement import by_chance, jaccard
from reports.entries import entry
from reports.rundata import load_run
from reports.summary import summarise
from tests.fixtures.routing import make_record, write_routing
from tests.fixtures.runs import write_run
from tests.test_reports import Page

METHODS = ("dense", "gamma", "pmod", "fastv k=3 r=0.75", "pool")


FEW = ("dense", "gamma")


def small(path: Path, methods: tuple[str, ...] = FEW, **choices: Any) -> Path:
    benches = ("gqa", "textvqa") if methods == METHODS else ("gqa",)
    run = write_run(path, methods, benches, failed=(), without_cost=())
    return write_routing(run, **choices)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, painted_module: None) -> Path:
    path = small(tmp_path_factory.mktemp("runs") / "routed", METHODS)
    build_report(path)
    return path


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    return (run / "report.html").read_text(encoding="utf-8")


def payload(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])  # type: ignore[no-any-return]


def test_page_holds_every_state_of_the_record(html: str) -> None:
    data = payload(html)
    assert len(data["samples"]) == 4
    assert [s["bench"] for s in data["samples"]] == ["gqa", "textvqa", "gqa", "textvqa"]
    for sample in data["samples"]:
        assert [m["name"] for m in sample["methods"]] == [m.split()[0] for m in METHODS]
        for method in sample["methods"]:
            made = make_record(method["name"], int(sample["doc"]), tiles=False)
            assert unpacked(method["states"], made.route.size).tolist() == expected(made)


def unpacked(text: str, count: int) -> Any:
    whole = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.stack([whole >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).ravel()[:count]


def expected(made: RoutingRecord) -> list[int]:
    def state(token: int, route: int) -> int:
        return {-1: 1, -2: 2, token: 0}.get(route, 3)

    return [state(t, int(r)) for line in made.route for t, r in enumerate(line)]


def test_each_image_stands_once_and_nothing_leaves_the_page(html: str) -> None:
    assert list(payload(html)["images"]) == ["abc123"]
    url = payload(html)["images"]["abc123"]
    assert html.count(url) == 1
    page = Page(html)
    allowed = ("#", "data:text/csv", "data:image/")
    assert all(source.startswith(allowed) for source in page.sources)
    assert [i for i, count in page.ids.items() if count > 1] == []
    assert "img-src data:" in html
    assert "on the <mat>" not in html.split("<noscript>")[0]
    assert len(html) < 10e6


def test_still_pictures_stand_without_a_script(run: Path, html: str) -> None:
    still = html[html.index("<noscript>") : html.index("</noscript>")]
    assert still.count("data:image/jpeg") == 2  # one a bench
    text = (run / "report.md").read_text(encoding="utf-8")
    for bench in ("gqa", "textvqa"):
        assert f"(figures/overlay_{bench}.png)" in text
        for ending in ("png", "svg", "csv"):
            assert (run / "figures" / f"overlay_{bench}.{ending}").stat().st_size > 200


def test_every_figure_has_conditions_and_n(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    captions = re.findall(r"^\*(.+)\* Numbers", text, re.MULTILINE)
    assert len(captions) >= 10
    for caption in captions:
        assert "tiny-llava (mini model)" in caption
        assert "n = " in caption


def test_selection_slice_is_the_mask(run: Path) -> None:
    with (run / "figures" / "selection.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    made = make_record("pmod", 0, tiles=False)
    for row in (r for r in rows if r["label"] == "pmod"):
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["mask"]), np.uint8))[:16]
        keep = made.keep[int(row["layer"]), made.kinds == 2]
        assert bits.tolist() == keep.astype(int).tolist()
        assert int(row["kept"]) == keep.sum()
    assert {r["label"] for r in rows} == set(METHODS) - {"dense"}


def test_jaccard_by_hand() -> None:
    sets = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], bool)
    index = jaccard(sets, sets)
    assert index[0, 0] == 1.0
    assert index[0, 1] == pytest.approx(1 / 3)
    assert index[0, 2] == 0.0
    assert np.isnan(index[2, 2])
    assert by_chance(np.array([0.5]), np.array([0.5]))[0] == pytest.approx(1 / 3)


def test_agreement_of_methods_and_layers(run: Path) -> None:
    with (run / "figures" / "agreement_layers.csv").open(newline="") as file:
        rows = {(r["label"], r["layer"], r["other_layer"]): r for r in csv.DictReader(file)}
    assert float(rows["gamma", "5", "9"]["jaccard"]) == 1.0  # chooses once
    assert float(rows["pmod", "4", "5"]["jaccard"]) < 0.5  # another third at every layer
    assert float(rows["pmod", "4", "7"]["jaccard"]) == 1.0
    assert rows["gamma", "5", "9"]["n"] == "4"
    with (run / "figures" / "agreement_methods.csv").open(newline="") as file:
        pairs = {(r["label"], r["other_label"]): float(r["jaccard"]) for r in csv.DictReader(file)}
    by_hand = []
    for doc in (0, 1):
        ours, theirs = (make_record(m, doc, False).keep[4:, 1:17] for m in ("pmod", "gamma"))
        by_hand += list((ours & theirs).sum(1) / (ours | theirs).sum(1))
    assert pairs["pmod", "gamma"] == pytest.approx(np.mean(by_hand), abs=1e-3)


def test_evidence_table_says_what_the_csv_says(html: str) -> None:
    rows = {row[0].strip(): row for row in Page(html).rows["evidence"][1:]}
    assert "50.0 %" in rows["pmod"][3]
    assert "[45.0, 55.0]" in rows["pmod"][3]
    assert "60.0 %" in rows["pmod"][4]
    assert "n = 300" in rows["pmod"][4]
    assert "50.0 %" in rows["pmod"][5]


def test_tiles_are_drawn_on_a_grid_of_their_own(tmp_path: Path, paint: Callable[..., None]) -> None:
    paint()  # nothing of what the module's run has painted
    build_report(small(tmp_path / "tiles", tiles=True))
    data = payload((tmp_path / "tiles" / "report.html").read_text(encoding="utf-8"))
    assert [g["kind"] for g in data["samples"][0]["grids"]] == ["base", "tile"]
    assert "its tile grid" in (tmp_path / "tiles" / "report.md").read_text(encoding="utf-8")


def test_report_reads_what_the_run_writes(tmp_path: Path) -> None:
    made = make_record("pool", 1, tiles=True)
    made.to_npz(tmp_path / "one.npz")
    read = record.read(tmp_path / "one.npz")
    assert record.token_states(read).ravel().tolist() == expected(made)
    assert (read.grid, read.evidence) == (made.grid, made.evidence)


def test_samples_beyond_the_budget_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "large")
    summary = summarise(load_run(path))
    groups = viewer.groups(shown.load(summary))
    files = viewer.images(summary, groups)
    assert len(payload(viewer.markup(summary, groups, files, [], path))["samples"]) == 2
    image = len(base64.b64encode(next(iter(files.values())).read_bytes()))
    one = image + 100 + len(json.dumps(entry(groups[0])))
    monkeypatch.setattr(viewer, "BUDGET", one)
    less = viewer.markup(summary, groups, files, [], path)
    assert [s["doc"] for s in payload(less)["samples"]] == ["0"]
    assert "1 more sample did not fit" in less
