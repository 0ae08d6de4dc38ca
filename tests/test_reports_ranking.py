"""The first screen: order, places, the reference, and what the sentences may say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reports import build_report
from reports.errors import ReportError
from reports.opening import sentences
from reports.pairs import Pair
from reports.ranking import Ranking, load
from reports.ranktable import difference
from reports.rundata import load_run
from reports.summary import Summary, summarise
from tests.fixtures.pairs import write_pairs
from tests.fixtures.runs import write_run

AVERAGES = {
    "dense": 0.80,
    "fastv": 0.70,
    "divprune": 0.75,
    "mine": 0.76,
    "random": 0.60,
    "gamma": 0.78,
    "blind": 0.20,
}
KEPT = {
    "dense": 1.0,
    "fastv": 0.33,
    "divprune": 0.33,
    "mine": 0.33,
    "random": 0.33,
    "gamma": 0.77,
    "blind": 0.0,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranking") / "mine"
    write_run(path, tuple(AVERAGES), failed=(), without_cost=())
    write_pairs(path, AVERAGES, KEPT)
    return path


def ranked(path: Path, *against: str) -> tuple[Summary, Ranking]:
    summary = summarise(load_run(path))
    return summary, load(summary, against)


def by_label(ranking: Ranking) -> dict[str, object]:
    return {row.series.label: row for row in ranking.rows}


def test_rows_stand_best_first_with_places_from_settled_pairs_alone(run: Path) -> None:
    ranking = ranked(run)[1]
    order = [row.series.label for row in ranking.rows]
    assert order == ["dense", "gamma", "mine", "divprune", "fastv", "random", "blind"]
    places = {row.series.label: (row.rank_low, row.rank_high) for row in ranking.rows}
    # mine beats fastv and random, divprune beats the same: a tie that nothing settles.
    assert places["mine"] == places["divprune"] == (1, 2)
    assert places["fastv"] == (3, 3) and places["random"] == (4, 4)
    # Alone at their budgets: no rival, no place.
    assert places["gamma"] == places["dense"] == places["blind"] == (0, 0)


def test_differences_are_to_dense_unless_another_row_is_asked_for(run: Path) -> None:
    rows = by_label(ranked(run)[1])
    assert rows["mine"].delta == pytest.approx(-0.04)
    assert rows["fastv"].verdict == "worse" and rows["dense"].reference is None
    rows = by_label(ranked(run, "fastv")[1])
    assert rows["mine"].delta == pytest.approx(0.06)
    assert rows["mine"].delta_low == pytest.approx(0.02)
    assert rows["mine"].verdict == "better" and rows["random"].verdict == "worse"
    # The file has dense - fastv the other way round.
    assert rows["dense"].delta == pytest.approx(0.10)


def test_only_rows_that_are_compared_with_are_called_the_reference(run: Path) -> None:
    rows = ranked(run, "fastv", "gamma")[1].rows
    shown = {row.series.label: difference(row).main for row in rows}
    # No row that dense could be compared with keeps as much; fastv and gamma are what others are.
    assert (shown["dense"], shown["fastv"], shown["gamma"]) == ("–", "reference", "reference")


def test_what_the_column_settles_is_not_called_open_on_the_same_page(tmp_path: Path) -> None:
    averages = {"dense": 0.8, "fastv": 0.70, "divprune": 0.69, "mine": 0.60}
    kept = {"dense": 1.0, "fastv": 0.3, "divprune": 0.3, "mine": 0.3}
    write_run(tmp_path, tuple(averages), failed=())
    write_pairs(tmp_path, averages, kept)
    file = tmp_path / "comparisons.csv"
    lines = file.read_text().splitlines(keepends=True)
    # Settled in itself, open after the correction over all pairs.
    lines = [
        line.replace(",0.001,0.001,worse", ",0.001,0.06,inconclusive")
        if ",mine,fastv," in line
        else line
        for line in lines
    ]
    file.write_text("".join(lines))
    summary, ranking = ranked(tmp_path, "fastv")
    assert by_label(ranking)["mine"].verdict == "worse"
    own = next(s for s in sentences(summary, ranking) if s.startswith("mine"))
    assert "worse than fastv by 10.0 [6.0, 14.0] in the table's column, open among all" in own
    assert "not separable from fastv" not in own


def test_an_unknown_reference_is_refused_with_the_nearest_row(run: Path) -> None:
    with pytest.raises(ReportError, match="did you mean 'fastv'"):
        ranked(run, "fasv")


def test_the_sentences_say_what_is_settled_and_what_is_open(run: Path) -> None:
    said = sentences(*ranked(run))
    where = "At 33 % of the image's KV cache mine scores highest of the methods: 76.0 %"
    assert said[0].startswith(where)
    assert "not separable from divprune" in said[0]
    assert "95 % of dense, −4.0 [−8.0, 0.0] to dense" in said[0]
    win = next(s for s in said if s.startswith("mine beats"))
    assert "fastv by 6.0 [2.0, 10.0]" in win
    assert "random by 16.0 [12.0, 20.0]" in win
    assert win.endswith("at the same KV cache; not separable from divprune.")


def test_a_method_of_ones_own_is_told_of_also_where_it_loses(tmp_path: Path) -> None:
    averages = {"dense": 0.8, "fastv": 0.70, "divprune": 0.58, "mine": 0.60}
    kept = {"dense": 1.0, "fastv": 0.3, "divprune": 0.3, "mine": 0.3}
    write_run(tmp_path, tuple(averages), failed=())
    write_pairs(tmp_path, averages, kept)
    said = sentences(*ranked(tmp_path))
    own = (
        "mine loses to fastv by 10.0 [6.0, 14.0] at the same KV cache; not separable from divprune."
    )
    assert own in said and said.index(own) == 1  # behind the row that leads, before other winners
    write_pairs(tmp_path, averages | {"mine": 0.71, "fastv": 0.70, "divprune": 0.69}, kept)
    said = sentences(*ranked(tmp_path))
    assert "mine is not separable from fastv and divprune at the same KV cache." in said


def test_nothing_settled_is_said_to_be_nothing(tmp_path: Path) -> None:
    averages = {"dense": 0.8, "fastv": 0.70, "divprune": 0.71}
    kept = {"dense": 1.0, "fastv": 0.3, "divprune": 0.3}
    write_run(tmp_path, tuple(averages), failed=())
    write_pairs(tmp_path, averages, kept)
    said = sentences(*ranked(tmp_path))
    assert "No two methods at the same KV cache are separable (n = 500)." in said


def test_a_cell_that_failed_later_takes_its_row_out_of_the_average(tmp_path: Path) -> None:
    write_run(tmp_path, tuple(AVERAGES), failed=(("mine", "pope"),))
    write_pairs(tmp_path, AVERAGES, KEPT)
    ranking = ranked(tmp_path)[1]
    row = by_label(ranking)["mine"]
    assert not row.complete and ranking.rows[-1] is row
    assert not any("mine" in one for one in sentences(*ranked(tmp_path)))


def test_a_verdict_against_its_own_p_value_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, tuple(AVERAGES), failed=())
    write_pairs(tmp_path, AVERAGES, KEPT)
    file = tmp_path / "comparisons.csv"
    lines = file.read_text().replace(",0.001,0.001,better", ",0.001,0.4,better")
    file.write_text(lines)
    summary, ranking = ranked(tmp_path)
    assert not any(pair.told == "better" for pair in ranking.pairs.found.values())
    assert any("comparisons.csv" in notice for notice in summary.run.notices)


def test_the_page_opens_with_the_table_and_folds_the_benches(
    run: Path, tmp_path: Path, paint: Callable[..., None]
) -> None:
    paint("ranking")
    page = build_report(run, tmp_path / "out").read_text(encoding="utf-8")
    first = page[page.index('<section id="overview"') : page.index('<section id="pairs"')]
    head = re.sub(r"<[^>]+>", " ", first[first.index("<thead>") : first.index("</thead>")])
    words = " ".join(head.replace("↕", "").split())
    assert words.startswith("Method Average") and "Δ to dense" in words
    assert first.count('class="num fold"') == 3 * (1 + len(AVERAGES))
    names = re.findall(r'<th scope="row"[^>]*>([\w]+)', first)
    assert names == ["dense", "gamma", "mine", "divprune", "fastv", "random", "blind"]
    assert 'id="panel-ranking-0"' in first or "<svg" in first
    assert '<details class="conditions">' in first
    slice_ = (tmp_path / "out" / "figures" / "ranking.csv").read_text(encoding="utf-8")
    assert [line.split(",")[1] for line in slice_.splitlines()[1:]] == names


def test_the_matrix_says_every_pair_of_one_budget_once(run: Path, tmp_path: Path) -> None:
    build_report(run, tmp_path / "out")
    lines = (tmp_path / "out" / "figures" / "matrix.csv").read_text(encoding="utf-8").splitlines()
    pairs = {tuple(line.split(",")[:2]) for line in lines[1:]}
    four = ["mine", "divprune", "fastv", "random"]
    assert pairs == {(a, b) for i, a in enumerate(four) for b in four[i + 1 :]}


def test_a_run_without_the_files_still_has_its_table(tmp_path: Path) -> None:
    write_run(tmp_path, failed=(), without_cost=())
    summary, ranking = ranked(tmp_path)
    assert ranking.rows[0].series.method == "dense"
    assert all(row.complete and not row.rank_low for row in ranking.rows)
    assert sentences(summary, ranking)
    assert "Average" in build_report(tmp_path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("delta", "low", "high", "told", "turned"),
    [
        (-0.1, -0.2, 0.0, "inconclusive", "non-inferior"),  # more is better: b may win, not lose
        (-0.1, -0.2, 0.0, "non-inferior", "inconclusive"),  # less is better: a falls, which is good
        (0.0, -0.005, 0.005, "non-inferior", "non-inferior"),
        (0.0, -0.2, 0.2, "inconclusive", "inconclusive"),
        (0.3, 0.2, 0.4, "better", "worse"),
    ],
)
def test_a_pair_read_the_other_way_has_the_verdict_of_the_other_row(
    delta: float, low: float, high: float, told: str, turned: str
) -> None:
    pair = Pair(100, delta, low, high, 0.01, 0.5, 0.5, True, told)
    assert pair.turned.told == turned
    assert pair.turned.turned.told == told
    assert (pair.turned.low, pair.turned.high) == (-high, -low)


def test_the_first_that_is_done_does_not_score_highest(tmp_path: Path) -> None:
    averages = {"dense": 0.8, "fastv": 0.70, "divprune": 0.71}
    kept = {"dense": 1.0, "fastv": 0.3, "divprune": 0.3}
    write_run(tmp_path, tuple(averages), failed=(("divprune", "pope"),))
    write_pairs(tmp_path, averages, kept)
    said = sentences(*ranked(tmp_path))[0]
    assert "highest" not in said and said.startswith("fastv scores 70.0 %")
    assert "(1 other row not done on every bench)" in said
