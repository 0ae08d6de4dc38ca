"""Rows of regret.csv from its conversations. Torch-free.

Regret is the second turn's score from scratch less the one on the kept cache, paired by document.
Its interval and test are those of every paired difference here (`statistics.stats`), by image: the
questions about one image are asked in the same conversations. Holm's correction is over the rows
of both orders, dense left out: it drops nothing, so there is no question.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.statistics.stats import holm, paired, top_score
from harness.store.columns import CELL
from harness.store.columns.regret import BOTH, CONVERSATIONS, EARLIER, LATER, REGRET
from harness.store.csvfile import write_csv
from harness.store.folder import read_run_json
from harness.store.tables import read_rows, stored
from methods import REFERENCE

DONE = "done"
CONDITIONS = ("data", "device", "dtype", "attn", "protocol")
MEANS = ("kv_ratio", "kv_ratio_fresh", "n_question")
SCORES = {
    "turn1": "first_score", "turn2_kept": "kept_score", "turn2_fresh": "fresh_score",
    "turn2_alone": "alone_score",
}  # fmt: skip
Row = Mapping[str, Any]


def write_regret(run: Path, order: Sequence[str], why: Mapping[str, tuple[str, str]]) -> list[Row]:
    """regret.csv anew; returns its rows.

    ``order``: ids of the run's cells. ``why``: of cells without conversations, status and reason.
    """
    about = {row["cell_id"]: row for row in read_rows(run / "cells.csv")}
    found: dict[str, list[dict[str, str]]] = {}
    for said in read_rows(run / CONVERSATIONS.file):
        found.setdefault(said["cell_id"], []).append(said)
    seed = int(read_run_json(run)["seed"])
    rows: list[dict[str, Any]] = []
    for cell in order:
        if cell in about and cell in why:
            status, error = why[cell]
            rows.append({**_about(about[cell], BOTH, seed), "status": status, "error": error})
        elif cell in about and cell in found:
            rows += _cell(about[cell], found[cell], seed)
    tested = [r for r in rows if r["order"] == BOTH and r["method"] != REFERENCE and "p_value" in r]
    for row, p in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = p
    write_csv(run / REGRET.file, REGRET, rows)
    return list(rows)


def derive_regret(run: Path) -> None:
    """regret.csv again from its conversations, where a run has any; what had none stays so."""
    if stored(run / CONVERSATIONS.file) is None:
        return
    before = read_rows(run / REGRET.file)
    why = {r["cell_id"]: (r["status"], r["error"]) for r in before if r["status"] != DONE}
    done = {
        r.get("requested_id") or r["cell_id"]: r["cell_id"] for r in read_rows(run / "cells.csv")
    }
    write_regret(run, [done.get(cell, cell) for cell in read_run_json(run)["cells"]], why)


def _about(cell: Row, order: str, seed: int) -> dict[str, Any]:
    return {
        **{name: cell.get(name, "") for name in (*CELL, *CONDITIONS)},
        "order": order, "batch_size": 1, "seed": seed,
    }  # fmt: skip


def _cell(cell: Row, samples: Sequence[Row], seed: int) -> Iterable[dict[str, Any]]:
    for order in (BOTH, EARLIER, LATER):
        rows = [row for row in samples if order in (BOTH, row["order"])]
        scored = [row for row in rows if all(row[name] != "" for name in SCORES.values())]
        if scored:
            yield _about(cell, order, seed) | {"status": DONE} | _numbers(scored, seed)


def _numbers(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    score = {name: [float(row[column]) for row in rows] for name, column in SCORES.items()}
    images = {row["image_id"] for row in rows}
    clusters = [row.get("cluster") or row["image_id"] for row in rows]
    found = paired(score["turn2_fresh"], score["turn2_kept"], clusters, seed)
    assert found is not None
    half = max(top_score(_array(values)) for values in score.values()) / 2
    first = [value >= half for value in score["turn1"]]
    given = sum(first)
    right = {
        name: sum(a and b >= half for a, b in zip(first, score[name], strict=True))
        for name in ("turn2_kept", "turn2_fresh")
    }
    return {
        "metric": rows[0]["metric"],
        "n": len(rows),
        "images": len(images),
        **{name: _mean(values) for name, values in score.items()},
        "regret": found.delta.value,
        "ci_low": found.delta.low,
        "ci_high": found.delta.high,
        "p_value": found.p_value,
        "both_right": right["turn2_kept"] / given if given else None,
        "both_right_fresh": right["turn2_fresh"] / given if given else None,
        "right_first": given,
        "same_answers": sum(row["kept_answer"] == row["fresh_answer"] for row in rows),
        **{name: _mean([float(r[name]) for r in rows if r[name] != ""]) for name in MEANS},
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.asarray(values, dtype=np.float64)
