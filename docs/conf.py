"""How the pages of `docs/` become a site: `make docs`. Links are checked, a warning is an error."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))
import rooms
from benchpages import table
from familypages import matrix
from methodpages import sections
from tables import tables

project = "modsuite"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "modsuite"
myst_heading_anchors = 3

# Markdown outside `docs/` (a run's report) is no page of the site: it is offered as a file.
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+\.md)\)")


def _insert_generated(_app: Sphinx, name: str, source: list[str]) -> None:
    pages = {"reference": tables, "methods": sections, "families": matrix, "benches": table}
    generated = pages.get(name)
    for marker, text in (generated() if generated else {}).items():
        source[0] = source[0].replace(marker, text)


def _offer_as_files(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[0] = OUTSIDE.sub(r"{download}`\1 <\2>`", source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    rooms.draw()
    app.connect("source-read", _insert_generated)
    app.connect("source-read", _offer_as_files)
