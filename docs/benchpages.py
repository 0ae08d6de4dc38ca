"""The table of `benches.md`, from the catalog that the program itself reads."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import as_table, prose

from harness.bench.catalog import BENCHES

HEAD = ("name", "lmms-eval task", "headline", "data", "judge", "what it asks")


def table() -> dict[str, str]:
    """Marker of `benches.md` -> the Markdown that stands in its place."""
    rows = []
    for name, spec in BENCHES.items():
        data = ("mini" if spec.drawn else "mini, hub") if spec.mini else "hub"
        judge = "yes" if spec.judged else ""
        about = (f"`{name}`", f"`{spec.task}`", f"`{spec.metric}`", data, judge)
        rows.append((*about, prose(spec.summary)))
    return {"<!-- benches -->": as_table(HEAD, rows)}
