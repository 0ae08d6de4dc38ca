"""`modsuite merge`: shares become the run that one process makes; what does not fit is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main
from harness.common.errors import CellError
from harness.store.csvfile import read_rows, write_json
from harness.store.folder import RunLock
from harness.store.rundir import Store
from tests.fakes import FakeRun, derived, run

TIMES = ("seconds", "finished_at")
FEW: dict[str, Any] = {"limit": 6}


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds, and are drawn from files that are compared: one test has them."""
    if "drawn" not in request.node.name:
        monkeypatch.setattr("reports.build.build_report", lambda out: out / "report.html")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, and its shares `one` and `two`."""
    place = tmp_path_factory.mktemp("made")
    assert run(place / "whole", **FEW) == 0
    for number, name in ((1, "one"), (2, "two")):
        assert run(place / name, shard=f"{number}/2", **FEW) == 0
    return place


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """A copy of them that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "runs"))


def merge(runs: Path, *names: str, out: str = "all") -> int:
    targets = [str(runs / name) for name in names]
    return main(["merge", *targets, "--out", str(runs / out), "--quiet"])


def files(path: Path) -> dict[str, str]:
    return {
        p.relative_to(path).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    found = read_rows(path / "cells.csv")
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def test_shares_become_the_run(runs: Path) -> None:
    before = {name: files(runs / name) for name in ("one", "two")}
    assert merge(runs, "two", "one") == 0
    assert {name: files(runs / name) for name in ("one", "two")} == before
    assert derived(runs / "all") == derived(runs / "whole")
    assert rows(runs / "all") == rows(runs / "whole")
    cells = {n: d for n, d in files(runs / "whole").items() if n.split("/")[0] in
             ("samples", "records", "routing")}  # fmt: skip
    assert {n: files(runs / "all").get(n) for n in cells} == cells
    about, whole = (json.loads((runs / n / "run.json").read_text()) for n in ("all", "whole"))
    assert about["cells"] == whole["cells"] and about["settings"] == whole["settings"]
    assert {n: m["shard"] for n, m in about["merged"].items()} == {"two": "2/2", "one": "1/2"}
    taken = [cell for m in about["merged"].values() for cell in m["cells"]]
    assert sorted(taken) == sorted(about["cells"])


def test_again_changes_no_byte_and_no_figure_when_drawn(runs: Path) -> None:
    assert merge(runs, "one", "two") == 0
    before = files(runs / "all")
    for names in (("one", "two"), ("all",)):
        assert merge(runs, *names) == 0
        assert files(runs / "all") == before


def test_what_is_missing_is_named_and_comes_later(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merge(runs, "one") == 3
    said = capsys.readouterr().err
    assert "merge: of 6 cells 3 missing (dense on pope, fastv on pope, random on pope)" in said
    assert f"--out {runs / 'all'}" in said and "--shard" not in said
    assert merge(runs, "two") == 0  # the first one is there
    assert derived(runs / "all") == derived(runs / "whole")
    assert merge(runs, "one", "two", out="at-once") == 0
    assert derived(runs / "at-once") == derived(runs / "all")


def test_the_full_command_goes_on_with_it(runs: Path) -> None:
    assert merge(runs, "one") == 3
    job = FakeRun()
    assert run(runs / "all", job, **FEW) == 0
    assert job.computed == ["dense pope", "fastv pope", "random pope"]
    assert derived(runs / "all") == derived(runs / "whole")
    assert json.loads((runs / "all" / "run.json").read_text())["merged"]["one"]["shard"] == "1/2"
    again = FakeRun()
    assert run(runs / "all", again, **FEW) == 0 and again.loads == 0


def test_damaged_cells_are_named_and_taken_from_a_run_that_has_them(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(runs / "one")
    done = {row["method"]: row["cell_id"] for row in read_rows(store.cells_csv)}
    records = store.records_gz(done["fastv"])
    records.write_bytes(records.read_bytes()[:-9])
    store.samples_csv(done["random"]).unlink()
    assert merge(runs, "one", "two") == 3
    said = capsys.readouterr().err
    assert "damaged: fastv on gqa" in said and "files are missing: random on gqa" in said
    assert "of 6 cells 2 missing (fastv on gqa, random on gqa)" in said
    assert merge(runs, "one", "two", "whole") == 0
    assert derived(runs / "all") == derived(runs / "whole")


def test_failed_cells_stay_failed_until_one_has_them(runs: Path) -> None:
    shutil.rmtree(runs / "one")
    assert run(runs / "one", FakeRun(fail={"fastv": CellError("broken")}), shard="1/2", **FEW) == 3
    assert merge(runs, "one", "two") == 3
    failed = [r for r in rows(runs / "all") if r["status"] == "failed"]
    assert [(r["method"], r["error"]) for r in failed] == [("fastv", "broken")]
    assert run(runs / "one", shard="1/2", **FEW) == 0
    assert merge(runs, "one", "two") == 0
    assert rows(runs / "all") == rows(runs / "whole")


def test_runs_of_one_name_stay_apart(runs: Path) -> None:
    for number, name in ((1, "one"), (2, "two")):
        (runs / str(number)).mkdir()
        (runs / name).rename(runs / str(number) / "share")
    assert merge(runs, "1/share") == 3
    assert merge(runs, "2/share") == 0
    merged = json.loads((runs / "all" / "run.json").read_text())["merged"]
    assert {name: (one["shard"], len(one["cells"])) for name, one in merged.items()} == {
        "share": ("1/2", 3),
        "2/share": ("2/2", 3),
    }


def test_a_table_of_cells_that_is_cut_off_is_named(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = runs / "one" / "cells.csv"
    content = table.read_bytes()
    for left, missing in ((content[:-9], "1 missing (random on gqa)"), (b"\xff" * 99, "3 missing")):
        table.write_bytes(left)
        assert merge(runs, "one", "two", out=f"all-{len(left)}") == 3
        said = capsys.readouterr().err
        assert f"{runs / 'one'}: cells.csv ends with a line that was cut off" in said
        assert missing in said


def test_no_reuse_is_advised_that_would_take_nothing(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(runs / "two" / "run.json", settings={"limit": 9})
    assert merge(runs, "one", "two") == 2
    assert "--reuse" not in capsys.readouterr().err


def altered(run_json: Path, **changes: Any) -> None:
    about = json.loads(run_json.read_text())
    about["settings"] |= changes.pop("settings", {})
    write_json(run_json, about | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": {"seed": 3}}, "was made with --seed 3, '{one}' with --seed 0"),
        ({"settings": {"limit": 9}}, "--limit 9"),
        ({"settings": {"methods": ["dense", "mqt"]}}, "a run over both with --reuse"),
        ({"settings": {"device": "cuda"}}, "--device cuda"),
        ({"engine_hash": "ff"}, "other code of the engine (ff, ee)"),
        ({"versions": {"torch": "1.0"}}, "other versions"),
        ({"weight_hashes": {"model.safetensors": "bb"}}, "other weights (model.safetensors"),
        ({"margin": 2.0}, "other --margin (2.0, 1.0)"),
        ({"cells": 3}, "is no run on benchmarks"),
        ({"shard": {"of": "2/2", "cells": {"a": "b"}}}, "other data or method files"),
    ],
)
def test_other_conditions_are_refused_by_name(
    runs: Path, changes: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    altered(runs / "two" / "run.json", **changes)
    assert merge(runs, "one", "two") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(runs / "two") in said
    assert says.format(one=runs / "one") in said
    assert not (runs / "all").exists()


def test_places_that_are_no_runs_are_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for names, out, says in (
        (("nowhere",), "all", "there is no run directory"),
        (("one",), "two", "made with --shard 2/2, now it is no --shard: choose another --out"),
        (("one",), ".", "holds other files and no run"),
    ):
        assert merge(runs, *names, out=out) == 2
        assert says in capsys.readouterr().err
    assert main(["merge", str(runs / "one")]) == 2
    assert "merge: the following arguments are required: --out" in capsys.readouterr().err


def test_a_share_in_work_gives_what_is_done(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lock = RunLock(runs / "two" / "run.lock")
    with lock:
        targets = [str(runs / name) for name in ("one", "two")]
        assert main(["merge", *targets, "--out", str(runs / "both")]) == 0
        assert "it is being written now" in capsys.readouterr().err
    assert merge(runs, "one") == 3
    with RunLock(runs / "all" / "run.lock"):
        assert merge(runs, "two") == 2
        assert "another run is writing" in capsys.readouterr().err


def test_a_share_says_that_it_is_one(runs: Path) -> None:
    from reports.rundata import load_run

    said = " ".join(load_run(runs / "two").notices)
    assert "share 2/2 of a run: 3 of its 6 cells" in said
    assert not any("share" in note for note in load_run(runs / "whole").notices)
