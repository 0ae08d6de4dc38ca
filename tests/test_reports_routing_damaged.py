"""Damaged, lost and older recorded routing: one notice and a gap, and the rest of the report."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.command.cli import main
from reports import build_report, record, selection
from reports.rundata import load_run
from reports.summary import summarise
from tests.fixtures.routing import make_record
from tests.test_reports import Page
from tests.test_reports_routing import FEW, METHODS, payload, small
from tests.tiers import some


def with_meta(text: str) -> bytes:
    """A record's file whose ``meta`` is this text."""
    buffer = io.BytesIO()
    make_record("gamma", 0, tiles=False).to_npz(buffer)
    buffer.seek(0)
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


VICTIMS = [(name, content) for content in DAMAGE for name in ("00-0.npz", "00-0.json")]


@pytest.mark.parametrize("case", some(VICTIMS, *VICTIMS[::5]))
def test_a_damaged_sample_is_one_notice_and_a_gap(tmp_path: Path, case: tuple[str, bytes]) -> None:
    name, content = case
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
