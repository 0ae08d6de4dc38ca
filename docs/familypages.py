"""The matrix of `families.md`, from the `families.csv` that `--check all --family all` wrote."""

from __future__ import annotations

import csv
from pathlib import Path

CSV = Path(__file__).with_name("families.csv")
MARKS = {"works": "yes", "refused": "–", "failed": "**failed**"}


def matrix() -> dict[str, str]:
    """Marker of `families.md` -> the Markdown that stands in its place."""
    rows = list(csv.DictReader(CSV.read_text(encoding="utf-8").splitlines()))
    families = list(dict.fromkeys(row["family"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["family"], row["method"]): row for row in rows}
    lines = [
        "| | " + " | ".join(f"`{name}`" for name in families) + " |",
        "|---" * (len(families) + 1) + "|",
    ]
    for method in methods:
        cells = (MARKS[found[family, method]["status"]] for family in families)
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["status"] != "works":
            why = row["reason"].removeprefix(f"{row['method']}: ")
            reasons.setdefault(why, []).append(f"`{row['method']}` on `{row['family']}`")
    said = [f"- {why}: {', '.join(who)}" for why, who in reasons.items()]
    return {"<!-- matrix -->": "\n".join(lines), "<!-- reasons -->": "\n".join(said)}
