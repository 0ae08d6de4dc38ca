"""The report's other tables as LaTeX: those that fit, and every character survives a compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import latex
from reports.paper.tex import escape
from reports.tables import Cell, Column, Table

LATEX = shutil.which("pdflatex")
UNIT = "%, 95 % CI"


def small(name: str = "small", columns: int = 3) -> Table:
    """A table with everything that a cell may hold."""
    heads = [Column("Method", numeric=False)]
    heads += [Column(f"Bench {i}", UNIT, mini=True) for i in range(1, columns)]
    cell = Cell("61.2", "[58.0, 64.1]", "−1.3", "[−2.5, −0.1]", strong=True, mark="†")
    label = Cell("gamma", sub="layers=0+2+4+7+8+9+10+11 mask=QA rule=topk", note="control")
    return Table(name, "Accuracy & more", heads, [[label, *[cell] * (columns - 1)]] * 3, "A note.")


def balanced(content: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\[\\{}]|[{}]", content):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth < 0:
            return False
    return depth == 0


def test_what_fits_is_written_and_says_what_it_is(tmp_path: Path) -> None:
    (path,) = latex.write([small(), small("wide", 9)], tmp_path, "cpu, float32, n = 500")
    content = path.read_text(encoding="utf-8")
    assert path.name == "small.tex"
    assert "n = 500" in content and "mini" in content and r"\usepackage{booktabs}" in content
    assert "significant after Holm" in content and "A note." in content


def test_what_an_earlier_report_wrote_goes(tmp_path: Path) -> None:
    """Nothing that a reader wrote."""
    latex.write([small(), small("other")], tmp_path, "")
    (tmp_path / "mine.tex").write_text("by hand", encoding="utf-8")
    latex.write([small(), small("other", 9)], tmp_path, "")
    assert {one.name for one in tmp_path.iterdir()} == {"small.tex", "mine.tex"}


def test_bold_is_significant_alone() -> None:
    plain, strong = Cell("1.0"), Cell("2.0", strong=True)
    table = Table("t", "T", [Column("a"), Column("b")], [[plain, strong]])
    assert re.findall(r"\\textbf\{([^}]*)\}", latex.render(table, "")) == ["2.0"]


def test_bold_of_a_studys_arms_claims_no_correction() -> None:
    """Their differences are bold by their own interval; the claims' are corrected."""
    arms, claims = (latex.render(small(name), "") for name in ("arms", "claims"))
    assert "without correction for the number of arms" in arms and "Holm" not in arms
    assert "significant after Holm" in claims


def test_special_characters() -> None:
    assert escape("γ-MoD & 50 % of $x_1$ #3 {a}") == (
        r"$\gamma$-MoD \& 50 \% of \$x\_1\$ \#3 \{a\}"
    )
    assert escape("a\\b ~ ^ − → ▼") == (
        r"a\textbackslash{}b \textasciitilde{} \textasciicircum{} $-$ $\rightarrow$ $\downarrow$"
    )
    assert escape("a\x00\nb") == "a b"
    assert escape("Rubèn 方") == r"Rub\`{e}n (U+65B9)"


@given(st.text(max_size=30))
def test_any_text_stays_inside_its_cell(word: str) -> None:
    cells = [Cell(word, word, word, strong=True), Cell(word, note=word)]
    table = Table("t", word, [Column(word, word), Column("b", prose=True)], [cells])
    content = latex.render(table, word)
    assert balanced(content)
    if content:
        line = content.split("\\midrule\n")[1].split("\n\\bottomrule")[0]
        assert len(re.findall(r"(?<!\\)&", line)) == 1
        assert not re.search(r"(?<!\\)[%#]", line)


@pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")
@pytest.mark.parametrize("layout", ["", "twocolumn"])
def test_tables_compile_within_the_page(tmp_path: Path, layout: str) -> None:
    latex.write([small(), small("four", 4)], tmp_path, "conditions " * 40)
    inputs = "\n".join(rf"\input{{{path.name}}}" for path in sorted(tmp_path.glob("*.tex")))
    (tmp_path / "doc.tex").write_text(
        f"\\documentclass[{layout}]{{article}}\\usepackage{{booktabs}}"
        f"\\begin{{document}}{inputs}\\end{{document}}"
    )
    command = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert "Overfull" not in (tmp_path / "doc.log").read_text(errors="replace")
