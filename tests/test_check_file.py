"""`--check` on a method in a file of the user's own, and the README's page on adding a method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import methods
from harness.cli import main

README = Path(__file__).parents[1] / "README.md"


def readme_method() -> str:
    """The file that the README's page on adding a method prints."""
    page = README.read_text().split("## Adding a method", 1)[1].split("\n## ", 1)[0]
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    return code


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(methods, "REGISTRY", dict(methods.REGISTRY))


def test_the_readmes_method_conforms(tmp_path, capsys, registry):
    file = tmp_path / "nearest.py"
    file.write_text(readme_method())
    assert main(["--check", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "FAIL" not in "".join(lines)
    chosen = [line for line in lines if "highest score" in line]
    assert chosen and "not applicable" not in chosen[0]  # its score is really looked at


def test_the_readmes_method_runs_and_can_be_refused(tmp_path, capsys, registry):
    file = tmp_path / "nearest.py"
    file.write_text(readme_method())
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
        (readme_method().replace('"nearest"', '"fastv"'), "the name 'fastv' is taken"),
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
