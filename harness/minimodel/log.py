"""`training.json`: what a training of the mini model was, what it reached, how long it took."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from harness.minimodel.recipe import Recipe


def facts(recipe: Recipe, log: dict) -> dict:
    return {"recipe": dataclasses.asdict(recipe), **log}


def write_log(out: Path, recipe: Recipe, log: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts(recipe, log), indent=1, sort_keys=True)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")


def earlier(out: Path) -> float:
    """Seconds an earlier sitting of the same recipe took, by the log it left in `out`; else 0."""
    path = out / "training.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["seconds"]) if path.exists() else 0.0
