"""--analyse on the command line: end to end on the shipped model, resumed, refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.bench.loop import evaluate
from harness.command.cli import main, parse
from harness.common.errors import CellError, UsageError
from harness.jobs.analyses import FILES
from harness.jobs.benchmarks import Benchmarks
from harness.jobs.runner import run as run_job
from harness.layers import damage
from harness.options.settings import Settings
from tests.fakes import FakeReferees, run

ARGV = ["--methods", "dense", "--bench", "gqa", "--limit", "4", "--batch-size", "4"]
ANALYSE = ["--analyse", "plan,damage,arank", "--analyse-samples", "2"]


class Counting(Benchmarks):
    """Counts the cells and probes that were answered."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__(Settings(), [])
        self.answered: list[str] = []
        self.stop_after = stop_after

    def counters(self) -> Any:
        return FakeReferees()

    def evaluate(self, session: Any, method: Any, bench: Any, **options: Any) -> Any:
        if self.stop_after is not None and len(self.answered) >= self.stop_after:
            raise KeyboardInterrupt
        self.answered.append(method.label)
        return evaluate(session, method, bench, **options)


def go(out: Path, job: Benchmarks, more: Sequence[str] = ANALYSE) -> int:
    argv = [*ARGV, *more, "--quiet", "--out", str(out)]
    job.settings, job.argv = parse(argv)[1], argv
    return run_job(job)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped among its probes and resumed."""
    out = tmp_path_factory.mktemp("runs") / "layers"
    stopped = Counting(stop_after=6)
    assert go(out, stopped) == 130
    resumed = Counting()
    assert go(out, resumed) == 0
    # The cell and four probes were kept; dense is asked again for its answers.
    assert resumed.answered[:2] == ["dense", "skip-layer at=4"]
    assert len(resumed.answered) == 1 + 24 - 4 + 1 + 8
    return out


def test_every_file_is_there_with_all_layers(finished: Path) -> None:
    for files in FILES.values():
        assert all((finished / file).is_file() for file in files)
    assert not (finished / "partial").exists() or not list((finished / "partial").rglob("*.csv"))
    arank = rows_of(finished / "arank.csv")
    columns = ["model", "bench", "variant", "layer", "n_samples", "arank", "arank_std"]
    assert list(arank[0])[:7] == columns
    assert {(r["variant"], int(r["layer"])) for r in arank} == {
        (v, i) for v in ("logits", "probs") for i in range(12)
    }
    assert sum(int(r["dense"]) for r in arank if r["variant"] == "probs") == 4
    assert all(float(r["seconds"]) > 0 for r in arank)
    heads = [r for r in rows_of(finished / "arank_heads.csv") if r["variant"] == "probs"]
    first = [float(r["arank"]) for r in heads if r["layer"] == "0"]
    assert len(first) == 6
    assert sum(first) / 6 == pytest.approx(float(next(
        r["arank"] for r in arank if r["variant"] == "probs" and r["layer"] == "0"
    )))  # fmt: skip


def test_the_exact_tokens_are_written_down(finished: Path) -> None:
    for row in rows_of(finished / "analysis_documents.csv"):
        parts = [part.partition("*") for part in row["tokens"].split()]
        assert sum(int(count or 1) for _, _, count in parts) == int(row["n_tokens"])
        assert max(int(count or 1) for _, _, count in parts) == int(row["n_image"]) == 144


def test_damage_is_the_difference_of_what_it_names(finished: Path) -> None:
    samples = rows_of(finished / "damage_samples.csv")
    assert len(samples) == 2 * 12 * 2
    for row in rows_of(finished / "damage.csv"):
        mine = [s for s in samples if all(s[c] == row[c] for c in ("probe", "layer"))]
        rise = [float(s["nll"]) - float(s["dense_nll"]) for s in mine]
        assert float(row["nll_increase"]) == pytest.approx(sum(rise) / 2)
        drop = [float(s["dense_score"]) - float(s["score"]) for s in mine]
        assert float(row["drop"]) == pytest.approx(sum(drop) / 2)
    # Without its first layer the model knows nothing.
    zero = next(s for s in samples if s["probe"] == "skip-layer" and s["layer"] == "0")
    assert float(zero["nll"]) > float(zero["dense_nll"]) + 1


def test_plans_meet_the_budget_on_documents_they_were_not_made_on(finished: Path) -> None:
    plans = rows_of(finished / "plans.csv")
    names = ["prd", "constant", "gamma-default", "fastv", "arank-top4", "arank"]
    assert [row["plan"] for row in plans] == [*names, "skip-layer", "half-image"]
    used = {row["image_id"] for row in rows_of(finished / "analysis_documents.csv")}
    left = [
        row
        for path in (finished / "samples").glob("*.csv")
        for row in rows_of(path)
        if row["image_id"] not in used
    ]
    for row in plans:
        assert int(row["n"]) == len(left) > 0
        assert float(row["kv_planned"]) == pytest.approx(0.5375, abs=1e-4)
        assert float(row["kv_measured"]) == pytest.approx(0.5375, abs=0.5 / 144)


def test_correlations_name_measures_and_damage(finished: Path) -> None:
    rows = rows_of(finished / "layer_correlation.csv")
    found = {(r["x"], r["y"]) for r in rows if r["kind"] == "with damage"}
    assert {x for x, _ in found} == {"logits", "probs", "block_influence", "cosine"}
    assert {y for _, y in found} == {
        f"{p} {d}" for p in ("skip-layer", "half-image") for d in ("drop", "nll_increase")
    }


def test_finished_analyses_are_kept_and_settings_recorded(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*.csv")}
    again = Counting()
    assert go(finished, again) == 0
    assert again.answered == []
    after = {path: path.stat().st_mtime_ns for path in finished.glob("*.csv")}
    for names in FILES.values():
        assert all(before[finished / name] == after[finished / name] for name in names)
    settings = json.loads((finished / "run.json").read_text())["settings"]
    assert settings["analyse"] == ["arank", "damage", "plan"]
    assert settings["analyse_samples"] == 2
    assert main([*ARGV, "--out", str(finished)]) == 2
    assert "was made with --analyse arank,damage,plan" in capsys.readouterr().err


def test_the_report_shows_them(finished: Path) -> None:
    html = (finished / "report.html").read_text(encoding="utf-8")
    assert "Layer redundancy" in html and "Plans at one KV budget" in html
    for name in ("arank_probs", "arank_logits", "layer_damage"):
        for kind in ("svg", "png", "csv"):
            assert (finished / "figures" / f"{name}.{kind}").is_file()


def test_a_run_without_analyses_records_none_and_has_no_section(tmp_path: Path) -> None:
    assert run(tmp_path / "run") == 0
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert not [name for name in settings if name.startswith("analyse")]
    assert "Layer redundancy" not in (tmp_path / "run/report.html").read_text()


def test_a_failed_analysis_is_one_line_and_leaves_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> list[Any]:
        raise CellError("no documents")

    monkeypatch.setattr(damage, "_documents", broken)
    assert go(tmp_path / "run", Counting(), ["--analyse", "damage"]) == 3
    assert "analysis damage failed: no documents" in capsys.readouterr().err
    stamps = json.loads((tmp_path / "run/analysis.json").read_text())
    assert stamps == {"damage": {"error": "no documents"}}
    assert (tmp_path / "run/accuracy.csv").is_file() and (tmp_path / "run/report.html").is_file()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--analyse", "rank"], "unknown analysis 'rank'"),
        (["--analyse", "plan"], "made from arank or damage"),
        (["--analyse", "arank,plan", "--analyse-samples", "9"], "a larger --limit"),
        (["--analyse", "arank", "--analyse-samples", "0"], "at least 1"),
        (["--analyse", "arank", "--analyse-kv", "1.5"], "at most 1"),
        (["--analyse-samples", "9"], "has no meaning without --analyse"),
    ],
)
def test_wrong_wishes_are_one_line(more: list[str], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([*ARGV, *more])
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_analyses_need_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--costs-only", "--methods", "pmod", "--analyse", "arank"]) == 2
    assert "--analyse has no meaning with --costs-only" in capsys.readouterr().err
