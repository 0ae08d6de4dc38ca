"""``--out``: refused in one line before anything is loaded, and what is read stays as it is."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.command.cli import main
from harness.common.place import check_place
from harness.options.suites import load_suite
from reports.__main__ import main as reports
from tests.fixtures.bad_input import line_of
from tests.fixtures.routing import write_routing
from tests.fixtures.runs import write_run


def dangling(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere")
    return folder / "link"


def circle(folder: Path) -> Path:
    (folder / "round").symlink_to(folder / "round")
    return folder / "round" / "run"


def in_the_way(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file" / "run"


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "long name": (lambda f: f / ("n" * 300), "a name of 300 bytes, 255 is the most"),
    "long name below": (lambda f: f / ("ä" * 200) / "run", "a name of 400 bytes"),
    "long path": (lambda f: f.joinpath(*["d" * 200] * 30), "a path of more than"),
    "dangling": (dangling, "link to nothing"),
    "below a dangling": (lambda f: dangling(f) / "run", "link to nothing"),
    "circle": (circle, "link to nothing"),
    "file": (in_the_way, "is a file"),
    "proc": (lambda f: Path("/proc/run"), "cannot write"),
}
RUN = ["--methods", "fastv", "--bench", "gqa"]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("job", ["run", "costs", "times", "study", "published", "plots", "diff"])
def test_a_place_that_cannot_be_is_one_line_for_every_job(
    tmp_path: Path, name: str, job: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, said = PLACES[name]
    out = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = {
        "run": RUN,
        "costs": ["--costs-only", "--methods", "fastv"],
        "times": ["--throughput", "--methods", "fastv", "--random-weights"],
        "study": ["--suite", "ablate-pmod-beta"],
        "published": ["--costs-only", "--published", "pmod-table5"],
        "plots": ["--plots-only", str(tmp_path / "absent")],
        "diff": ["--diff", str(tmp_path / "absent"), str(tmp_path / "other")],
    }[job]
    assert main([*words, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "--out: " in lines[0] and said in lines[0]
    assert len(lines[0]) < 400
    assert sorted(tmp_path.rglob("*")) == before


def test_a_suite_file_names_its_place_as_well(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(f"out: {tmp_path / 'suite.yaml' / 'run'}\n")
    assert "is a file" in line_of(lambda: load_suite(tmp_path / "suite.yaml"))


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
def test_a_name_that_no_file_can_have_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no file name" in line_of(lambda: check_place(tmp_path / name))
    assert main([*RUN, "--out", str(tmp_path / name)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def small(path: Path) -> Path:
    return write_routing(write_run(path, ("dense", "gamma"), ("gqa",), failed=()))


def state(path: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in [path, *path.rglob("*")]
    }


def test_plots_go_where_out_says_and_the_run_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, out = small(tmp_path / "run"), tmp_path / "a" / "report"
    for place in [run, *run.rglob("*")]:  # as on a read-only disk
        place.chmod(stat.S_IRUSR | (stat.S_IXUSR if place.is_dir() else 0))
    before = state(run)
    try:
        assert main(["--plots-only", str(run), "--out", str(out)]) == 0
        assert capsys.readouterr().out.strip() == str(out / "report.html")
        assert state(run) == before
    finally:
        for place in [run, *run.rglob("*")]:
            place.chmod(0o700)
    assert main(["--plots-only", str(run)]) == 0
    names = ["report.md", *(f"figures/{p.name}" for p in (run / "figures").glob("*.csv"))]
    assert sorted(p.name for p in out.iterdir()) == [
        "CITATION.bib",
        "conditions.txt",
        "figures",
        "report.html",
        "report.md",
        "tables",
    ]
    for name in names[1:]:
        assert (out / name).read_bytes() == (run / name).read_bytes()
    assert reports([str(run), "--out", str(out)]) == 0  # again over itself


def test_a_report_never_replaces_other_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = small(tmp_path / "run"), small(tmp_path / "other")
    (tmp_path / "file").write_text("")
    before = state(other)
    for place, said in ((other, "no part of a report"), (tmp_path / "file", "is a file")):
        assert main(["--plots-only", str(run), "--out", str(place)]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and said in lines[0]
    assert state(other) == before


def test_a_comparison_goes_into_a_file_or_a_folder(tmp_path: Path) -> None:
    a, b = small(tmp_path / "a"), small(tmp_path / "b")
    before = state(a), state(b)
    for out, made in ((tmp_path / "d" / "x.md", "d/x.md"), (tmp_path / "e", "e/diff.md")):
        assert main(["--diff", str(a), str(b), "--out", str(out)]) == 0
        assert (tmp_path / made).read_text(encoding="utf-8").startswith("# a (A) and b (B)")
    assert before == (state(a), state(b))
    assert os.listdir(tmp_path / "e") == ["diff.md"]
