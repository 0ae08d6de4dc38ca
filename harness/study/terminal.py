"""A study's claims as the terminal shows them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from harness.study.spec import Study


def verdicts(study: Study, rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a claim."""
    title = f"{study.paper}, {study.table}: {study.title} (mini)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("claim")
    for head in ("difference, points", "95 % interval", "paper", "seeds"):
        table.add_column(head, justify="right")
    table.add_column("verdict")
    for row in rows:
        low, high, away = row.get("ci_low"), row.get("ci_high"), row.get("difference")
        theirs = row.get("paper_difference")
        table.add_row(
            row["claim"],
            "" if away is None else f"{away:+.1f}",
            "" if low is None or high is None else f"{low:+.1f} to {high:+.1f}",
            "" if theirs is None else f"{theirs:+.1f}",
            f"{row['seeds']}" + (f", look {row['look']}" if row["looks"] > 1 else ""),
            row["verdict"],
        )
    return table
