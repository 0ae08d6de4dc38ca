"""What a run puts into a paper: the tables compile and fit, say what is settled, and are true."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from methods import REGISTRY, Entry
from reports import build_report
from reports import ranking as rank
from reports.files import check_free
from reports.paper import files, names
from reports.paper.tex import POINTS, escape, width
from reports.rundata import load_run
from reports.summary import summarise
from tests.fixtures.compared import write_compared
from tests.fixtures.runs import write_run

LATEX = shutil.which("pdflatex")
compiled = pytest.mark.skipif(LATEX is None, reason="pdflatex is not installed")
TWELVE = ("gqa", "textvqa", "pope", "scienceqa", "chartqa", "docvqa", "infovqa", "mmmu", "vqav2",
          "mmbench", "vizwiz", "own_data_long_name")  # fmt: skip
MANY = [name for name in REGISTRY if name != "freevideollm"]
ODD = ["my_method_50%&co", "αβ×γ-a-method-whose-name-never-ends_v2", "方法#1 a=~^ b=\\x{}"]
BUDGETS = [f"{m} kv={kv}" for kv in (0.5, 0.33, 0.11) for m in ("fastv", "divprune", "random")]


def run(path: Path, compare: bool = True, **more: object) -> Path:
    """A made-up run; rows called NAME kv=SHARE keep that share."""
    write_run(path, **{"failed": (), "without_cost": (), **more})  # type: ignore[arg-type]
    for name, column in (("cost", "kv_ratio_vision"), ("accuracy", "budget_asked")):
        frame = pd.read_csv(path / f"{name}.csv", dtype=str, keep_default_na=False)
        asked = frame["label"].str.extract(r"kv=([0-9.]+)")[0]
        if name == "accuracy":
            frame["budget_asked"] = frame["budget_met"] = asked.fillna("")
            frame["budget_unit"] = asked.map(lambda x: "share" if isinstance(x, str) else "")
            frame["budget_within"] = asked.map(lambda x: "1" if isinstance(x, str) else "")
        else:
            here = asked.notna() & (frame[column] != "")
            frame.loc[here, column] = asked[here]
        frame.to_csv(path / f"{name}.csv", index=False)
    return write_compared(path, noise=0.004) if compare else path


def written(path: Path) -> dict[str, str]:
    """The four files of a run, by name."""
    summary = summarise(load_run(path))
    paths = files.write(summary, rank.load(summary), path)
    return {one.name: one.read_text(encoding="utf-8") for one in paths}


def rows(tex: str) -> dict[str, list[str]]:
    """Cells behind the name of each row of the first table."""
    body = tex.split(r"\midrule", 1)[1].split(r"\bottomrule")[0]
    lines = [line.removesuffix(r" \\") for line in body.splitlines() if " & " in line]
    return {line.split(" & ")[0]: line.split(" & ")[1:] for line in lines}


CASES: dict[str, dict[str, object]] = {
    "old": {"compare": False, "failed": (("fastv k=3 r=0.75", "textvqa"),)},
    "one bench": {"benches": ("gqa",)},
    "four benches": {"benches": ("gqa", "textvqa", "scienceqa", "pope"), "methods": (
        "dense", "gamma", "pmod", "fastv k=3 r=0.75", "fastv k=2", "random", "blind")},
    "twelve benches": {"benches": TWELVE, "failed": (("pmod", "mmmu"),)},
    "all methods": {"benches": ("gqa", "pope"), "methods": (*MANY, *ODD)},
    "budgets": {"methods": ("dense", *BUDGETS, "blind")},
    "three budgets of all methods": {"benches": ("gqa", "pope"), "methods": ("dense", *(
        f"{m} kv={kv}" for kv in (0.5, 0.33, 0.11) for m in MANY if m not in ("dense", "blind")))},
}  # fmt: skip


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run a case, each with its tables."""
    folder = tmp_path_factory.mktemp("cases")
    for case, more in CASES.items():
        written(run(folder / case.replace(" ", "-"), **more))
    return folder


@compiled
@pytest.mark.parametrize("layout", ["", "twocolumn"])
def test_every_case_compiles_without_an_overfull_box(cases: Path, layout: str) -> None:
    tables = [rf"\input{{{path.relative_to(cases)}}}" for path in sorted(cases.glob("*/*/*.tex"))]
    assert len(tables) == 2 * len(CASES)
    log = compile_tex(cases, [rf"{one}\clearpage" for one in tables], layout)
    assert "Overfull" not in log
    assert "Float too large" not in log
    assert not re.search(r"^!", log, re.MULTILINE)


def compile_tex(folder: Path, body: Sequence[str], layout: str = "") -> str:
    (folder / "doc.tex").write_text(
        f"\\documentclass[{layout}]{{article}}\\usepackage{{booktabs,longtable}}"
        "\\begin{document}\nText.\n\n" + "\n".join(body) + "\n\\end{document}\n"
    )
    command = [str(LATEX), "-interaction=nonstopmode", "-halt-on-error", "doc.tex"]
    subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    return (folder / "doc.log").read_text(encoding="utf-8", errors="replace")


@compiled
def test_estimated_widths_are_the_compilers(tmp_path: Path) -> None:
    """Never narrower than TeX sets it, and wider by a twentieth at most."""
    words = ["LLaVolta", "FastV (k=3, r=0.75)", "[−11.4, +1.1]", "100.0", "my_method_50%&co",
             "ScienceQA", "MMMU", "γ-MoD", "WIMmw.,;:!", "abcdefghijklmnopqrstuvwxyz",
             "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789/+=<>",
             "方法#1 a=~^ b=\\x{}…", "éñçü"]  # fmt: skip
    lines = [
        rf"\sbox0{{\{size} {escape(word)}}}\typeout{{WIDTH \the\wd0}}"
        for size in POINTS
        for word in words
    ]
    found = re.findall(r"WIDTH ([0-9.]+)pt", compile_tex(tmp_path, lines))[: len(lines)]
    expected = [points * width(word) for points in POINTS.values() for word in words]
    for real, ours in zip(map(float, found), expected, strict=True):
        assert real <= 1.01 * ours + 0.3  # kerning
        assert ours <= 1.05 * real + 0.5


@compiled
@given(words=st.lists(st.text(max_size=30), min_size=20, max_size=20))
@settings(max_examples=3, deadline=None)
def test_any_text_is_printed(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> None:
    folder = tmp_path_factory.mktemp("tex")
    log = compile_tex(folder, [rf"A {escape(word)} B\par" for word in words])
    assert not re.search(r"^!", log, re.MULTILINE)


def test_bold_is_what_is_settled_within_a_budget(tmp_path: Path) -> None:
    """Recounted from the pairs: better than all others of the budget, on that bench."""
    path = run(tmp_path, methods=("dense", *BUDGETS, "blind"), benches=("gqa", "pope"))
    tex = written(path)["paper.tex"]
    pairs = pd.read_csv(path / "comparisons.csv")
    pairs = pairs[pairs["comparable"] == 1]
    expected = 0
    for bench in ("gqa", "pope", "(average)"):
        here = pairs[pairs["bench"] == bench]
        for label in BUDGETS:
            own = [r.verdict for r in here.itertuples() if r.a == label]
            own += [{"better": "worse", "worse": "better"}.get(r.verdict, r.verdict)
                    for r in here.itertuples() if r.b == label]  # fmt: skip
            expected += len(own) == 2 and set(own) == {"better"}
    assert expected > 0
    assert tex.count(r"\textbf{") == expected
    assert "controls included" in tex and "Ties are neither" in tex


def test_ties_are_not_bold(tmp_path: Path) -> None:
    path = run(tmp_path, compare=False, methods=("dense", *BUDGETS))
    write_compared(path, noise=5.0)
    tex = written(path)["paper.tex"]
    assert r"\textbf{" not in tex and r"\underline{" not in tex
    assert "Nothing is bold: no row is settled" in tex


def test_rows_stand_under_their_budget(tmp_path: Path) -> None:
    tex = written(run(tmp_path, methods=("dense", *BUDGETS, "blind")))["paper.tex"]
    found = re.findall(r"\\emph\{(\d+) \\% of the image's KV cache\}", tex)
    assert found == ["50", "33", "11"]
    assert tex.count("FastV & ") == 3
    assert "kv=" not in tex


def test_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    path = run(tmp_path, methods=("dense", "gamma", "random"), benches=("gqa", "pope"))
    cells = rows(written(path)["paper.tex"])[r"$\gamma$-MoD"]
    frame = pd.read_csv(path / "accuracy.csv").query("label == 'gamma' and metric == 'exact_match'")
    averages = pd.read_csv(path / "averages.csv").set_index("label").loc["gamma"]
    bare = [re.sub(r"\\textbf\{([^}]*)\}", r"\1", cell) for cell in cells]
    assert bare[1:3] == [f"{100 * value:.1f}" for value in frame["value"]]
    assert bare[3:5] == [f"{100 * averages['average']:.1f}", f"{100 * averages['of_dense']:.1f}"]


def test_mini_failed_and_unknown_are_said(tmp_path: Path) -> None:
    path = run(tmp_path, failed=(("fastv k=3 r=0.75", "textvqa"),), benches=("gqa", "textvqa"))
    found = written(path)
    assert "(mini data)" in found["paper.tex"] and "(mini model)" in found["paper.tex"]
    assert rows(found["paper.tex"])["FastV"][2] == "--"
    assert "failed: FastV on TextVQA" in found["paper.tex"]
    assert "out of memory" in found["appendix.tex"].replace(r"\allowbreak{}", "")
    assert "1 of 10 cells failed" in found["conditions.txt"]
    assert "n = 500" in found["paper.tex"]


def test_the_appendix_has_every_cell_and_the_pairs(tmp_path: Path) -> None:
    path = run(tmp_path, methods=("dense", *BUDGETS), benches=("gqa", "pope"))
    tex = written(path)["appendix.tex"]
    assert len(re.findall(r"^(?:GQA|POPE) .* & 500 & ", tex, re.MULTILINE)) == 20
    pairs = pd.read_csv(path / "comparisons.csv")
    count = int(((pairs["comparable"] == 1) & (pairs["bench"] == "(average)")).sum())
    last = tex.split(r"\label{tab:pairs}")[1]
    assert (
        len(re.findall(r" & (?:better|worse|non-inferior|inconclusive) \\\\$", last, re.M)) == count
    )


def test_every_method_and_bench_that_has_a_paper_is_cited(tmp_path: Path) -> None:
    path = run(tmp_path, methods=("dense", "fastv", "gamma", ODD[0], "blind"), benches=("gqa",))
    bib = written(path)["CITATION.bib"]
    keys = re.findall(r"^@\w+\{(.*),$", bib, re.MULTILINE)
    assert keys == ["chen2024fastv", "luo2025gammamod", "zhang2024lmmseval", "hudson2019gqa"]
    assert f"% {ODD[0]}: a method of your own" in bib
    assert "not GQA itself" in bib


def shipped() -> dict[str, Entry]:
    """Our own methods; a file's that another test of this process took up is not among them."""
    return {n: entry for n, entry in REGISTRY.items() if entry.target.startswith("methods.")}


def test_references_know_every_method_and_bench_of_the_registries() -> None:
    from harness.bench.catalog import BENCHES  # torch-free

    known = names.references()
    assert set(shipped()) <= set(known["methods"])
    assert set(BENCHES) <= set(known["benches"])


def test_papers_in_the_methods_files_are_those_that_are_cited() -> None:
    """The arXiv number that a method's file begins with, where it has one."""
    for name, entry in shipped().items():
        source = Path(__file__).parents[1] / (entry.target.split(":")[0].replace(".", "/") + ".py")
        said = re.search(r"\b\d{4}\.\d{5}\b", source.read_text(encoding="utf-8")[:300])
        cited = names.references()["methods"][name].get("eprint")
        assert cited == (said[0] if said else None), name


def test_conditions_can_be_pasted_into_latex_and_are_the_runs(tmp_path: Path) -> None:
    path = run(tmp_path, methods=("dense", "gamma", "random"), benches=("gqa", "pope"))
    said = written(path)["conditions.txt"]
    assert "gamma-MoD" in said and said.isascii()
    assert said.count("\n") == 1 and not set("%&_#$^~\\{}") & set(said)
    for fact in ("tiny-llava", "float32", "sdpa", "batch size 8", "n = 500", "mini",
                 "lmms-eval 0.7.3", "Holm", "McNemar", "device cpu", "seed 0"):  # fmt: skip
        assert fact in said, fact
    tests = (
        pd.read_csv(path / "accuracy.csv").query("metric == 'exact_match'")["p_adjusted"].count()
    )
    assert f"{tests} tests" in said


def test_nothing_is_claimed_that_the_run_does_not_say(tmp_path: Path) -> None:
    path = run(tmp_path, compare=False, methods=("dense", "gamma"), benches=("gqa",))
    (path / "run.json").unlink()
    (path / "cost.csv").unlink()
    said = written(path)["conditions.txt"]
    for fact in ("float32", "sdpa", "FLOP", "KV", "margin", "seed", "batch", "revision"):
        assert fact not in said, fact


def test_a_report_has_them_and_may_be_written_over(tmp_path: Path) -> None:
    path, out = run(tmp_path / "run"), tmp_path / "out"
    build_report(path, out)
    assert {"CITATION.bib", "conditions.txt"} <= {one.name for one in out.iterdir()}
    assert {"paper.tex", "appendix.tex"} <= {one.name for one in (out / "tables").iterdir()}
    check_free(out)
