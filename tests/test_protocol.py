"""The protocol of a run: its text, its place in the key, and runs of two that never mix."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.bench.answerboxes import Frame, reading
from harness.bench.benches import resolve_bench
from harness.bench.ocr import drawn_words
from harness.command.cli import main
from harness.common.errors import UsageError
from harness.common.protocol import (
    ASPECTS,
    BOXES,
    FAMILY,
    LMMS_EVAL,
    PROCESSOR,
    PROTOCOLS,
    TEMPLATES,
    Protocol,
)
from harness.families.catalog import FAMILIES
from harness.jobs.reuse import FLAG
from harness.model.asking import check_protocol
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.options.suites import load_suite
from harness.options.workload import parse_workload
from harness.timing.grid import TimingGrid
from tests.fakes import CONFIG, SHAPE, FakeBench, FakeRun, FakeSession, FakeSource, run

DENSE = methods.parse("dense")
PARTS: dict[str, Any] = {
    "protocol": "llava-1.5", "template": "vicuna_v1", "image_aspect": "pad", "ocr": True,
    "boxes": "image01",
}  # fmt: skip


# --- its text -----------------------------------------------------------------------------------
def test_the_text_is_the_same_for_the_same_parts_and_reads_back() -> None:
    every = [
        Protocol(*parts)
        for parts in itertools.product(
            TEMPLATES, (PROCESSOR, *ASPECTS), (False, True), (FAMILY, *BOXES)
        )
    ]
    assert all(Protocol.parse(str(one)) == one for one in every)
    assert len({str(one) for one in every}) == len(every)
    assert all(str(one) == name for name, (one, _) in PROTOCOLS.items())


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, "lmms-eval"),
        ({"image_aspect": "pad"}, "lmms-eval+aspect=pad"),
        ({"protocol": "llava-1.5", "image_aspect": "crop"}, "llava-1.5+aspect=crop"),
        ({"protocol": "llava-1.5", "image_aspect": "pad"}, "llava-1.5"),  # it says so itself
        ({"ocr": True}, "lmms-eval+ocr=yes"),
        (
            {"template": "vicuna_v1", "image_aspect": "pad", "ocr": True, "boxes": "frame01"},
            "llava-1.5",
        ),
        ({"protocol": "llava-1.5+ocr=no"}, "llava-1.5+ocr=no"),
    ],
)
def test_a_part_takes_the_place_of_the_same_part(given: dict[str, Any], shown: str) -> None:
    assert str(Settings(**given).asking) == shown


def test_flags_and_suites_say_the_same(tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("protocol: llava-1.5\nimage-aspect: crop\nocr: true\n")
    assert Settings(**load_suite(suite)).asking == Protocol.parse("llava-1.5+aspect=crop")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--protocol", "llava-15"], "did you mean 'llava-1.5'?"),
        (["--protocol", "llava-1.5+aspect=padd"], "did you mean 'pad'?"),
        (["--protocol", "llava-1.5+aspct=pad"], "did you mean 'aspect=...'?"),
        (["--image-aspect", "padd"], "did you mean 'pad'?"),
        (["--template", "vicuna"], "did you mean 'vicuna_v1'?"),
        (["--boxes", "pixel"], "did you mean 'pixels'?"),
        (["--ocr"], "--ocr: no question of gqa can name OCR tokens"),
        (["--protocol", "qwen-vl"], "tiny-llava (llava) does not answer boxes in pixels"),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_nothing_written(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["--methods", "fastv", "--bench", "gqa", "--out", str(out), *words]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and not out.exists()


def test_protocols_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "protocols"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PROTOCOLS)


@pytest.mark.parametrize(
    ("family", "words", "said"),
    [
        ("llava_next", "llava-1.5", "cuts an image into tiles: there is no --image-aspect"),
        ("llava_onevision", "lmms-eval+aspect=crop", "cuts an image into tiles"),
        ("internvl", "lmms-eval+aspect=pad", "cuts an image into tiles"),
        ("internvl", "lmms-eval+template=vicuna_v1", "has a word of its own for it"),
        ("qwen2_5_vl", "llava-1.5", "has a word of its own for it"),
        ("qwen2_5_vl", "lmms-eval+aspect=pad", "takes an image in its own shape"),
        ("qwen2_vl", "qwen-vl", "does not answer boxes in pixels"),
        ("llava", "qwen-vl", "does not answer boxes in pixels"),
    ],
)
def test_families_refuse_what_they_do_not_do(family: str, words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_protocol(Protocol.parse(words), FAMILIES[family], "mine")
    assert said in str(caught.value) and f"--protocol {words}" in str(caught.value)


def test_a_part_is_given_once() -> None:
    with pytest.raises(UsageError, match="'boxes' stands twice"):
        Protocol.parse("lmms-eval+boxes=family+boxes=frame01")


def test_families_take_what_they_do() -> None:
    for family in FAMILIES.values():
        check_protocol(LMMS_EVAL, family, "mine")
    check_protocol(PROTOCOLS["qwen-vl"][0], FAMILIES["qwen2_5_vl"], "mine")
    for name in ("llava", "llava_hr", "mini_gemini_hd", "moe_llava"):
        check_protocol(PROTOCOLS["llava-1.5"][0], FAMILIES[name], "mine")


# --- a run --------------------------------------------------------------------------------------
@dataclasses.dataclass
class AskedSource(FakeSource):
    family: Any = FAMILIES["llava"]


class AskedSession(FakeSession):
    by: Protocol | None = None

    def asked_by(self, protocol: Protocol) -> AskedSession:
        self.by = protocol
        return self


class AskedBench(FakeBench):
    takes_ocr = True

    def with_ocr(self) -> AskedBench:
        return dataclasses.replace(self, task_version=f"{self.task_version}+ocr")


class AskedRun(FakeRun):
    def __init__(self) -> None:
        super().__init__()
        self.model = AskedSource()

    def bench(self, name: str, source: Any) -> Any:
        return AskedBench(name)

    def load(self, show: Any) -> Any:
        self.given = AskedSession()
        return self.given


def ids(out: Path) -> set[str]:
    return {row["cell_id"] for row in rows(out / "cells.csv")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_part_makes_other_cells(tmp_path: Path) -> None:
    found: set[str] = set()
    for name, value in {"": None, **PARTS}.items():
        job = AskedRun()
        given: dict[str, Any] = {name: value} if name else {}
        assert run(tmp_path / f"run{name}", job, methods=("fastv",), bench=("gqa",), **given) == 0
        new = ids(tmp_path / f"run{name}")
        assert len(new) == 2 and not found & new
        found |= new
        by = Settings(**given).asking
        assert job.given.by == (by if name else None)  # the model is asked so
        shown = {row["protocol"] for row in rows(tmp_path / f"run{name}" / "cells.csv")}
        assert shown == {str(by)}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same cells, asked by lmms-eval and by LLaVA's protocol; nobody writes to them."""
    folder = tmp_path_factory.mktemp("two")
    a, b = folder / "a", folder / "b"
    assert run(a, AskedRun()) == 0
    assert run(b, AskedRun(), protocol="llava-1.5") == 0
    return a, b


def test_a_run_names_its_protocol_everywhere(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, name in zip(two, ("lmms-eval", "llava-1.5"), strict=True):
        assert json.loads((path / "run.json").read_text())["protocol"] == name
        for file in ("cells.csv", "accuracy.csv"):
            assert {row["protocol"] for row in rows(path / file)} == {name}
        out = tmp_path / f"drawn-{name}"
        assert main(["--plots-only", str(path), "--out", str(out)]) == 0
        assert f"protocol {name};" in " ".join(capsys.readouterr().err.split())  # the final table
        assert f"| Protocol | {name} |" in (out / "report.md").read_text()


def test_another_protocol_does_not_resume_a_run(two: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"made with --protocol llava-1\.5, now it is no --prot"):
        run(two[1], AskedRun())
    job = AskedRun()  # the same, said by its parts
    parts = {"template": "vicuna_v1", "image_aspect": "pad", "ocr": True, "boxes": "frame01"}
    assert run(two[1], job, **parts) == 0 and not job.computed


def test_answers_of_another_protocol_are_not_reused(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = AskedRun()
    assert run(tmp_path / "c", job, protocol="llava-1.5", reuse=(str(two[0]),), quiet=False) == 0
    assert len(job.computed) == 6
    said = capsys.readouterr().err
    assert f"{FLAG}: {two[0]} has no cell of this run: its protocol differs" in said


def test_runs_of_two_protocols_do_not_merge(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *map(str, two), "--out", str(tmp_path / "all")]) == 2
    assert "was made with --protocol llava-1.5" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


def test_diff_names_the_protocols_at_the_columns(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more"
    given: dict[str, Any] = {"protocol": "llava-1.5", "methods": ("fastv", "uniform")}
    assert run(more, AskedRun(), **given) == 0
    page = tmp_path / "diff.md"
    assert main(["--diff", str(two[0]), str(more), "--out", str(page)]) == 0
    text = page.read_text()
    assert "| Method | Bench | A: lmms-eval | B: llava-1.5 |" in text
    assert "Protocol: lmms-eval → llava-1.5" in text
    assert "not compared: the runs were asked by other protocols" in text
    assert "| Row | Against |" not in text  # random of A is not held against uniform of B
    capsys.readouterr()
    assert main(["--diff", str(two[0]), str(more), "--against", "uniform"]) == 2
    assert "asked by the protocol lmms-eval" in capsys.readouterr().err
    one, other = two[1], more  # alike: nothing is said of it
    assert main(["--diff", str(one), str(other), "--out", str(page)]) == 0
    assert "| Method | Bench | A | B |" in page.read_text()
    assert "| Row | Against |" in page.read_text()


def test_times_of_documents_depend_on_how_they_are_asked() -> None:
    def timed(work: str, **given: Any) -> str:
        grid = TimingGrid(
            Settings(**given), (DENSE,), (), "fake", SHAPE, CONFIG, FakeSource(),
            Runtime("cpu", "float32", "sdpa"), "cpu",
        )  # fmt: skip
        return grid.cell_id(DENSE, parse_workload(work), "sdpa", "ee")

    asks, synthetic = "bench=gqa:n_out=4:batch=1", "n_text=9:n_out=4:batch=1"
    assert timed(asks) != timed(asks, template="vicuna_v1")
    assert timed(synthetic) == timed(synthetic, template="vicuna_v1")


def test_mixed_rows_in_one_folder_are_said(two: tuple[Path, Path], tmp_path: Path) -> None:
    from reports.build import build_report

    mixed = tmp_path / "mixed"
    shutil.copytree(two[0], mixed)
    text = (mixed / "cells.csv").read_text()
    (mixed / "cells.csv").write_text(text.replace("lmms-eval", "llava-1.5", 1))
    build_report(mixed, tmp_path / "drawn")
    assert "mixed protocol (llava-1.5, lmms-eval)" in (tmp_path / "drawn/report.md").read_text()


# --- OCR tokens and boxes -----------------------------------------------------------------------
def test_which_benches_can_name_ocr_tokens() -> None:
    assert [resolve_bench(name, "mini").takes_ocr for name in ("textvqa", "gqa", "docvqa")] == [
        True, False, False,
    ]  # fmt: skip
    bench = resolve_bench("textvqa", "mini")
    assert bench.with_ocr().task_version == f"{bench.task_version}+ocr"
    gqa = resolve_bench("gqa", "mini")
    assert gqa.with_ocr() is gqa


def test_drawn_words_from_top_to_bottom_as_drawn() -> None:
    def box(kind: str, label: str, at: list[int], **attrs: str) -> dict[str, Any]:
        return {"kind": kind, "label": label, "box": at, "attrs": attrs}

    boxes = [
        box("word", "low", [5, 90, 9, 95], case="lower"), box("object", "cat", [0, 0, 9, 9]),
        box("word", "right", [50, 10, 60, 20], case="title"),
        box("word", "left", [5, 10, 20, 20], case="upper"),
    ]  # fmt: skip
    assert drawn_words(json.dumps(boxes)) == ["LEFT", "Right", "low"]


@pytest.mark.parametrize(("width", "height"), [(640, 427), (427, 640), (100, 100)])
def test_the_frame_maps_invert_each_other(width: int, height: int) -> None:
    """From the image to the padded square by the published formula, and back."""
    side = max(width, height)
    left, top = (side - width) / 2, (side - height) / 2
    box = (0.1, 0.2, 0.55, 0.9)
    x0, x1 = ((x * width + left) / side for x in box[::2])
    y0, y1 = ((y * height + top) / side for y in box[1::2])
    padded = Frame((-left, -top, width + left, height + top))
    assert padded.shares((x0, y0, x1, y1), width, height) == pytest.approx(box)
    resized = (644, 420)
    pixels = tuple(v * resized[i % 2] for i, v in enumerate(box))
    whole = Frame((0, 0, width, height), resized)
    assert whole.shares(pixels, width, height) == pytest.approx(box)


def test_which_reading_a_protocol_means() -> None:
    assert reading(FAMILY, True) == "frame01"
    assert reading(FAMILY, False) == ""  # not known, and said so
    assert [reading(one, True) for one in BOXES] == list(BOXES)


def test_ocr_in_the_text_of_a_protocol_is_refused_where_nothing_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--bench", "gqa", "--methods", "fastv", "--protocol", "lmms-eval+ocr=yes"]
    assert main([*words, "--out", str(tmp_path / "r")]) == 2
    assert "--ocr: no question of gqa can name OCR tokens" in capsys.readouterr().err
