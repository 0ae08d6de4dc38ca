"""The rows and columns of the report's tables: order, main metric, parts of the cost."""

from __future__ import annotations

import csv
from pathlib import Path

from reports import build_report
from reports.costtables import ledger
from reports.rundata import load_run
from reports.summary import summarise
from reports.tables import overview
from tests.fixtures.runs import write_run


def test_headline_metric_of_the_run_comes_first(tmp_path: Path) -> None:
    path = write_run(tmp_path, methods=("dense", "gamma"), benches=("pope",), failed=())
    assert summarise(load_run(path)).metric["pope"] == ("mini_pope", "exact_match")
    lines = (path / "accuracy.csv").read_text(encoding="utf-8").splitlines()
    marked = [lines[0] + ",headline"] + [f"{x},{int(',f1,' in x)}" for x in lines[1:]]
    (path / "accuracy.csv").write_text("\n".join(marked) + "\n", encoding="utf-8")
    assert summarise(load_run(path)).metric["pope"] == ("mini_pope", "f1")


def test_controls_come_last_and_dense_first(tmp_path: Path) -> None:
    path = write_run(tmp_path, methods=("blind", "gamma", "random", "dense"), failed=())
    assert [s.label for s in summarise(load_run(path)).series] == [
        "dense", "gamma", "random", "blind",
    ]  # fmt: skip


def test_costs_only_run_says_so(tmp_path: Path) -> None:
    path = write_run(tmp_path, benches=("",), failed=(), without_cost=())
    for name in ("cells.csv", "accuracy.csv", "routing.csv"):
        (path / name).unlink()
    meta = (path / "run.json").read_text(encoding="utf-8")
    (path / "run.json").write_text(
        meta.replace('"settings": {', '"settings": {"costs_only": true,'), encoding="utf-8"
    )
    html = build_report(path).read_text(encoding="utf-8")
    assert "no benchmark was run" in html
    assert "is missing" not in html
    table = overview(summarise(load_run(path)))
    assert [row[1].main for row in table.rows] == ["costs only"] * 5
    assert table.rows[0][2].main == "1.20"


def test_router_and_head_have_columns_where_a_run_has_them(tmp_path: Path) -> None:
    """The router with its share of the total; runs of older versions look as they did."""
    write_run(tmp_path / "old")
    write_run(tmp_path / "new")
    path = tmp_path / "new" / "cost.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    totals = [row for row in rows if row["scope"] == "total"]
    for scope, share in (("router", 0.004), ("lm_head", 0.25)):
        rows += [
            {**row, "scope": scope, "tflops_mean": str(share * float(row["tflops_mean"]))}
            for row in totals
        ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    old, new = (ledger(summarise(load_run(tmp_path / name))) for name in ("old", "new"))
    assert old is not None
    assert new is not None
    caches = ["KV, prompt", "KV, end"]
    assert [c.title for c in old.columns[-4:]] == ["Decode", "Total", *caches]
    assert [c.title for c in new.columns[-5:]] == ["Router", "LM head", "Total", *caches]
    assert {row[-5].sub for row in new.rows} == {"0.400 %"}
    assert [row[-3] for row in new.rows] == [row[-3] for row in old.rows]
