"""What `methods.md` says of each method: from the registry, its fields and its file's own words."""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import as_table, prose

import methods
from methods.describe import acts, images, needs, page, parameters

ARXIV = re.compile(r"\b(\d{4}\.\d{5})\b")
ENTRY = re.compile(r"  (\S(?:.*?\S)??)\s{2,}(\S.*)")  # two spaces, a word, its explanation


def sections() -> dict[str, str]:
    """Marker of `methods.md` -> the Markdown that stands in its place."""
    every = methods.names()
    return {"<!-- overview -->": _overview(every), "<!-- methods -->": "\n".join(map(_of, every))}


def _overview(names: list[str]) -> str:
    rows = []
    for name in names:
        entry = methods.REGISTRY[name]
        link = f"[`{name}`](#method-{name})"
        rows.append((link, "trained" if entry.trained else "", prose(entry.summary)))
    return as_table(("name", "", "what it does"), rows)


def _of(name: str) -> str:
    kind, entry = methods.load(name), methods.REGISTRY[name]
    lines = page(kind)
    facts = [
        f"- **Training**: {'trained' if entry.trained else 'none'}",
        f"- **Acts** {acts(kind)} (by default)",
        *(f"- **Several images**: {said}" for said in [images(kind)] if said),
        *(f"- **Needs** {prose(need)}" for need in needs(kind)),
    ]
    paper = ARXIV.search(" ".join(lines))
    if paper:
        facts.append(f"- **Paper**: [arXiv {paper[1]}](https://arxiv.org/abs/{paper[1]})")
    rows = [
        (f"`{p.name}`", f"`{p.type}`", f"`{p.default}`", prose(p.meaning)) for p in parameters(kind)
    ]
    head = ("parameter", "type", "default", "meaning")
    takes = as_table(head, rows) if rows else "No parameters."
    parts = [f"(method-{name})=\n### {name}", "\n".join(facts), takes, _markdown(lines)]
    return "\n\n".join(parts) + "\n"


def _markdown(lines: list[str]) -> str:
    """The first lines of a file, its indented `word  explanation` rows as a list."""
    text: list[str] = []
    inside = False  # a row of a list
    for line in lines:
        row = ENTRY.fullmatch(line)
        if row:
            text += [] if inside or not text[-1] else [""]
            text.append(f"- **{prose(row[1])}**: {prose(row[2])}")
        elif inside and line.startswith("  "):
            text.append(f"  {prose(line.strip())}")
        else:
            text += ["", prose(line)] if inside and line else [prose(line)]
        inside = bool(row) or (inside and line.startswith("  "))
    return "\n".join(text)
