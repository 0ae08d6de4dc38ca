"""Answers first, readouts later: what an edit of the code repeats, and `--derive`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main
from harness.common.roots import ROOT
from harness.cost.findings import RefereeError
from harness.jobs.benchmarks import Benchmarks
from harness.readouts import stored
from harness.readouts.keys import COST, COUNTERS, EVIDENCE, readout_keys
from harness.store.cells import engine_digest
from harness.store.csvfile import read_rows
from harness.store.records import Basis
from harness.store.rundir import Store
from tests.fakes import FakeReferees, FakeRun, derived, run

METHODS = ("fastv", "cdpruner:relevance=words")  # the second takes its greedy choice from a helper


class Keyed(FakeRun):
    """Stand-ins whose cells have the real key of the code."""

    engine = Benchmarks.engine


@pytest.fixture
def edit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Adds a comment to a file, as far as anybody who reads it can tell."""
    real = Path.read_bytes

    def edited(name: str) -> None:
        assert (ROOT / name).is_file()
        more = {ROOT / name: b"# a comment\n"}
        monkeypatch.setattr(Path, "read_bytes", lambda path: real(path) + more.get(path, b""))
        engine_digest.cache_clear()
        readout_keys.cache_clear()

    yield edited
    monkeypatch.undo()
    engine_digest.cache_clear()
    readout_keys.cache_clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert run(out, bench=("gqa",)) == 0
    return out


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """A finished run of three cells."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def noted(calls: list[str], name: str, function: Any) -> Any:
    """`function`, each call of which is put down as `name`."""

    def call(*args: Any) -> Any:
        calls.append(name)
        return function(*args)

    return call


@pytest.mark.parametrize(
    ("name", "answered", "taken"),
    [
        ("harness/cost/ledger.py", [], {COST, COUNTERS}),
        ("harness/readouts/evidence.py", [], {EVIDENCE}),
        ("reports/geometry.py", [], {EVIDENCE}),
        ("methods/greedy.py", [METHODS[1]], set()),
        ("harness/engine/run.py", ["dense", *METHODS], set()),
        ("reports/tables.py", [], set()),
    ],
)
def test_what_an_edit_repeats(
    name: str,
    answered: list[str],
    taken: set[str],
    edit: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    assert run(out, Keyed(), methods=METHODS, bench=("gqa",)) == 0
    before = derived(out)
    ids = [row["cell_id"] for row in read_rows(out / "cells.csv")]
    samples = [(out / f"samples/{cell_id}.csv").read_bytes() for cell_id in ids]
    monkeypatch.setattr(stored, "referees_of", lambda basis: FakeReferees())
    edit(name)
    assert {name for cell in ids for name in stored.stale(Store(out), cell)} == taken
    calls: list[str] = []
    for readout, function in ((COST, "write_routing"), (EVIDENCE, "write_evidence")):
        real = getattr(Store, function)
        monkeypatch.setattr(Store, function, noted(calls, readout, real))
    again = Keyed()
    assert run(out, again, methods=METHODS, bench=("gqa",)) == 0
    assert [one.split()[0] for one in again.computed] == answered
    for readout in (COST, EVIDENCE):
        cells = len(answered) + (len(ids) if readout in taken else 0)
        assert calls.count(readout) == cells
    rows = read_rows(out / "cells.csv")
    assert not any(stored.stale(Store(out), row["cell_id"]) for row in rows)
    if not answered:
        assert derived(out) == before
        assert [(out / f"samples/{cell_id}.csv").read_bytes() for cell_id in ids] == samples


@pytest.mark.usefixtures("painted")
def test_deriving_again_gives_the_same_bytes_without_torch(tmp_path: Path) -> None:
    out = tmp_path / "run"  # of a method less than the others: every picture is painted twice
    assert run(out, methods=("fastv",), bench=("gqa",)) == 0
    assert main(["--derive", str(out), "--quiet"]) == 0
    before = files(out)
    for path in [*out.glob("*.csv"), *out.glob("samples/*.routing.json"), *out.glob("report.*")]:
        if path.name != "cells.csv":
            path.write_text("")
    code = (
        "import sys; from harness.command.cli import main; code = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    words = [sys.executable, "-c", code, "--derive", str(out), "--quiet"]
    told = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.strip() == str(out / "report.html")
    assert files(out) == before


@pytest.mark.usefixtures("undrawn")
def test_tables_come_in_the_order_of_the_settings(tmp_path: Path) -> None:
    """Also where a cell was computed behind the others, because it had failed."""
    out = tmp_path / "run"
    assert run(out, FakeRun(fail={"fastv": ValueError("no")}), bench=("gqa",)) == 3
    assert main(["--derive", str(out), "--quiet"]) == 3
    assert "fastv" not in (out / "accuracy.csv").read_text()
    assert run(out, bench=("gqa",)) == 0
    before = derived(out)
    assert main(["--derive", str(out), "--quiet"]) == 0
    assert derived(out) == before


def test_runs_that_cannot_be_derived_are_refused(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(said: str) -> None:
        before = files(out)
        capsys.readouterr()
        assert main(["--derive", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("run_suite.py: --derive: ") and said in line
        assert files(out) == before

    with Store(out):
        refused("another run is writing")
    about = json.loads((out / "run.json").read_text())
    older = {name: value for name, value in about.items() if name != "cells"}
    (out / "run.json").write_text(json.dumps(older))
    refused("no routing records of dense on gqa")
    (out / "run.json").write_text(json.dumps(about))
    gone = read_rows(out / "cells.csv")[1]["cell_id"]
    (out / f"records/{gone}.gz").unlink()
    refused("no routing records of fastv on gqa")
    (out / "cells.csv").write_text((out / "cells.csv").read_text().splitlines()[0] + "\n")
    refused("no finished cell")
    shutil.rmtree(out)
    refused("there is no run directory")


def damage(out: Path, place: str = "records/{}.gz", number: int = 0) -> Path:
    """Cut off the end of a file of one cell."""
    path = out / place.format(read_rows(out / "cells.csv")[number]["cell_id"])
    path.write_bytes(path.read_bytes()[:-30])
    return path


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("how", ["cut", "foreign", "version"])
def test_damaged_records_are_named_and_the_others_read(
    how: str, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = out / f"records/{read_rows(out / 'cells.csv')[0]['cell_id']}.gz"
    if how == "cut":
        damage(out)
    elif how == "version":
        import gzip

        head, rest = gzip.decompress(one.read_bytes()).split(b"\n", 1)
        one.write_bytes(gzip.compress(head.replace(b'"version":1', b'"version":9') + b"\n" + rest))
    else:
        run(tmp_path / "short", limit=5, methods=("dense",), bench=("gqa",))
        short = read_rows(tmp_path / "short/cells.csv")[0]["cell_id"]
        one.write_bytes((tmp_path / f"short/records/{short}.gz").read_bytes())
    before = derived(out)
    for name in before:
        (out / name).write_text("")
    capsys.readouterr()
    assert main(["--derive", str(out), "--quiet"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "dense on gqa" in line and str(one) in line and "records" in line
    assert how != "version" or "version 9, this program knows 1" in line
    assert derived(out) == before  # it keeps what was read of it before


@pytest.mark.usefixtures("undrawn")
def test_a_cell_whose_samples_are_damaged_is_left_out(
    out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damage(out, "samples/{}.csv", 1)
    capsys.readouterr()
    assert main(["--derive", str(out), "--quiet"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "fastv on gqa" in line and str(path) in line
    assert {row["method"] for row in read_rows(out / "accuracy.csv")} == {"dense", "random"}


@pytest.mark.parametrize("place", ["records/{}.gz", "samples/{}.csv", "samples/{}.metrics.json"])
def test_a_damaged_cell_is_answered_again_and_the_others_go_on(
    place: str, out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = derived(out)
    path = damage(out, place, 1)
    keys = {**readout_keys(), COST: "of other code"}
    monkeypatch.setattr(stored, "readout_keys", lambda: keys)
    capsys.readouterr()
    again = FakeRun()
    assert run(out, again, bench=("gqa",)) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "fastv on gqa is answered again" in line and str(path) in line
    assert (again.computed, again.loads) == (["fastv gqa"], 1)
    assert derived(out) == before


def test_counters_that_disagree_do_not_stop_a_repeated_run(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = read_rows(out / "cells.csv")[2]["cell_id"]
    (out / f"records/{gone}.gz").unlink()
    monkeypatch.setattr(stored, "readout_keys", lambda: {COST: "of other code"})
    real, calls = stored.Readouts.of, iter(range(1000))

    def disagree(*words: Any) -> Any:
        if next(calls) == 0:
            raise RefereeError("the counters disagree")
        return real(*words)

    monkeypatch.setattr(stored.Readouts, "of", disagree)
    capsys.readouterr()
    again = FakeRun()
    assert run(out, again, bench=("gqa",)) == 3
    assert "dense on gqa: the counters disagree" in capsys.readouterr().err
    assert again.computed == ["random gqa"]


@pytest.mark.usefixtures("undrawn")
def test_deriving_goes_by_the_code_that_was_run_last(tmp_path: Path) -> None:
    class Edited(FakeRun):
        def engine(self) -> str:
            return "edited"

    out = tmp_path / "run"
    assert run(out, bench=("gqa",)) == 0
    before, about = derived(out), json.loads((out / "run.json").read_text())
    assert run(out, Edited(prediction="no"), bench=("gqa",)) == 0
    back = FakeRun()
    assert run(out, back, bench=("gqa",)) == 0
    assert back.computed == [] and back.loads == 0
    assert derived(out) == before
    assert main(["--derive", str(out), "--quiet"]) == 0
    assert derived(out) == before
    now = json.loads((out / "run.json").read_text())
    assert len(now["resumed"]) == 2
    assert {k: v for k, v in now.items() if k != "resumed"} == about


@pytest.mark.usefixtures("undrawn")
def test_cells_that_are_missing_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert run(out, FakeRun(fail={"fastv": ValueError("no")}), bench=("gqa",)) == 3
    rows = (out / "cells.csv").read_text().splitlines(keepends=True)
    (out / "cells.csv").write_text("".join(row for row in rows if ",random," not in row))
    capsys.readouterr()
    assert main(["--derive", str(out), "--quiet"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "of 3 cells 1 failed (fastv on gqa), 1 not answered" in line


def test_counters_count_the_same_without_the_model() -> None:
    """Qwen2's decoder behind SigLIP: from the config alone as from the loaded model's layer."""
    from harness.cost.modules import decoder_like
    from harness.cost.referees import Referees
    from harness.engine.model import find_parts
    from harness.families.catalog import shape_from_config
    from harness.model.session import Session
    from harness.store.record import dense_record
    from tests.test_engine_families import siglip

    model = siglip()
    found = find_parts(model)
    session = Session.__new__(Session)
    session.model = model
    shape = shape_from_config(model.config.to_dict(), "tiny")
    basis = Basis("tiny", session.config, 4, True)
    assert shape_from_config(basis.config, "tiny") == shape
    whole = Referees(shape, decoder_like(found.layers[0], found.config))
    record = dense_record(9, 16, shape.layers, n_out=3, prefix=2)
    assert stored.referees_of(basis).sample(record) == whole.sample(record)
