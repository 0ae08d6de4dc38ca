"""Where a report or a comparison is written."""

from __future__ import annotations

import os
from pathlib import Path

from reports.errors import ReportError

REPORT = ("figures", "tables", "report.html", "report.md", "CITATION.bib", "conditions.txt")
"""What a report consists of."""


def check_free(out: Path) -> None:
    """Refuse a folder that holds anything but a report. Raises ReportError; writes nothing."""
    if out.exists() and not out.is_dir():
        raise ReportError(f"--out: '{out}' is a file; give a folder.")
    others = (
        [path.name for path in out.iterdir() if path.name not in REPORT] if out.exists() else []
    )
    if others:
        raise ReportError(
            f"--out: '{out}' holds {min(others)}, which is no part of a report; choose another "
            "folder."
        )


def write(path: Path, content: str) -> Path:
    """Replace a file in one step: a reader never meets half of it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(content, encoding="utf-8", errors="replace")
    os.replace(part, path)
    return path
