"""What the report shows of recorded routing: the same states, each image once, no wrong picture."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.command.cli import main
from harness.store.record import RoutingRecord
from reports import build_report, record, selection, shown, viewer
from reports.agreement import by_chance, jaccard
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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_tiles_are_drawn_on_a_grid_of_their_own(tmp_path: Path) -> None:
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


def with_meta(text: str) -> bytes:
    """A record's file whose ``meta`` is this text."""
    buffer = io.BytesIO(make_record("gamma", 0, tiles=False).to_bytes())
    with np.load(buffer) as data:
        parts = {key: data[key] for key in data.files}
    out = io.BytesIO()
    np.savez(out, **{**parts, "meta": np.array(text)})
    return out.getvalue()


def plain_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


DAMAGE = [
    b"", b"PK\x03\x04broken", b"[1, 2]", b"[" * 20_000, b'{"words": 3}', b'{"images": "a"}',
    with_meta("[1]"), with_meta("[" * 20_000), with_meta('{"n_out": 2, "grid": [7]}'),
    with_meta('{"n_out": 2, "grid": [{"rows": NaN, "cols": 1, "start": 1, "newline": false}]}'),
    plain_array(),
]  # fmt: skip


@pytest.mark.parametrize("name", ["00-0.npz", "00-0.json"])
@pytest.mark.parametrize("content", DAMAGE)
def test_a_damaged_sample_is_one_notice_and_a_gap(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = small(tmp_path / "damaged")
    victim = next((path / "routing").glob(f"*/{name}"))
    victim.write_bytes(content)
    html = build_report(path).read_text(encoding="utf-8")
    assert html.count("1 recorded sample(s) cannot be read") == 1
    methods = sum(len(s["methods"]) for s in payload(html)["samples"])
    assert methods == 2 * len(FEW) - 1


def broken_png() -> bytes:
    """A PNG whose decoder raises SyntaxError."""
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9)).save(buffer, "PNG")
    whole = buffer.getvalue()
    return whole[:37] + b"\0\0\0\1!!!!" + whole[45:]


@pytest.mark.parametrize("content", [b"", b"no picture", broken_png()])
def test_a_damaged_image_is_one_notice_and_a_gap(tmp_path: Path, content: bytes) -> None:
    path = small(tmp_path / "damaged")
    (path / "routing" / "images" / "abc123.jpg").write_bytes(content)
    html = build_report(path).read_text(encoding="utf-8")
    assert "1 image(s) cannot be read; pictures leave them out. The first is abc123.jpg" in html
    assert payload(html)["images"] == {}


@pytest.mark.parametrize("name", ["maps", "layers", "tokens"])
@pytest.mark.parametrize("value", [np.array("x"), np.zeros((0, 3, 3)), np.array([1, 2])])
def test_damaged_attention_maps_are_left_out(tmp_path: Path, name: str, value: Any) -> None:
    path = small(tmp_path / "damaged")
    for place in (path / "routing").glob("*/attention.npz"):
        with np.load(place) as data:
            parts = {key: data[key] for key in data.files}
        np.savez(place, **{**parts, name: value})
    assert selection.attention(summarise(load_run(path)), tmp_path) is None


@pytest.mark.parametrize("depth", [300, 20_000])
def test_nested_run_json_is_one_line(
    tmp_path: Path, depth: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small(tmp_path / "deep")
    deep = '{"schema_version": 1, "settings": ' + "[" * depth + "]" * depth + "}"
    (path / "run.json").write_text(deep)
    assert "run.json cannot be read" in build_report(path).read_text(encoding="utf-8")
    if depth > sys.getrecursionlimit():
        assert main(["--plots-only", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_routes_that_cannot_be_are_not_drawn(tmp_path: Path) -> None:
    made = make_record("gamma", 0, tiles=False)
    made.route[3, 2] = 900
    made.to_npz(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="fit together"):
        record.read(tmp_path / "one.npz")
    made = make_record("gamma", 0, tiles=False)
    made.grid[0]["start"] = 20
    made.to_npz(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="outside"):
        record.read(tmp_path / "one.npz")


def test_lost_images_and_attention_leave_the_rest(tmp_path: Path) -> None:
    path = small(tmp_path / "lost")
    next((path / "routing" / "images").glob("*.jpg")).write_bytes(b"no picture")
    for maps in (path / "routing").glob("*/attention.npz"):
        maps.write_bytes(b"no maps")
    html = build_report(path).read_text(encoding="utf-8")
    assert payload(html)["images"] == {}
    assert "the attention maps of gqa cannot be read" in html
    assert 'id="attention"' not in html
    assert not (path / "figures" / "overlay_gqa.png").exists()
    assert "evidence" in Page(html).rows


def test_a_run_of_before_still_renders(tmp_path: Path) -> None:
    """Records without words, places and evidence: maps and agreement, but no pictures."""
    path = small(tmp_path / "old", METHODS)
    shutil.rmtree(path / "routing" / "images")
    (path / "evidence.csv").unlink()
    for file in [*(path / "routing").glob("*/*.json"), *(path / "routing").glob("*/att*.npz")]:
        file.unlink()
    html = build_report(path).read_text(encoding="utf-8")
    page = Page(html)
    assert "evidence" not in page.rows
    assert not {"pictures", "evidence", "attention"} & set(page.ids)
    assert {"routing", "agreement"} <= set(page.ids)
    shutil.rmtree(path / "routing")
    assert 'id="agreement"' not in build_report(path).read_text(encoding="utf-8")


def test_samples_beyond_the_budget_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(tmp_path / "large")
    summary = summarise(load_run(path))
    groups = viewer.groups(shown.load(summary))
    files = viewer.images(summary, groups)
    assert len(payload(viewer.markup(summary, groups, files, [], path))["samples"]) == 2
    image = len(base64.b64encode(next(iter(files.values())).read_bytes()))
    one = image + 100 + len(json.dumps(viewer._entry(groups[0])))
    monkeypatch.setattr(viewer, "BUDGET", one)
    less = viewer.markup(summary, groups, files, [], path)
    assert [s["doc"] for s in payload(less)["samples"]] == ["0"]
    assert "1 more sample did not fit" in less
