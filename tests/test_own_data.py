"""Own data: the documented example end to end, what files may hold, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.bench.benches import resolve_bench
from harness.bench.own.bench import OwnBench
from harness.command.cli import main
from harness.common.conditions import BAD_ROWS
from harness.common.roots import ROOT
from harness.options.validators import benches
from tests.fakes import without_counters
from tests.fixtures.bad_input import line_of

PAGE = (ROOT / "docs/own-data.md").read_text(encoding="utf-8")
PICTURES = ROOT / "docs/own-data"
GOOD = {"image": "a.png", "question": "What?", "answer": "x"}


def block(suffix: str) -> str:
    """The page's example as a file with this suffix."""
    language = {"json": "json", "csv": "text"}[suffix]
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found.group(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images: `a.png` of 40 by 30 pixels, and `b.png`."""
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "b.png")
    return tmp_path


def write(folder: Path, *rows: Any, name: str = "q.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def own(path: Path, *allow: str) -> OwnBench:
    bench = resolve_bench(str(path), allow=allow)
    assert isinstance(bench, OwnBench)
    return bench


# --- the page -------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's two files as a user saves them, beside its pictures, answered."""
    folder = tmp_path_factory.mktemp("own")
    for picture in PICTURES.glob("*.png"):
        shutil.copy(picture, folder)
    for language in ("json", "csv"):
        (folder / f"questions.{language}").write_text(block(language), encoding="utf-8")
    files = f"{folder}/questions.json,{folder}/questions.csv"
    argv = ["--methods", "random", "--bench", files, "--limit", "4", "--out", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch:
        without_counters(patch)
        assert main([*argv, "--quiet"]) == 0
    return folder / "run"


def table(run: Path, name: str) -> list[dict[str, str]]:
    with (run / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def samples(run: Path, bench: str, method: str = "dense") -> list[dict[str, str]]:
    rows = table(run, "cells.csv")
    (cell,) = [r for r in rows if (r["bench"], r["method"]) == (bench, method)]
    return table(run, f"samples/{cell['cell_id']}.csv")


def test_page_shows_the_files_that_ship() -> None:
    for language in ("json", "csv"):
        shipped = PICTURES / f"questions.{language}"
        assert block(language) == shipped.read_text(encoding="utf-8")
        name, shown = own(shipped).data_source.split("@")
        assert name.endswith(".csv") or f"`own: {name}, {shown}`" in PAGE


def test_example_is_answered_and_scored(run: Path) -> None:
    cells = table(run, "cells.csv")
    assert {(r["data"], r["status"], r["n"]) for r in cells} == {("own", "done", "4")}
    assert all(re.fullmatch(r"questions\.\w+@[0-9a-f]{12}", r["data_source"]) for r in cells)
    found = samples(run, "questions.json")
    assert [r["doc_id"] for r in found] == ["square-color", "square-shape", "sign", "more"]
    assert [r["n_images"] for r in found] == ["1", "1", "1", "2"]
    said = [(r["prediction"], r["score"]) for r in found]
    assert said == [(r["prediction"], r["score"]) for r in samples(run, "questions.csv")]
    assert (found[0]["score"] == "1.0") == (found[0]["prediction"].strip(".").lower() == "red")
    scores = [float(r["score"]) for r in found]
    rows = [r for r in table(run, "accuracy.csv") if r["bench"] == "questions.json"]
    dense = {r["metric"]: float(r["value"]) for r in rows if r["method"] == "dense"}
    assert list(dense) == ["score", "exact_match", "choice_accuracy", "contains"]
    assert dense["score"] == sum(scores) / 4
    assert dense["exact_match"] == (scores[0] + scores[3]) / 2


def test_report_and_evidence_know_own_data(run: Path) -> None:
    report = (run / "report.md").read_text(encoding="utf-8")
    assert re.search(r"own: questions\.json, [0-9a-f]{12}", report)
    assert str(run.parent) not in re.sub(r"run_suite\.py .*", "", report)
    recall = [r for r in table(run, "evidence.csv") if r["bench"] == "questions.json"]
    assert recall and {r["n"] for r in recall} == {"1"}  # the one row with a box


@pytest.mark.usefixtures("uncounted")
def test_run_is_derived_drawn_and_viewed(run: Path, tmp_path: Path) -> None:
    from reports.samples.index import Index

    names = ("accuracy.csv", "cost.csv", "evidence.csv", "comparisons.csv")
    before = {name: (run / name).read_bytes() for name in names}
    assert main(["--derive", str(run), "--quiet"]) == 0
    assert main(["--plots-only", str(run), "--quiet"]) == 0
    assert {name: (run / name).read_bytes() for name in names} == before
    index = Index(run, tmp_path)
    index.build()
    assert index.progress.documents["questions.json"] == 4 and not index.progress.notices
    content, kind = index.image("questions.json", "sign")
    assert kind == "image/jpeg" and content


def test_same_command_resumes_from_another_place(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run.parent)
    argv = ["--methods", "random", "--bench", "questions.json,questions.csv", "--limit", "4"]
    assert main([*argv, "--out", "run"]) == 0
    said = capsys.readouterr()
    assert "4 cells, 4 done before" in said.out + said.err


# --- files ----------------------------------------------------------------------------------
def test_formats_say_the_same(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [
        {"id": "1", "images": ["a.png"], "question": "Was heißt das?", "answers": ["x", "y"]},
        {"id": "2", "images": ["b.png", "a.png"], "question": "Two?", "answers": ["0.50"]},
    ]
    (folder / "q.json").write_text(json.dumps(rows).replace('"0.50"', "0.50"), encoding="utf-8-sig")
    write(folder, *rows)
    with (folder / "q.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        lists = ("images", "answers")
        writer.writerows([r | {n: json.dumps(r[n]) for n in lists} for r in rows])
    held = [
        {**r, "images": [{"bytes": (folder / n).read_bytes(), "path": None} for n in r["images"]]}
        for r in rows
    ]
    parquet.write_table(pa.Table.from_pylist(held), folder / "q.parquet")
    found = [own(folder / f"q.{kind}") for kind in ("json", "jsonl", "csv", "parquet")]
    assert len({bench.fingerprint() for bench in found}) == 1
    assert found[0].metric == "exact_match" and found[0].documents == 2
    decoded = found[3].dataset()["test"][1]
    assert [decoded[f"image_{n}"].size for n in (1, 2)] == [(20, 20), (40, 30)]


def test_a_list_in_the_answer_of_a_csv_is_no_text(folder: Path) -> None:
    path = folder / "q.csv"
    path.write_text('image,question,answer,\na.png,What?,"[""x"", ""y""]",\na.png,Which?,"[1]",\n')
    assert "row 1: answer is a list of texts: its column is answers" in line_of(lambda: own(path))
    bench = own(path, BAD_ROWS)
    assert bench.rows[0].answers == ("[1]",) and "one without a name" in bench.notes[1]


def test_a_folder_has_one_table(folder: Path) -> None:
    write(folder, {"file_name": "a.png", "question": "What?", "answer": 3}, name="metadata.jsonl")
    write(folder, GOOD, name="other.jsonl")
    bench = own(folder)
    assert bench.name == folder.name and bench.rows[0].answers == ("3",)
    (folder / "metadata.jsonl").rename(folder / "third.jsonl")
    assert "other.jsonl, third.jsonl" in line_of(lambda: own(folder))


def test_shards_of_one_split_are_one_table(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    (folder / "data").mkdir()
    for n in range(2):
        row = {**GOOD, "id": str(n), "image": (folder / "a.png").read_bytes()}
        place = folder / f"data/test-{n:05d}-of-00002.parquet"
        parquet.write_table(pa.Table.from_pylist([row]), place)
    assert [row.id for row in own(folder).rows] == ["0", "1"]
    shutil.copy(place, folder / "data/train-00000-of-00001.parquet")
    assert "several tables" in line_of(lambda: own(folder))


def test_names_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gqa").mkdir()
    assert resolve_bench("gqa", "mini").data == "mini"
    assert "rename it" in line_of(lambda: resolve_bench("./gqa"))
    Path("photos").mkdir()
    assert "./photos" in line_of(lambda: resolve_bench("photos"))
    assert "is not there" in line_of(lambda: resolve_bench("gqa.jsonl"))
    assert "rename one" in line_of(lambda: benches("a/q.json,b/q.json"))
    assert benches("a/q.json,gqa,b/q.csv") == ("a/q.json", "gqa", "b/q.csv")


def test_a_link_is_called_by_its_own_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "blobs").mkdir()
    write(folder / "blobs", GOOD, name="5f3a")
    (folder / "first.jsonl").symlink_to("blobs/5f3a")
    assert own(folder / "first.jsonl").name == "first.jsonl"  # pictures lie beside the link
    monkeypatch.chdir(folder)
    bench = resolve_bench("./")
    assert bench.name == folder.name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("q.jsonl", b"", "no rows"),
        ("q.json", b"[]", "no rows"),
        ("q.json", b"{", "not JSON"),
        ("q.json", b'{"rows": []}', "a list of rows"),
        ("q.json", b'[{"image": 1, "image": 2}]', "'image' stands twice"),
        ("q.json", b'{"a": 1}\n{"a": 2}', ".jsonl"),
        ("q.csv", "question,image,answer\nä,b,c".encode("latin-1"), "not UTF-8 (byte 0xe4"),
        ("q.csv", b"id;image\n1;a.png", "no column image or images; its columns are id;image"),
        ("q.csv", b"image,image\n1,2", "column 'image' stands twice"),
        ("q.csv", b'image,question,answer\n"a', "not CSV"),
        ("q.parquet", b"PAR1", "not Parquet"),
        (
            "q.jsonl",
            b'{"image": "a.png", "question": "q", "anwser": "x"}',
            "did you mean 'answer'?",
        ),
        ("q.jsonl", b'{"video": "a.mp4", "question": "q", "answer": "x"}', "videos"),
        ("q.txt", b"", "no such"),
    ],
)
def test_whole_files_are_refused(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    if name == "q.txt":
        said = "no table of questions"
    assert said in line_of(lambda: resolve_bench(f"{folder}/{name}"))


def test_columns_nobody_reads_are_named(folder: Path) -> None:
    bench = own(write(folder, {**GOOD, "category": "c"}))
    assert bench.notes == ("columns not used: category",)


# --- rows -----------------------------------------------------------------------------------
BOX = {"boxes": [[1, 2, 10, 12]]}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"image": "https://example.org/a.png"}, "download it first"),
    ({"image": "c.png"}, "image 'c.png' is not there"),
    ({"image": "cut.png"}, "cannot be read"),
    ({"image": "text.png"}, "no known format"),
    ({"image": None}, "no image"),
    ({"question": " "}, "no question"),
    ({"answer": None}, "no answer"),
    ({"answer": True}, "answer is no text but bool"),
    ({"answers": ["x"]}, "both answer and answers"),
    ({"images": ["a.png"]}, "both image and images"),
    ({"metric": "exat"}, "unknown metric 'exat': did you mean 'exact'?"),
    ({"question": "<image> and <image>?"}, "2 <image> for 1 images"),
    ({"boxes": [[0, 0, 41, 30]]}, "box [0, 0, 41, 30] lies outside its image of 40x30"),
    ({"boxes": [[5, 5, 5, 9]]}, "x0 < x1"),
    ({"boxes": [1, 2, 3, 4]}, "[[x0, y0, x1, y1]]"),
    ({"boxes": [[0, 0, 10**400, 3]]}, "too large"),
    ({"choices": ["<image>", "b"], "answer": "A"}, "only the question says where images go"),
    ({"question": "<image> What?", "post_prompt": "<image>"}, "only the question"),
    ({"answer": "+"}, "contains reads it"),
    ({"image": "deep.png"}, "more than 8 bits a channel (I;16)"),
    ({"image": "moving.gif"}, "holds 2 frames or pages"),
    ({"metric": "iou"}, "one box"),
    ({"metric": "iou", **BOX}, "no other answer"),
    ({"metric": "vqa"}, "at least 4 answers"),
    ({"metric": "choice"}, "needs choices"),
    ({"choices": ["a", "b"], "metric": "exact"}, "no use for choices"),
    ({"choices": ["a", "b"], "answer": "C"}, "none of the letters A to B"),
    ({"choices": ["B", "A"], "answer": "A"}, "a letter and another choice"),
    ({"choices": ["a"], "answer": "A"}, "2 to 26"),
    ({"id": "two\nlines"}, "one line"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said for _, said in BAD])
def test_bad_rows_are_refused(folder: Path, change: dict[str, Any], said: str) -> None:
    content = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(content[:-30])
    (folder / "text.png").write_text("no picture")
    Image.new("I;16", (4, 4), 40000).save(folder / "deep.png")
    first, *more = (Image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    first.save(folder / "moving.gif", save_all=True, append_images=more)
    path = write(folder, GOOD, {**GOOD, **change})
    line = line_of(lambda: own(path))
    assert "1 of 2 rows is bad (1 " in line and "row 2: " in line and said in line
    assert own(path, BAD_ROWS).documents == 1


def test_bad_rows_are_counted_by_kind_and_three_are_named(folder: Path) -> None:
    lost = {**GOOD, "image": "c.png"}
    path = write(folder, lost, GOOD, lost, {**GOOD, "answer": ""}, 5, {**GOOD, "id": "2"})
    line = line_of(lambda: own(path))
    kinds = "2 image is not there, 1 no answer, 1 not an object, 1 duplicate id"
    assert f"5 of 6 rows are bad ({kinds})" in line
    assert re.findall(r"row (\d)", line) == ["1", "3", "4"] and "and 2 more" in line
    bench = own(path, BAD_ROWS)
    assert [row.id for row in bench.rows] == ["2"] and "5 of 6 rows are bad" in bench.notes[0]


def test_the_page_shows_how_bad_rows_are_said(folder: Path) -> None:
    rows = [{**GOOD, "id": str(n)} for n in range(1, 41)]
    rows[6]["answer"] = ""
    del rows[11]["answer"]
    rows[11] |= {"answer": "x"}
    (folder / "a.png").rename(folder / "c.png")
    for row in rows:
        row["image"] = "c.png"
    rows[11]["image"] = "a.png"
    with (folder / "questions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", *GOOD])
        writer.writeheader()
        writer.writerows(rows)
    line = line_of(lambda: own(folder / "questions.csv"))
    assert line in " ".join(PAGE.split())


def test_refused_before_anything_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, {**GOOD, "answer": ""})
    out = folder / "run"
    argv = ["--methods", "fastv", "--bench", str(path), "--out", str(out), "--limit", "1"]
    assert main([*argv, "--allow", BAD_ROWS]) == 2
    assert "1 of 1 rows is bad" in capsys.readouterr().err and not out.exists()


def test_large_images_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.bench.own.images.MOST_PIXELS", 1199)
    assert "40x30 pixels" in line_of(lambda: own(write(folder, GOOD)))


def test_boxes_are_of_the_image_as_it_is_shown(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("RGB", (40, 30)).save(folder / "turned.jpg", exif=exif)
    row = {**GOOD, "image": "turned.jpg", "boxes": [[0, 0, 30, 40]]}
    bench = own(write(folder, row))
    assert bench.dataset()["test"][0]["image_1"].size == (30, 40)


# --- the key --------------------------------------------------------------------------------
CHANGES: list[Callable[[Path], Any]] = [
    lambda f: Image.new("RGB", (20, 20), "green").save(f / "b.png"),
    lambda f: write(f, GOOD, {**GOOD, "id": "z", "image": "b.png", "cluster": "c"}),
    lambda f: write(f, GOOD, {**GOOD, "id": "z", "image": "b.png", "answer": "y"}),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row_or_image_is_other_data(folder: Path, change: Callable[[Path], Any]) -> None:
    path = write(folder, GOOD, {**GOOD, "id": "z", "image": "b.png"})
    before = own(path)
    first, both = before.fingerprint(1), before.fingerprint()
    moved = folder / "moved"
    shutil.copytree(folder, moved)
    assert own(moved / "q.jsonl").fingerprint() == both
    change(folder)
    after = own(path)
    assert after.fingerprint(1) == first and after.fingerprint() != both
    assert after.data_source != before.data_source


def test_a_metric_behind_the_limit_is_another_headline(folder: Path) -> None:
    before = own(write(folder, GOOD, {**GOOD, "id": "z"}))
    after = own(write(folder, GOOD, {**GOOD, "id": "z", "metric": "contains"}))
    assert (before.metric, after.metric) == ("exact_match", "score")
    assert before.fingerprint(1) != after.fingerprint(1)


def test_times_are_of_the_file_that_the_workload_names(folder: Path) -> None:
    from harness.jobs.benchmarks import Benchmarks
    from harness.jobs.within import grid_within
    from harness.options.settings import Settings

    (folder / "other").mkdir()
    shutil.copy(folder / "a.png", folder / "other")
    path = write(folder, GOOD)
    other = write(folder / "other", {**GOOD, "question": "Which?"})
    settings = Settings(methods=("random",), bench=(str(path),), device="cpu")
    job = Benchmarks(dataclasses.replace(settings, workload=(f"bench={other}:n_out=4",)), [])
    job.resolve(folder / "out")
    assert grid_within(job.grid).content == {str(other): own(other).fingerprint()}


def test_bad_rows_are_left_out_of_times_as_the_line_says(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.command.cli import parse
    from harness.jobs.timed import make_timing_grid

    path = write(folder, GOOD, {**GOOD, "answer": ""})
    argv = ["--throughput", "--methods", "random", "--bench", str(path), "--device", "cpu"]
    assert main([*argv, "--out", str(folder / "run")]) == 2
    assert f"--allow {BAD_ROWS} leaves them out" in capsys.readouterr().err
    _, settings = parse([*argv, "--allow", BAD_ROWS])
    grid, bench = make_timing_grid(settings), own(path, BAD_ROWS)
    assert grid.content == {str(path): bench.fingerprint()} and {*bench.notes} <= {*grid.notes}
    _, settings = parse([*argv, "--allow", "over-length"])
    assert "but for bad-rows" in line_of(lambda: make_timing_grid(settings))
