"""--slice hard: the rule, what is tested and what is not, the files, the report's section."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from scipy.stats import binomtest

from harness.bench.pixels import fewer_pixels, in_whole
from harness.common.errors import UsageError
from harness.jobs.derive import run_derive
from harness.jobs.grid import Grid
from harness.options.settings import Settings
from harness.readouts.controls import Contender
from harness.readouts.fronts import Subject
from harness.readouts.hard import Hard
from harness.store import columns
from harness.store.csvfile import read_rows
from methods import PROBE, REGISTRY, MethodError, parse, register_file
from methods.quarter import Quarter
from reports import hard as page
from reports.build import build_report
from reports.rundata import load_run
from reports.summary import summarise
from tests.fakes import FakeRun, derived, run

DOCS = [str(i) for i in range(60)]


def subject(label: str, scores: list[float], bench: str = "gqa", better: bool = True) -> Subject:
    about = dict.fromkeys(columns.CELL, "") | {
        "cell_id": f"{label}/{bench}", "method": label.split()[0], "label": label, "bench": bench,
        "params": "{}",
    }  # fmt: skip
    images = {doc: f"i{doc}" for doc in DOCS}
    return Subject(about, "score", dict(zip(DOCS, scores, strict=True)), better, {}, images)


def row(label: str, scores: list[float], kv: float = 0.5, **more: Any) -> Contender:
    return Contender(subject(label, scores, **more), kv, "compact" if kv < 1 else "")


def scores(right: Any, value: float = 1.0) -> list[float]:
    chosen = set(right)
    return [value * (i in chosen) for i in range(len(DOCS))]


def made(rows: list[Contender], quarter: Subject) -> tuple[list[dict[str, Any]], dict[str, str]]:
    found = Hard(0)
    found.update(rows, [quarter])
    return found.rows(), {one["doc_id"]: one["slice"] for one in found.documents()}


def of(rows: list[dict[str, Any]], label: str, part: str = "hard") -> dict[str, Any]:
    (found,) = [r for r in rows if (r["label"], r["slice"]) == (label, part)]
    return found


# --- the rule
def test_a_constructed_case_counted_by_hand() -> None:
    """Dense 0-39; at a quarter 12-45: 12 hard, 28 kept, 6 gained, 14 wrong at both."""
    rows, parts = made(
        [
            row("dense", scores(range(40)), 1.0),
            row("good", scores(range(2, 60))),
            row("downsample", scores(range(20, 40))),
        ],
        subject(PROBE, scores(range(12, 46))),
    )
    counts = {name: list(parts.values()).count(name) for name in page.PARTS}
    assert counts == {"hard": 12, "kept": 28, "gained": 6, "wrong": 14}
    assert {d for d, part in parts.items() if part == "hard"} == {str(i) for i in range(12)}
    dense, good, small = (of(rows, name) for name in ("dense", "good", "downsample"))
    assert (dense["n"], dense["value"], dense["quarter_value"]) == (12, 1.0, 0.0)
    assert "delta" not in dense and "p_value" not in dense
    assert good["value"] == pytest.approx(10 / 12) == good["dense_value"] + good["delta"]
    assert (good["control_label"], good["control_value"]) == ("downsample", 0.0)
    assert good["control_delta"] == pytest.approx(10 / 12)
    assert good["p_value"] == pytest.approx(binomtest(10, 10).pvalue)
    assert (good["p_adjusted"], good["verdict"]) == (good["p_value"], "above")
    assert "verdict" not in small  # a control is not judged
    rest = of(rows, "good", "rest")
    assert (rest["n"], rest["value"], rest["dense_value"]) == (48, 1.0, pytest.approx(28 / 48))
    assert rest["delta"] > 0 > good["delta"]  # the same choice, seen from both sides


def test_nine_documents_get_numbers_and_no_verdict_and_ten_do() -> None:
    for n, told in ((9, False), (10, True)):
        rows, _ = made(
            [row("dense", scores(range(n)), 1.0), row("good", scores(range(n))),
             row("downsample", scores([]))],
            subject(PROBE, scores([])),
        )  # fmt: skip
        one = of(rows, "good")
        assert (one["n"], one["value"], one["control_delta"]) == (n, 1.0, 1.0)
        assert ("verdict" in one, "ci_low" in one, "p_value" in one) == (told, told, told)


def test_an_empty_slice_has_a_row_of_zero_documents() -> None:
    rows, parts = made(
        [row("dense", scores(range(30)), 1.0), row("good", scores(range(30)))],
        subject(PROBE, scores(range(30))),
    )
    assert "hard" not in parts.values()
    assert (of(rows, "good")["n"], of(rows, "good").get("value")) == (0, None)


@pytest.mark.parametrize("top", [1.0, 100.0])
def test_soft_scores_count_from_half_of_the_full_mark(top: float) -> None:
    dense = [1.0, 0.6, 0.5, 0.49, 0.3] + [0.0] * 55
    quarter = [0.5, 0.49, 0.3, 0.6, 0.3] + [0.0] * 55
    _, parts = made(
        [row("dense", [top * s for s in dense], 1.0)], subject(PROBE, [top * s for s in quarter])
    )
    assert [parts[str(i)] for i in range(6)] == ["kept", "hard", "hard", "gained", *["wrong"] * 2]


def test_less_is_better_has_no_slice_and_no_control_no_verdict() -> None:
    bad = {"better": False}
    assert made(
        [row("dense", scores(range(9)), 1.0, **bad)], subject(PROBE, scores([]), **bad)
    ) == (
        [],
        {},
    )
    rows, _ = made(
        [row("dense", scores(range(30)), 1.0), row("good", scores(range(30))),
         row("downsample", scores([]), kv=0.25)],
        subject(PROBE, scores([])),
    )  # fmt: skip
    assert "p_value" not in of(rows, "good") and of(rows, "good")["control_label"] == ""


def test_holm_is_over_all_methods_and_benches() -> None:
    rows = [
        one
        for bench in ("gqa", "pope")
        for one in (
            row("dense", scores(range(30)), 1.0, bench=bench),
            row("good", scores(range(6)), bench=bench),
            row("downsample", scores([]), bench=bench),
        )
    ]
    found = Hard(0)
    found.update(rows, [subject(PROBE, scores([]), bench=b) for b in ("gqa", "pope")])
    told = [one for one in found.rows() if one["slice"] == "hard" and "p_value" in one]
    assert [one["p_value"] for one in told] == [pytest.approx(0.03125)] * 2
    assert [one["p_adjusted"] for one in told] == [pytest.approx(0.0625)] * 2
    assert {one["verdict"] for one in told} == {"not above"}  # alone, each would be above


# --- a quarter of the pixels
class Processor:
    """An image processor's settings."""

    do_resize = True

    def __init__(self, size: dict[str, int], **more: Any) -> None:
        self.size = size
        vars(self).update(more)


CLIP = {"shortest_edge": 336}
SQUARE = {"height": 384, "width": 384}
PIXELS = {"shortest_edge": 3136, "longest_edge": 1_000_000}


@pytest.mark.parametrize(
    ("size", "processor", "wanted"),
    [
        ((640, 480), Processor(CLIP), (224, 168)),  # 336 of 480 are kept, then half
        ((200, 100), Processor(CLIP), (100, 50)),  # smaller than the tower's square: half
        ((672, 336), Processor(CLIP, do_pad=True), (168, 84)),
        ((768, 768), Processor(SQUARE), (192, 192)),
        ((2000, 2000), Processor(PIXELS, patch_size=14, merge_size=2), (500, 500)),
        ((500, 500), Processor(PIXELS, patch_size=14, merge_size=2), (250, 250)),
        ((900, 900), Processor(CLIP, image_grid_pinpoints=[[672, 672]]), (450, 450)),
        ((1, 1), Processor(CLIP), (1, 1)),
    ],
)
def test_a_quarter_of_what_the_processor_keeps(
    size: tuple[int, int], processor: Processor, wanted: tuple[int, int]
) -> None:
    assert fewer_pixels(Image.new("RGB", size), 0.25, processor).size == wanted


def test_boxes_are_those_of_the_whole_image() -> None:
    grids = [{"number": 0, "image": [50, 100], "box": [25, 0, 75, 50]}, {"rows": 2}]
    in_whole(grids, [(100, 200)])
    assert grids == [{"number": 0, "image": [100, 200], "box": [50, 0, 150, 100]}, {"rows": 2}]


def test_it_is_no_method_to_choose(tmp_path: Path) -> None:
    assert PROBE not in REGISTRY
    with pytest.raises(MethodError, match="unknown method"):
        parse(PROBE)
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from dataclasses import dataclass\nfrom methods.base import Method\n\n"
        "@dataclass(frozen=True)\nclass Mine(Method):\n    name = 'quarter'\n"
    )
    with pytest.raises(MethodError, match="'quarter' is taken"):
        register_file(str(mine))


# --- a run
ASKED = {"methods": ("fastv:kv=0.5", "downsample:kv=0.5:positions=original"), "limit": 80}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run without it, and the same one gone on with it."""
    plain = tmp_path_factory.mktemp("hard") / "plain"
    assert run(plain, **ASKED) == 0
    sliced = Path(shutil.copytree(plain, plain.with_name("sliced")))
    job = FakeRun()
    assert run(sliced, job, slice="hard", **ASKED) == 0
    assert job.computed == ["quarter gqa", "quarter pope"]
    return plain, sliced


@pytest.fixture
def sliced(runs: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs[1], tmp_path / "run"))


def test_a_run_has_the_tables_and_all_others_stay_as_they_are(runs: tuple[Path, Path]) -> None:
    plain, sliced = runs
    assert derived(sliced) == derived(plain)
    assert not (plain / "hard.csv").exists()
    rows, docs = read_rows(sliced / "hard.csv"), read_rows(sliced / "slices.csv")
    assert list(rows[0]) == list(columns.HARD) and list(docs[0]) == list(columns.SLICES)
    assert {(r["label"], r["bench"]) for r in rows if r["slice"] == "hard"} == {
        (label, bench)
        for label in ("dense", "fastv kv=0.5", "downsample kv=0.5 positions=original")
        for bench in ("gqa", "pope")
    }
    scored = {
        name: {
            r["doc_id"]: float(r["score"]) for r in read_rows(sliced / "samples" / f"{cell}.csv")
        }
        for name, cell in (
            (r["method"], r["cell_id"])
            for r in read_rows(sliced / "cells.csv")
            if r["bench"] == "gqa"
        )
    }
    hard = {d for d, s in scored["dense"].items() if s >= 0.5 > scored[PROBE][d]}
    assert {r["doc_id"] for r in docs if (r["bench"], r["slice"]) == ("gqa", "hard")} == hard
    assert len(hard) >= 10
    one = next(r for r in rows if (r["method"], r["slice"], r["bench"]) == ("fastv", "hard", "gqa"))
    ours = [scored["fastv"][doc] for doc in hard]
    assert (int(one["n"]), float(one["value"])) == (len(hard), pytest.approx(sum(ours) / len(ours)))


def test_the_same_command_again_does_no_work(sliced: Path) -> None:
    before = (sliced / "hard.csv").read_bytes()
    again = FakeRun()
    assert run(sliced, again, slice="hard", **ASKED) == 0
    assert again.loads == 0 and (sliced / "hard.csv").read_bytes() == before


def test_derive_makes_the_tables_again(sliced: Path) -> None:
    names = ("hard.csv", "slices.csv", "accuracy.csv")
    before = [(sliced / name).read_bytes() for name in names]
    for name in names:
        (sliced / name).unlink()
    assert run_derive(str(sliced), quiet=True) == 0
    assert [(sliced / name).read_bytes() for name in names] == before


def test_it_is_no_row_to_hold_others_against(sliced: Path) -> None:
    """Once written down, no report could be drawn any more."""
    before = (sliced / "run.json").read_bytes()
    with pytest.raises(UsageError, match="unknown row 'quarter'"):
        run_derive(str(sliced), quiet=True, against=[PROBE])
    assert (sliced / "run.json").read_bytes() == before


def test_a_probe_that_fails_is_said_and_takes_no_other_row_along(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    shutil.copytree(runs[0], tmp_path, dirs_exist_ok=True)
    job = FakeRun(fail={PROBE: ValueError("no picture")})
    assert run(tmp_path, job, slice="hard", **ASKED) == 3
    assert len(read_rows(tmp_path / "accuracy.csv")) > 0
    found = page.section(summarise(load_run(tmp_path)))
    assert found is not None and not found.tables
    assert "No slice of gqa" in found.intro and "no picture" in found.intro


def test_a_run_goes_on_without_it_and_with_it_again(
    runs: tuple[Path, Path], sliced: Path, tmp_path: Path
) -> None:
    before = (sliced / "hard.csv").read_bytes()
    assert run(sliced, **ASKED) == 0
    assert derived(sliced) == derived(runs[0]) and not read_rows(sliced / "hard.csv")
    assert page.section(summarise(load_run(sliced))) is None
    again = FakeRun()
    assert run(sliced, again, slice="hard", **ASKED) == 0
    assert again.loads == 0 and (sliced / "hard.csv").read_bytes() == before
    lost = Path(shutil.copytree(runs[0], tmp_path / "lost"))
    assert run(lost, FakeRun(fail={PROBE: ValueError("no")}), slice="hard", **ASKED) == 3
    assert run(lost, **ASKED) == 0
    assert page.section(summarise(load_run(lost))) is None


def test_its_weights_are_not_among_those_that_a_run_must_agree_on(tmp_path: Path) -> None:
    key = SimpleNamespace(weights={"checkpoint": {"model.safetensors": "1"}})
    cells = [
        SimpleNamespace(method=method, checkpoint=tmp_path, key=key)
        for method in (parse("dense"), Quarter())
    ]
    grid = Grid(Settings(), None, None, tuple(cells))  # type: ignore[arg-type]
    assert list(grid.checkpoints) == ["dense"]


def test_a_bench_without_a_slice_says_so(sliced: Path) -> None:
    path = sliced / "slices.csv"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(x for x in lines if not x.startswith("pope,")), encoding="utf-8")
    found = page.section(summarise(load_run(sliced)))
    assert found is not None and "No slice of pope: dense has no scores" in found.intro


# --- the report
def test_the_report_shows_counts_and_rows(sliced: Path) -> None:
    (sliced / "report.html").unlink()
    build_report(sliced)
    text = (sliced / "report.html").read_text()
    assert page.TITLE in text
    assert "quarter gqa" not in text and ">quarter<" not in text  # no row of any table
    summary = summarise(load_run(sliced))
    assert PROBE not in {series.method for series in summary.series}
    found = page.section(summary)
    assert found is not None
    counts, gqa, _ = found.tables
    docs = read_rows(sliced / "slices.csv")
    first = [cell.main for cell in counts.rows[0]]
    assert first == ["gqa", "80", *(
        str(sum((d["bench"], d["slice"]) == ("gqa", part) for d in docs)) for part in page.PARTS
    )]  # fmt: skip
    names = [cells[0].main for cells in gqa.rows]
    assert len(names) == 3 and "dense" in names[0]
    assert "the other way round" in page.sentences(summary)[0]


def test_a_verdict_without_its_numbers_is_left_out(sliced: Path) -> None:
    path = sliced / "hard.csv"
    rows = read_rows(path)
    for one in rows:
        one.update(verdict="above", p_adjusted="")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    summary = summarise(load_run(sliced))
    assert not any("Above downsample" in line for line in page.sentences(summary))
    assert any("without its numbers" in line for line in summary.run.notices)


def test_a_run_without_it_has_no_section(runs: tuple[Path, Path]) -> None:
    summary = summarise(load_run(runs[0]))
    assert page.section(summary) is None and page.sentences(summary) == []
