"""The report of a study, from hand-made CSVs: verdicts as recorded, gaps shown, nothing torch."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.common.roots import ROOT
from reports import build_report, study, studytables
from reports.rundata import load_run
from reports.tables import Table
from tests.fixtures.studies import ARMS, ERROR, FINE, FIRST, HALF, TANH, write_study
from tests.fixtures.without import WITHOUT_TORCH
from tests.test_reports import Page
from tests.tiers import some

FILES = ("study.csv", "study_runs.csv", "study_claims.csv", "study_losses.csv")
FAILED, MISSING = "softmax, no clipping", "interleaved"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study drawn as ``--plots-only`` does it, where there is no torch."""
    path = write_study(tmp_path_factory.mktemp("runs") / "ablate")
    code = (
        f"{WITHOUT_TORCH}"
        f"from harness.command.cli import main\nsys.exit(main(['--plots-only', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_study(tmp_path / "ablate")


def edit(path: Path, change: Callable[[dict[str, str]], None]) -> None:
    """Rewrite a CSV with every record changed."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        change(row)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> tuple[study.Study, str]:
    found = study.load(load_run(path))
    return found, "\n".join(found.run.notices)


def line(found: study.Study, arm: str, bench: str = "average") -> study.Line:
    return next(a for a in found.arms if a.name == arm).line(bench)


def shown(table: Table | None) -> dict[str, dict[str, str]]:
    """Row name -> column title -> main line."""
    assert table is not None
    titles = [column.title for column in table.columns]
    return {row[0].main: dict(zip(titles, [c.main for c in row], strict=True))
            for row in table.rows}  # fmt: skip


def test_page_puts_the_verdicts_first_and_keeps_its_links(drawn: Path) -> None:
    html = (drawn / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert list(page.rows) == ["claims", "arms", "failures", "runs"]
    assert [i for i, count in page.ids.items() if count > 1] == []
    assert {s[1:] for s in page.sources if s.startswith("#")} | page.targets <= set(page.ids)
    assert all(s.startswith(("#", "data:text/csv")) for s in page.sources)
    assert "Mini numbers." in html
    assert "Notice." not in html
    assert 'class="better">✓ reproduced' in html
    assert 'class="worse">✗ not reproduced' in html
    assert 'class="gap">? inconclusive' in html
    assert [len(row) for row in page.rows["arms"]] == [14] * (len(ARMS) + 1)


def test_markdown_says_what_was_trained_and_what_was_found(drawn: Path) -> None:
    markdown = (drawn / "report.md").read_text(encoding="utf-8")
    assert "6 arms and dense tuned for as long, each trained with up to 3 seeds" in markdown
    assert "4 of 7 arms complete, 1 partial, 1 failed, 1 missing" in markdown
    assert "LoRA rank 8" in markdown
    assert "- Reproduced, 1 of 4 claims: All three parts together beat MoD" in markdown
    assert f"- Failed arms: {FAILED}." in markdown
    assert "| **+8.0** [+6.1, +9.9] | \\< 0.001 | +4.9 | ✓ reproduced |" in markdown
    assert "| +0.4 [−1.2, +2.0] | 0.620 | +1.0 | ? inconclusive |" in markdown
    assert "| 55.8 [54.4, 57.2] | **−9.0** [−10.6, −7.3] |" in markdown
    assert f"No losses of {MISSING}." in markdown
    assert markdown.index("## Claims") < markdown.index("## Arms") < markdown.index("## Accuracy")


def test_figures_have_their_numbers_beside_them(drawn: Path) -> None:
    for name in ("study_average", "study_benches", "study_losses"):
        for kind in ("svg", "png", "pdf", "csv"):
            assert (drawn / "figures" / f"{name}.{kind}").stat().st_size > 0
    with (drawn / "figures" / "study_average.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ours = {r["arm"]: r for r in rows if r["source"] == "ours"}
    papers = {r["arm"]: float(r["mean"]) for r in rows if r["source"] == "paper"}
    assert list(ours) == list(ARMS)
    assert ours[FIRST]["mean"] == "55.75" and ours[FIRST]["significant"] == "true"
    assert ours[FINE]["significant"] == "false"
    assert ours[FAILED]["mean"] == "" and ours[FAILED]["status"] == "failed"
    assert papers == {a: paper for a, (_, _, _, paper, _) in ARMS.items() if paper is not None}
    assert sum(r["source"] == "ours, one seed" for r in rows) == 4 * 3 + 2
    svg = (drawn / "figures" / "study_average.svg").read_text(encoding="utf-8")
    assert svg.count(">mini<") == 1  # ours carries the watermark, the paper's panel does not
    assert svg.count(">2 of 3 seeds<") == 1
    assert ">training overflow<" in svg


def test_arms_that_fell_short_are_visible(path: Path) -> None:
    found, notices = read(path)
    assert notices == ""
    arms = shown(studytables.arms(found))
    assert list(arms) == list(ARMS)
    assert arms[FAILED]["Accuracy"] == arms[FAILED]["gqa"] == "failed"
    assert arms[MISSING]["Accuracy"] == "not run"
    assert arms[MISSING]["Paper's value"] == "60.3"
    assert arms[HALF]["Seeds"] == "2 of 3"
    failures = studytables.failures(found)
    assert failures is not None
    listed = [[cell.main for cell in row] for row in failures.rows]
    assert [HALF, "seed 2", "failed", ERROR] in listed
    assert [FAILED, "seeds 0, 1 and 2", "failed", ERROR] in listed
    assert [MISSING, "whole arm", "not run", "no run (yet)"] in listed
    claims = studytables.claims(found)
    assert claims is not None
    assert claims.rows[2][0].note == f"{HALF}: partial, 2 of 3 seeds"
    assert claims.rows[3][0].note == f"{FAILED}: failed"


def test_bold_is_significant_and_nothing_else(path: Path) -> None:
    edit(path / "study_claims.csv", lambda r: r.update(p_adjusted="0.2") if r["p_value"] else None)
    claims = studytables.claims(read(path)[0])
    assert claims is not None
    assert not any(cell.strong for row in claims.rows for cell in row)
    assert claims.rows[0][4].main == "✓ reproduced"  # the verdict stays the file's
    arms = studytables.arms(read(path)[0])
    assert arms is not None
    bold = {row[0].main for row in arms.rows if any(cell.strong for cell in row)}
    assert bold == {FIRST, TANH, HALF}


def test_an_unknown_verdict_has_no_tone(path: Path) -> None:
    edit(path / "study_claims.csv", lambda r: r.update(verdict="likely"))
    found, _ = read(path)
    claims = studytables.claims(found)
    assert claims is not None
    assert {(row[4].main, row[4].tone) for row in claims.rows} == {("likely", "")}


@pytest.mark.parametrize("name", some(FILES, *[*FILES][::2]))
def test_missing_or_damaged_file_is_said(path: Path, name: str) -> None:
    (path / name).write_bytes(b"\xff\xfe\x00garbage")
    _, notices = read(path)
    assert name in notices
    (path / name).unlink()
    assert f"{name} is missing" in build_report(path).read_text(encoding="utf-8")


@pytest.mark.parametrize("names", [FILES, ("run.json",)])
def test_report_of_what_is_left(path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (path / name).unlink()
    html = build_report(path).read_text(encoding="utf-8")
    assert all(f"{name} is missing" in html for name in names)
    assert ("no verdicts (yet)" in html) == (names == FILES)


@pytest.mark.parametrize("cut", [1, 4, 40])
def test_cut_off_last_line_is_a_gap(path: Path, cut: int) -> None:
    whole = (path / "study.csv").read_text(encoding="utf-8")
    kept = whole[: whole.index(f"\n{FAILED}," if f"\n{FAILED}," in whole else f'\n"{FAILED}"') + 1]
    (path / "study.csv").write_text(kept[:-cut], encoding="utf-8")  # ends in the best arm's average
    found, notices = read(path)
    assert "study.csv: the last line is cut off" in notices
    assert not line(found, FINE).known
    assert line(found, FINE, "gqa").known
    assert line(found, FAILED).status == "failed"  # its runs still say so


def test_newer_columns_are_ignored(path: Path) -> None:
    for name in FILES:
        lines = (path / name).read_text(encoding="utf-8").splitlines()
        (path / name).write_text("".join(f"{x},{i or 'novel'}\n" for i, x in enumerate(lines)))
    meta = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(meta | {"schema_version": 99}))
    found, notices = read(path)
    assert "schema version 99" in notices
    assert line(found, FIRST).mean == 55.75


@pytest.mark.parametrize(
    ("column", "value", "notice"),
    [
        ("mean", "high", "1 value(s) of mean are no number"),
        ("mean", "155", "1 values of mean outside 0 to 100"),
        ("mean", "70", "1 averages that are not the mean of their benches"),
        ("ci_low", "99", "1 intervals off their value"),
        ("delta_ci_high", "-20", "1 difference intervals off their value"),
        ("delta", "-8.5", "1 differences that are not mean minus reference"),
        ("kv_ratio_vision", "1.5", "1 values of kv_ratio_vision outside 0 to 1"),
        ("seeds", "0", "1 means over no seed at all"),
        ("seeds", "", "the number of seeds is not recorded (vanilla MoD)"),
        ("status", "failed", "1 means of arms that are not done"),
    ],
)
def test_hand_edited_numbers_are_left_out(path: Path, column: str, value: str, notice: str) -> None:
    def change(row: dict[str, str]) -> None:
        if (row["arm"], row["bench"]) == (FIRST, "average"):
            row[column] = value

    edit(path / "study.csv", change)
    found, notices = read(path)
    one = line(found, FIRST)
    assert notice in notices
    assert one.known == (column in ("ci_low", "delta", "delta_ci_high", "kv_ratio_vision")
                         or (column, value) == ("seeds", ""))  # fmt: skip
    assert one.significant == (column in ("ci_low", "kv_ratio_vision") or value == "")


def test_seeds_on_another_scale_are_not_drawn(path: Path) -> None:
    def shares(row: dict[str, str]) -> None:
        if row["accuracy_average"]:
            row["accuracy_average"] = str(float(row["accuracy_average"]) / 100)

    edit(path / "study_runs.csv", shares)
    found, notices = read(path)
    assert "single seeds that study.csv contradicts" in notices
    assert all(run.accuracy != run.accuracy for arm in found.arms for run in arm.runs)


def test_an_arm_only_a_claim_names_is_missing_not_silent(path: Path) -> None:
    edit(path / "study_claims.csv", lambda r: r.update(worse="prune first"))
    found, notices = read(path)
    assert "prune first: named by a claim" in notices
    assert line(found, "prune first").status == "missing"


def test_losses_that_overflow_leave_a_curve_that_stops(path: Path) -> None:
    edit(path / "study_losses.csv",
         lambda r: r.update(loss="inf" if int(r["step"]) > 100 else r["loss"]))  # fmt: skip
    found, notices = read(path)
    assert "value(s) of loss are no number" in notices
    assert found.losses.dropna()["step"].max() == 100


def test_text_of_a_study_is_never_markup(path: Path) -> None:
    edit(path / "study_claims.csv", lambda r: r.update(claim="a<b>|$x_1$", reason="<i>&"))
    html = build_report(path).read_text(encoding="utf-8")
    assert "a&lt;b&gt;|$x_1$" in html and "<i>&" not in html
    assert "a\\<b\\>\\|\\$x_1\\$" in (path / "report.md").read_text(encoding="utf-8")
