"""LaTeX tables: what they say, and that every character survives a compiler."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import build_report, latex, text
from reports.tables import Cell, Column, Table
from tests.fixtures.runs import write_run
from tests.fixtures.studies import write_study

LATEX = shutil.which("pdflatex")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("runs") / "study")
    build_report(path)
    return path / "tables"


def body(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").split(r"\midrule")[1].split(r"\bottomrule")[0]
    return [line for line in lines.splitlines() if line.endswith(r"\\")]


def test_tables_of_a_run(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} >= {"overview.tex", "normalised.tex"}
    rows = body(folder / "overview.tex")
    assert [row.split(" & ")[0].split(" {")[0] for row in rows] == [
        "dense", "gamma", "pmod", "fastv k=3 r=0.75", "blind",
    ]  # fmt: skip
    assert all(len(re.findall(r"(?<!\\)&", row)) == 6 for row in rows)
    assert "failed" in rows[3]
    below = (folder / "overview.tex").read_text(encoding="utf-8")
    assert "n = 500" in below and "float32, sdpa, batch 8, seed 0" in below
    assert "booktabs" in below and "mini" in below


def test_bold_is_significant_alone(folder: Path) -> None:
    with (folder.parent / "accuracy.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["metric"] == "exact_match"]
    significant = [r for r in rows if r["verdict"] in ("better", "worse")]
    shown = re.findall(r"\\textbf\{([^}]*)\}", (folder / "overview.tex").read_text("utf-8"))
    expected = [text.number(100 * float(r["delta"]), signed=True) for r in significant]
    assert sorted(shown) == sorted(latex.escape(e) for e in expected)
    assert shown


def balanced(content: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\[\\{}]|[{}]", content):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0


def test_braces_and_environments_balance(folder: Path, tmp_path: Path) -> None:
    build_report(write_study(tmp_path / "ablate"))
    for path in [*folder.iterdir(), *(tmp_path / "ablate" / "tables").iterdir()]:
        content = path.read_text(encoding="utf-8")
        assert balanced(content), path.name
        begun = re.findall(r"\\begin\{([^}]*)\}", content)
        assert sorted(begun) == sorted(re.findall(r"\\end\{([^}]*)\}", content))


def test_special_characters() -> None:
    assert latex.escape("γ-MoD & 50 % of $x_1$ #3 {a}") == (
        r"$\gamma$-MoD \& 50 \% of \$x\_1\$ \#3 \{a\}"
    )
    assert latex.escape("a\\b ~ ^ − → ▼") == (
        r"a\textbackslash{}b \textasciitilde{} \textasciicircum{} $-$ $\rightarrow$ $\downarrow$"
    )
    assert latex.escape("a\x00\nb") == "a b"


@given(st.text(max_size=30))
def test_any_text_stays_inside_its_cell(word: str) -> None:
    cells = [Cell(word, word, word, strong=True), Cell(word, note=word)]
    table = Table("t", word, [Column(word, word), Column("b", prose=True)], [cells])
    content = latex.render(table, word)
    assert balanced(content)
    line = content.split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert len(re.findall(r"(?<!\\)&", line)) == 1
    assert not re.search(r"(?<!\\)[%#]", line)


@pytest.mark.skipif(LATEX is None, reason="no LaTeX")
def test_tables_compile(folder: Path, tmp_path: Path) -> None:
    inputs = "\n".join(rf"\input{{{path}}}" for path in sorted(folder.iterdir()))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\usepackage[T1]{fontenc}"
        f"\\begin{{document}}{inputs}\\end{{document}}"
    )
    command = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)


def test_bold_of_a_studys_arms_claims_no_correction(tmp_path: Path) -> None:
    """Their differences are bold by their own interval; the claims' are corrected."""
    path = write_study(tmp_path / "study")
    build_report(path)
    arms, claims = ((path / "tables" / f"{n}.tex").read_text("utf-8") for n in ("arms", "claims"))
    assert r"\textbf" in arms and r"\textbf" in claims
    assert "without correction for the number of arms" in arms and "Holm" not in arms
    assert "significant after Holm" in claims
