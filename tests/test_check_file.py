"""`--check` on a method in a file of the user's own, and the documented page on adding a method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import methods
from harness import check
from harness.check import choosing
from harness.command.cli import main
from harness.store.csvfile import read_rows
from tests.tiers import some

PAGE = Path(__file__).parents[1] / "docs" / "adding-a-method.md"


def documented_method() -> str:
    """The file that the page on adding a method prints."""
    page = PAGE.read_text()
    code, *_ = re.findall(r"```python\n(.*?)```", page, re.S)
    return code


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(methods, "REGISTRY", dict(methods.REGISTRY))


def test_the_documented_method_conforms(tmp_path, capsys, registry):
    file = tmp_path / "nearest.py"
    file.write_text(documented_method())
    assert main(["--check", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL" not in "".join(lines)
    chosen = [line for line in lines if "highest score" in line]
    assert chosen and "not applicable" not in chosen[0]  # its score is really looked at


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_the_documented_method_runs_and_can_be_refused(tmp_path, capsys, registry):
    file = tmp_path / "nearest.py"
    file.write_text(documented_method())
    out = tmp_path / "run"
    command = ["--methods", f"{file}:keep=0.25", "--bench", "pope", "--limit", "2", "--quiet"]
    assert main([*command, "--out", str(out)]) == 0
    cells = (out / "cells.csv").read_text()
    assert '""keep"": 0.25' in cells and ",nearest," in cells
    capsys.readouterr()
    assert main(["--methods", f"{file}:kep=0.25", "--bench", "pope", "--out", str(out)]) == 2
    assert "nearest is 'keep'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "one class of methods.base.Method with a name expected: none"),
        (documented_method().replace('"nearest"', '"fastv"'), "the name 'fastv' is taken"),
        (documented_method().replace('"nearest"', '"a:b"'), "'a:b' cannot be the name of a method"),
        ("import sys\n\nsys.exit(0)", "mine.py, line 3: SystemExit: 0"),
        ("class E(BaseException): ...\nraise E('a\\nb')", "mine.py, line 2: E: a"),
        ("class E(Exception):\n    __str__ = None\nraise E", "mine.py, line 3: E"),
        ("def f():\n    f()\nf()", "mine.py, line 2: RecursionError"),
        ("x = (", "mine.py, line 1: SyntaxError: '(' was never closed"),
        ("x = '\0'", "SyntaxError"),
        (
            documented_method() + "    def __post_init__(self):\n        1 / 0\n",
            "ZeroDivisionError",
        ),
        (documented_method() + "    def params(self):\n        exit(0)\n", "SystemExit: 0"),
    ],
)
def test_bad_files_get_one_line(tmp_path, capsys, registry, text, said):
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    assert main(["--check", str(file)]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and "mine.py" in error and "\n" not in error


def test_bad_parameters_of_a_check_get_one_line(capsys):
    assert main(["--check", "fastv:k=99"]) == 2
    assert "k=99" in capsys.readouterr().err


EXIT = documented_method() + "\n    def check(self, info):\n        exit(0)\n"
LEAVES = documented_method() + "\n    def layer(self, layer, seq):\n        exit(0)\n"


def line_of(text: str) -> int:
    return text.splitlines().index("        exit(0)") + 1


def test_an_interrupt_of_a_file_is_an_interrupt(tmp_path, capsys, registry):
    file = tmp_path / "mine.py"
    file.write_text("raise KeyboardInterrupt")
    assert main(["--check", str(file)]) == 130
    assert capsys.readouterr().err == (
        f"run_suite.py: interrupted; resume with: python run_suite.py --check {file}\n"
    )


@pytest.mark.parametrize("job", [["--bench", "pope", "--quiet"], ["--costs-only"], []])
def test_a_file_that_ends_the_process_while_it_is_planned(tmp_path, capsys, registry, job):
    file = tmp_path / "mine.py"
    file.write_text(EXIT)
    out = tmp_path / "run"
    command = [*job, "--methods", str(file), "--out", str(out)] if job else ["--check", str(file)]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"mine.py, line {line_of(EXIT)}: SystemExit: 0" in line
    assert not out.exists()


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_a_method_that_ends_the_process_fails_its_cell_and_no_other(tmp_path, capsys, registry):
    file = tmp_path / "mine.py"
    file.write_text(LEAVES)
    out = tmp_path / "run"
    command = ["--methods", f"{file},random", "--bench", "pope", "--limit", "1", "--quiet"]
    assert main([*command, "--out", str(out)]) == 3
    capsys.readouterr()
    rows = {row["method"]: row for row in read_rows(out / "cells.csv")}
    states = {name: row["status"] for name, row in rows.items()}
    assert states == {"dense": "done", "nearest": "failed", "random": "done"}
    assert f"mine.py, line {line_of(LEAVES)}: SystemExit: 0" in rows["nearest"]["error"]


def test_a_method_that_ends_the_process_fails_its_checks(tmp_path, capsys, registry):
    file = tmp_path / "mine.py"
    file.write_text(LEAVES)
    assert main(["--check", str(file)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("FAIL") and "SystemExit: 0" in line for line in lines)
    assert re.search(r"of \d+ checks hold", lines[-1])


def test_a_method_file_is_listed_whole(tmp_path, capsys, registry):
    file = tmp_path / "nearest.py"
    file.write_text(documented_method())
    assert main(["--list", str(file)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"nearest: from {file}\n")
    assert "parameter" in said and "keep" in said and "acts in the decoder's layers" in said
    file.write_text("x = 1")
    assert main(["--list", str(tmp_path / "none.py")]) == 2
    assert "none.py: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--list", "--check", "--methods"])
@pytest.mark.parametrize(("place", "what"), [("README.md", "no Python file"), ("", "a folder")])
def test_a_path_that_is_no_method_file_is_said(tmp_path, capsys, flag, place, what):
    (tmp_path / "README.md").write_text("# read me")
    path = str(tmp_path / place)
    assert main([flag, path, *(["--bench", "pope"] if flag == "--methods" else [])]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{flag}: '{path}' is {what}: the name of a method or FILE.py expected" in line


@pytest.fixture
def ranking(monkeypatch):
    """Of the suite the one check that looks at scores."""
    monkeypatch.setattr(check, "CHECKS", (choosing.best_are_kept,))


@pytest.mark.usefixtures("ranking")
@pytest.mark.parametrize("score", some(["inf", "-inf", "nan"], "nan"))
def test_scores_that_are_not_finite_are_refused(tmp_path, capsys, registry, score):
    text = (
        "import modsuite as ms\nfrom dataclasses import dataclass\n\n"
        "@dataclass(frozen=True)\nclass Flat(ms.Scored):\n    name = 'flat'\n    k: int = 2\n"
        "    keep: float = 0.5\n    positions: ms.Positions = 'original'\n\n"
        "    def scores(self, layer, seq):\n"
        f"        return seq.hidden[..., 0] * 0 + float('{score}')\n"
    )
    (tmp_path / "flat.py").write_text(text)
    assert main(["--check", str(tmp_path / "flat.py")]) == 3
    failed = [line for line in capsys.readouterr().out.splitlines() if "highest score" in line]
    assert failed[0].startswith("FAIL") and "not all finite" in failed[0]


@pytest.mark.usefixtures("ranking")
def test_a_ranking_that_is_not_finite_fails_the_suite(tmp_path, capsys, registry):
    text = (
        "from dataclasses import dataclass\nfrom methods.base import Method, keep_best\n\n"
        "@dataclass(frozen=True)\nclass Own(Method):\n    name = 'own'\n\n"
        "    def layer(self, layer, seq):\n        if layer != 1:\n            return None\n"
        "        scores = seq.hidden[..., 0] * 0 + float('inf')\n"
        "        half = [n // 2 for n in seq.image_counts]\n"
        "        return keep_best(seq, scores, half, 'original')\n"
    )
    (tmp_path / "own.py").write_text(text)
    assert main(["--check", str(tmp_path / "own.py")]) == 3
    failed = [line for line in capsys.readouterr().out.splitlines() if "highest score" in line]
    assert failed[0].startswith("FAIL") and "scores are not finite" in failed[0]
