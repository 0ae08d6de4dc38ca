"""The report's fronts, changes, heat map, radar and speed: numbers of the CSVs, gaps where none."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reports import build_report, changes, dots, fronts, heatmap, pareto, speedfront, style, text
from reports.rundata import load_run
from reports.sheet import Drawn
from reports.summary import Summary, summarise
from reports.tables import cells, normalised
from reports.timing import timed
from tests.fakes import FakeRun, run
from tests.fixtures.runs import write_run

BENCHES = ("gqa", "textvqa", "pope")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose CSVs the harness wrote itself."""
    out = tmp_path_factory.mktemp("runs") / "study"
    parts = FakeRun()
    assert run(out, parts, methods=("fastv", "random", "blind"), bench=BENCHES) == 0
    build_report(out)
    return out


@pytest.fixture(scope="module")
def summary(path: Path) -> Summary:
    return summarise(load_run(path))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def edit(path: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    rows = rows_of(path)
    header = list(rows[0])
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def drawn(
    make: Callable[..., Drawn | None], summary: Summary, folder: Path, palette: bool = True
) -> tuple[Drawn | None, list[dict[str, str]]]:
    with style.context():
        found = make(summary, folder, *([style.Palette(summary.series)] if palette else []))
    return found, rows_of(folder / f"{found.name}.csv") if found else []


def test_front_table_and_figure_have_the_probabilities_of_the_file(
    path: Path, summary: Summary
) -> None:
    table = fronts.table(summary, fronts.load(summary))
    assert table is not None
    assert [c.title for c in table.columns] == ["Method", *BENCHES, "average"]
    shown = {row[0].main: dict(zip([*BENCHES, fronts.AVERAGE], row[1:], strict=True))
             for row in table.rows}  # fmt: skip
    assert "blind" not in shown
    file = rows_of(path / "fronts.csv")
    assert len(file) == 3 * 4
    for row in file:
        cell = shown[row["label"]][row["bench"]]
        assert cell.sort == float(row["front_probability"])
        assert (cell.sub == "on it") == (row["on_front"] == "1")
    chances = fronts.load(summary)
    made = drawn(lambda *a: pareto.draw(*a, chances), summary, path / "figures")[1]
    figure = {(r["bench"], r["label"]): r for r in made}
    for row in file:
        point = figure[row["bench"], row["label"]]
        assert point["front_probability"] == row["front_probability"]
        assert point["non_dominated"] == row["on_front"]
        assert float(point["score"]) == pytest.approx(float(row["score"]))
    html = (path / "report.html").read_text(encoding="utf-8")
    assert "2000 bootstrap draws" in html


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0 %"), (0.003, "< 1 %"), (0.5, "50 %"), (0.997, "> 99 %"), (1.0, "100 %")],
)
def test_a_probability_is_not_rounded_to_certainty(share: float, shown: str) -> None:
    assert fronts.percent(share) == shown


@pytest.mark.parametrize(
    ("damage", "notice"),
    [
        (lambda rows: rows[0].update(front_probability="1.7"), "1 line(s) that cannot be"),
        (lambda rows: rows[0].update(score=""), "1 line(s) that cannot be"),
        (lambda rows: rows.pop(0), "does not know dense on gqa"),
    ],
)
def test_damaged_fronts_are_left_out(
    path: Path, damage: Callable[[list[dict[str, str]]], None], notice: str, tmp_path: Path
) -> None:
    for name in ("run.json", "cells.csv", "accuracy.csv", "cost.csv", "routing.csv", "fronts.csv"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    edit(tmp_path / "fronts.csv", damage)
    again = summarise(load_run(tmp_path))
    found = fronts.load(again)
    assert any(notice in said for said in again.run.notices)
    dense = next(s for s in again.series if s.method == "dense")
    assert math.isnan(found.probability(dense, "gqa"))


def test_a_run_without_the_new_files_and_columns_still_has_its_report(tmp_path: Path) -> None:
    old = write_run(tmp_path / "old")
    html = build_report(old).read_text(encoding="utf-8")
    summary = summarise(load_run(old))
    assert fronts.table(summary, fronts.load(summary)) is None
    assert changes.table(summary) is None
    assert "Smallest difference the paired test finds" not in html
    assert "probability of standing" not in html


def test_changes_and_detectable_differences(path: Path, summary: Summary) -> None:
    table = changes.table(summary)
    assert table is not None
    shown = {row[0].main: row[1:] for row in table.rows}
    for row in rows_of(path / "accuracy.csv"):
        if row["headline"] == "1" and row["method"] != "dense":
            cell = shown[row["label"]][BENCHES.index(row["bench"])]
            assert cell.main == f"{row['right_to_wrong']} / {row['wrong_to_right']}"
            lost = 100 * int(row["right_to_wrong"]) / int(row["n_paired"])
            assert cell.sub.startswith(f"{lost:.1f} %")
    every = cells(summary)
    place = [c.title for c in every.columns].index("Detectable")
    assert every.rows[0][place].main == text.GAP  # dense against itself
    caption = (path / "report.html").read_text(encoding="utf-8")
    assert "Smallest difference the paired test finds with 80 % power" in caption


def test_score_above_blind_has_an_interval_around_it(summary: Summary) -> None:
    table = normalised(summary)
    assert table is not None
    with_interval = 0
    for row in table.rows:
        for cell in row[1:]:
            assert row[0].main != "dense" or not cell.ci
            if cell.ci:
                with_interval += 1
                low, high = (float(v.replace("−", "-")) for v in cell.ci.strip("[]").split(", "))
                assert low <= 100 * float(cell.sort or 0) + 0.5
                assert high >= 100 * float(cell.sort or 0) - 0.5
    benches = [s for s in summary.benches if _lead(summary, s) > 0.4]
    assert with_interval or not benches


def _lead(summary: Summary, bench: str) -> float:
    scores = [summary.score(s, bench) for s in summary.series if s.method in ("dense", "blind")]
    return scores[0].value - scores[1].value if scores[0] and scores[1] else 0.0


@pytest.mark.usefixtures("painted")
def test_heat_map_marks_the_significant_cells_alone(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    summary = summarise(load_run(run_dir))
    found, rows = drawn(heatmap.draw, summary, tmp_path, palette=False)
    assert found is not None
    assert len(rows) == 4 * 3  # every method but dense on every bench
    verdicts = {(r["label"], r["bench"]): r for r in rows_of(run_dir / "accuracy.csv")
                if r["metric"] == "exact_match"}  # fmt: skip
    for row in rows:
        key = row["label"], row["bench"]
        if row["status"] == "failed":
            assert row["delta"] == ""
        else:
            assert float(row["delta"]) == float(verdicts[key]["delta"])
            assert row["significant"] == str(int(verdicts[key]["verdict"] in ("better", "worse")))
    bold = sum(r["significant"] == "1" for r in rows)
    assert found.inline.count("▼") + found.inline.count("▲") == bold > 0
    assert "failed" in found.inline
    assert "n = 500" in found.caption and "float32" in found.caption


def test_heat_map_needs_several_benches(tmp_path: Path) -> None:
    one = summarise(load_run(write_run(tmp_path / "one", benches=("gqa",), failed=())))
    assert drawn(heatmap.draw, one, tmp_path, palette=False)[0] is None


def test_dots_stand_in_the_order_of_the_averages_between_dense_and_blind(
    summary: Summary, tmp_path: Path
) -> None:
    found, rows = drawn(dots.draw, summary, tmp_path)
    assert found is not None
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["label"], []).append(float(row["score"]))
    mean = {label: sum(v) / len(v) for label, v in values.items()}
    names = {s.short: mean[s.label] for s in summary.series if s.method not in ("dense", "blind")}
    for panel in found.inline.split("<svg ")[1:]:
        shown = re.findall(r">([^<>]+)</text>", panel)
        rows_of_it = [names[word] for word in shown if word in names]
        assert len(rows_of_it) == len(names)
        assert rows_of_it == sorted(rows_of_it, reverse=True)
        assert any(word.startswith("dense ") for word in shown)  # lines with their values
        assert any("blind " in word for word in shown)


def test_speed_against_accuracy_needs_both(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run", throughput=True)
    rows = rows_of(run_dir / "throughput.csv")
    with (run_dir / "throughput.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], "workload"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "phase": "end_to_end", "workload": "gqa:n_out=3:batch=1"})
    summary = summarise(load_run(run_dir))
    entries = timed(summary)
    with style.context():
        palette = style.Palette(summary.series)
        found = speedfront.draw(summary, entries, tmp_path, palette)
        assert speedfront.draw(summary, [], tmp_path, palette) is None
    assert found is not None
    shown = {r["label"]: r for r in rows_of(tmp_path / "speed_accuracy.csv")}
    scores = {r["label"]: r["value"] for r in rows_of(run_dir / "accuracy.csv")
              if r["bench"] == "gqa"}  # fmt: skip
    for row in rows:
        assert shown[row["label"]]["speedup_vs_dense"] == row["speedup_vs_dense"]
        assert shown[row["label"]]["score"] == scores[row["label"]]
    assert "2-core CPU" in found.caption
