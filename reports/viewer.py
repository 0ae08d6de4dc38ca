"""The moving picture of the page: every layer of every method over the image, by a slider."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import escape
from PIL import Image

from reports import text
from reports.entries import entry
from reports.sheet import Drawn
from reports.shown import Shown
from reports.summary import Summary

TEMPLATES = Path(__file__).parent / "templates"
BUDGET = 6_000_000
"""Bytes of the page that pictures may take; samples beyond it are counted, not shown."""


def groups(samples: Sequence[Shown]) -> list[list[Shown]]:
    """Records of one document under all its methods; each bench's first document comes first.

    Records whose prompt is another than the first one's cannot stand beside it.
    """
    found: dict[tuple[str, str], list[Shown]] = {}
    for sample in samples:
        if sample.about.get("words") is None:
            continue
        group = found.setdefault((sample.bench, sample.doc_id), [])
        first, this = (group or [sample])[0].record, sample.record
        if np.array_equal(this.kinds, first.kinds) and this.grid == first.grid:
            group.append(sample)
    place: dict[str, int] = {}
    order = {}
    for key in found:
        order[key] = place[key[0]] = place.get(key[0], -1) + 1
    return [found[key] for key in sorted(found, key=lambda key: order[key])]


def images(summary: Summary, found: Sequence[Sequence[Shown]]) -> dict[str, Path]:
    """Files of the images that these samples show, by image id; a notice for damaged ones."""
    folder = summary.run.path / "routing" / "images"
    names = {str(n) for group in found for s in group for n in s.about.get("images") or []}
    paths = {name: folder / f"{name}.jpg" for name in sorted(names) if name.isalnum()}
    there = {name: path for name, path in paths.items() if path.is_file()}
    readable = {name: path for name, path in there.items() if _readable(path)}
    if broken := [path.name for name, path in there.items() if name not in readable]:
        summary.run.notices.append(
            f"routing/images/: {len(broken)} image(s) cannot be read; pictures leave them out. "
            f"The first is {broken[0]}."
        )
    return readable


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.convert("RGB")
    except Exception:  # a damaged file makes a decoder raise anything, SyntaxError among them
        return False
    return True


def markup(
    summary: Summary,
    found: Sequence[Sequence[Shown]],
    files: dict[str, Path],
    still: Sequence[Drawn],
    folder: Path,
) -> str:
    """The viewer, its data and script; without a script the still pictures stand."""
    data: dict[str, Any] = {"images": {}, "samples": []}
    size, left_out = 0, 0
    for group in found:
        one = entry(group)
        names = dict.fromkeys(one["images"])
        urls = {n: _url(files[n]) for n in names if n in files and n not in data["images"]}
        cost = len(json.dumps(one)) + sum(map(len, urls.values()))
        if size + cost > BUDGET:
            left_out += 1
            continue
        size += cost
        data["images"] |= urls
        data["samples"].append(one)
    if not data["samples"]:
        return ""
    script = "".join((TEMPLATES / n).read_text("utf-8") for n in ("overlay.js", "viewer.js"))
    # A closing tag inside a string would end the script.
    payload = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    note = f"<p>{text.plural(left_out, 'more sample')} did not fit.</p>" if left_out else ""
    pictures = "".join(_picture(one, folder) for one in still)
    return (
        f'<div id="viewer"></div>{note}<noscript>{pictures}</noscript>'
        f'<script type="application/json" id="viewer-data">{payload}</script>'
        f"<script>{script}</script>"
    )


def _url(path: Path) -> str:
    """A data URL of an image."""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _picture(still: Drawn, folder: Path) -> str:
    """A still picture as the page shows it where no script runs."""
    buffer = io.BytesIO()
    with Image.open(folder / f"{still.name}.png") as image:
        image.convert("RGB").save(buffer, "JPEG", quality=80)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="still"><img alt="{escape(still.title)}" src="{url}">'
        f"<figcaption>{escape(still.caption)}</figcaption></figure>"
    )
