"""The slider over the layers in a real browser, by key presses: the masks follow it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports import build_report
from tests.devtools import STICKING_OUT, tab
from tests.fixtures.routing import write_routing
from tests.fixtures.runs import write_run
from tests.test_reports_browser import BROWSER

METHODS = ("dense", "gamma", "pmod", "fastv k=3 r=0.75", "pool")
LEFT, RIGHT, HOME, END = (
    ("ArrowLeft", 37),
    ("ArrowRight", 39),
    ("Home", 36),
    ("End", 35),
)

OPEN = "#viewer details[open]"

# Colour of the canvas in the middle of a patch of the base grid, method by method.
PATCH = """[...document.querySelectorAll("#viewer details[open] article")].map(a => {
  const c = a.querySelector("canvas"), g = c.getContext("2d");
  const k = c.width / 200, at = i => [40 + (i % 4) * 30 + 15, Math.floor(i / 4) * 30 + 15];
  const [x, y] = at(PATCH); return [...g.getImageData(x * k - 2, y * k + 9, 1, 1).data].slice(0, 3);
})"""
COUNTS = (
    """[...document.querySelectorAll("#viewer details[open] .count")].map(e => e.textContent)"""
)
STRUCK = """[...document.querySelectorAll("#viewer details[open] article")]
  .map(a => [...a.querySelectorAll(".off")].map(e => e.textContent.trim()))"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium found")
@pytest.mark.parametrize(("width", "two"), [(380, False), (1600, True)], ids=["square", "tiles"])
def test_slider_moves_the_overlay_by_key(tmp_path: Path, width: int, two: bool) -> None:
    run = write_run(tmp_path / "run", METHODS, ("gqa",), failed=(), without_cost=())
    page = build_report(write_routing(run, tiles=two))
    with tab(str(BROWSER), page, width, 1200, tmp_path / "profile") as one:
        tiles = one.value(f"document.querySelectorAll('{OPEN} canvas').length")
        assert tiles == (10 if two else 5)
        one.value("document.querySelector('#viewer details[open] input').focus()")
        one.press(*HOME)
        counts = one.value(COUNTS)
        images = 16 if tiles == 5 else 61
        assert counts[0] == f"{images} of {images} image tokens; 6 of 6 text"
        assert counts[1] == counts[0]
        assert "8 merged" in counts[4]
        first = one.value(PATCH.replace("PATCH", "3"))
        assert one.value(STRUCK) == [[], [], [], [], []]
        for _ in range(4):
            one.press(*RIGHT)
        assert one.value("document.querySelector('#viewer details[open] input').value") == "4"
        assert "7 skipped; 5 of 6 text" in one.value(COUNTS)[1]
        assert one.value(STRUCK)[1] == ["cat"]
        later = one.value(PATCH.replace("PATCH", "3"))
        if tiles == 5:  # token 4: gamma skips it, the others as before
            assert later[0] == first[0]
            assert later[1] != first[1] and min(later[1]) > 180  # pale
        one.press(*END)
        assert one.value("document.querySelector('#viewer details[open] output').textContent") == (
            "11 (0 to 11)"
        )
        dropped = one.value(PATCH.replace("PATCH", "14"))
        if tiles == 5:
            assert max(dropped[3]) < 90  # dark
        one.press(*LEFT)
        assert one.value("document.querySelector('#viewer details[open] input').value") == "10"
        one.value("document.querySelectorAll('#viewer details')[1].open = true")
        shown = "document.querySelectorAll('#viewer article').length"
        assert one.value(f"new Promise(r => setTimeout(() => r({shown}), 300))") == 10
        root = "document.documentElement"
        assert one.value(f"{root}.scrollWidth <= {root}.clientWidth")
        assert one.value(f"{STICKING_OUT}({root})") == []
        assert one.errors == []
