"""The script that draws several images, run by node on a page of stand-ins (no browser needed)."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import reports

NODE = shutil.which("node")
TEMPLATES = Path(reports.__file__).parent / "templates"
PAGE = """
const drawn = [];
class Element {
  constructor(tag) { this.tag = tag; this.children = []; this.text = ""; this.attributes = {}; }
  set textContent(text) { this.text = String(text); }
  get textContent() { return this.text; }
  append(...parts) { this.children.push(...parts); }
  setAttribute(name, value) { this.attributes[name] = value; }
  remove() { this.gone = true; }
  getContext() {
    const canvas = this;
    return new Proxy({}, { get: (all, name) => (...words) => {
      if (name === "drawImage") canvas.picture = words[0].src;
      if (name === "fillRect") canvas.rects = (canvas.rects || 0) + 1;
    }, set: () => true });
  }
}
globalThis.document = { createElement: tag => new Element(tag) };
globalThis.Image = class { set src(url) {
  this.url = url;
  if (url.startsWith("bad")) this.onerror(); else this.onload();
} get src() { return this.url; } };
globalThis.atob = text => Buffer.from(text, "base64").toString("latin1");
SCRIPT
const sample = INPUT, root = new Element("root");
let show;
const first = sample.methods[0];
overlay.load(URLS, function (pictures) { show = overlay.card(sample, first, root, pictures); });
show(0);
const card = root.children[0], of = tag => card.children.filter(one => one.tag === tag);
console.log(JSON.stringify({
  order: card.children.map(one => one.className || one.tag),
  labels: card.children.filter(one => one.className === "which").map(one => one.text),
  pictures: of("canvas").map(one => one.picture || null),
  rects: of("canvas").map(one => one.rects),
  alt: of("canvas").map(one => one.attributes["aria-label"]),
  hints: card.children.filter(one => one.className === "hint").map(one => one.text),
}));
"""
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")


def grid(number: int, start: int, kind: str = "base", box: Any = (0, 0, 20, 10)) -> dict[str, Any]:
    """One row of two tokens on an image of 20 x 10 pixels."""
    return {"kind": kind, "rows": 1, "cols": 2, "start": start, "newline": False,
            "number": number, "image": [10, 20], "box": list(box)}  # fmt: skip


def shown(grids: list[dict[str, Any]], states: list[int], urls: list[str | None]) -> Any:
    """What a card shows of a prompt of a word, images of two tokens each, and a word."""
    assert NODE is not None
    n = len(states)
    packed = bytes(
        sum(state << 2 * i for i, state in enumerate(states[at : at + 4])) for at in range(0, n, 4)
    )
    method = {"name": "m", "label": "m", "answer": "a", "score": 1.0, "layers": 1,
              "states": base64.b64encode(packed).decode()}  # fmt: skip
    kinds = "0" + "2" * (n - 2) + "1"
    sample = {"kinds": kinds, "words": ["<s>", "?"], "evidence": [], "grids": grids,
              "methods": [method]}  # fmt: skip
    script = (TEMPLATES / "overlay.js").read_text("utf-8").replace("const overlay", "var overlay")
    page = PAGE.replace("SCRIPT", script.replace('"use strict";', ""))
    page = page.replace("INPUT", json.dumps(sample)).replace("URLS", json.dumps(urls))
    done = subprocess.run([NODE, "-e", page], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_each_image_is_drawn_over_itself_and_counted() -> None:
    grids = [grid(0, 1), grid(1, 3)]
    found = shown(grids, [0, 0, 2, 0, 0, 0], ["a.jpg", "b.jpg"])
    assert found["pictures"] == ["a.jpg", "b.jpg"]
    assert found["labels"] == ["Image 1: 1 of 2", "Image 2: 2 of 2"]
    assert found["rects"][0] == found["rects"][1] + 1  # one token of the first is covered
    assert found["alt"][1].startswith("m, layer 0: Image 2: 2 of 2; 3 of 4 image tokens")
    assert [one for one in found["order"] if one in ("which", "canvas")] == ["which", "canvas"] * 2


def test_tiles_of_two_images_are_two_pictures() -> None:
    halves = [(0, 0, 10, 10), (10, 0, 20, 10)]
    grids = [grid(i, 1 + 4 * i + 2 * j, "tile", half) for i in (0, 1) for j, half in
             enumerate(halves)]  # fmt: skip
    found = shown(grids, [0] * 10, ["a.jpg", "b.jpg"])
    assert found["pictures"] == ["a.jpg", "b.jpg"]
    assert found["labels"] == ["Image 1: 4 of 4", "Image 2: 4 of 4"]


def test_what_is_missing_leaves_the_others() -> None:
    found = shown([grid(0, 1), grid(1, 3)], [0] * 6, [None, "b.jpg"])
    assert found["pictures"] == [None, "b.jpg"]
    assert shown([grid(0, 1), grid(1, 3)], [0] * 6, ["bad", "b.jpg"])["pictures"][0] is None
    alone = shown([grid(0, 1)], [0, 0, 2, 0], ["a.jpg"])
    assert alone["labels"] == [] and alone["pictures"] == ["a.jpg"]
    mixed = shown([], [0, 0, 2, 0], ["a.jpg"])
    assert mixed["pictures"] == [] and "none has a place" in mixed["hints"][0]
