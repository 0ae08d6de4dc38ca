"""``--check METHOD --family NAME``: the matrix of methods and families, from the command line."""

from __future__ import annotations

import csv
from pathlib import Path
from textwrap import dedent

import pytest

import methods
from harness.command.cli import main
from harness.common.roots import ROOT
from methods import REGISTRY

FAILING = """
    from dataclasses import dataclass
    from typing import ClassVar

    from methods.base import Drop, Method, Tokens


    @dataclass(frozen=True)
    class Batchy(Method):
        '''Drops an image token more for every row of the batch, which no single prompt has.'''

        name: ClassVar[str] = "batchy"

        def mod_layers(self, info):
            return [True] * info.layers

        def before(self, seq: Tokens):
            keep = seq.valid.clone()
            for row in range(len(seq.counts)):
                keep[row, seq.image[row].nonzero()[:row]] = False
            return Drop(keep, keep.sum(dim=1).tolist())
"""


def written(out: Path) -> list[dict[str, str]]:
    """The matrix as the contract's file has it."""
    with (out / "families.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_method_works_and_another_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--check", "fastv", "--family", "qwen2_5_vl", "--out", str(tmp_path)]) == 0
    (row,) = written(tmp_path)
    assert list(row) == ["family", "method", "status", "reason", "seconds"]
    assert (row["family"], row["method"], row["status"]) == ("qwen2_5_vl", "fastv", "works")
    assert float(row["seconds"]) > 0
    assert main(["--check", "cdpruner", "--family", "qwen2_5_vl", "--out", str(tmp_path)]) == 0
    (row,) = written(tmp_path)
    assert row["status"] == "refused" and "relevance=words works" in row["reason"]
    assert "0 failed" in capsys.readouterr().out


def test_what_depends_on_its_batch_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "REGISTRY", dict(REGISTRY))  # the file's method stays in this test
    file = tmp_path / "batchy.py"
    file.write_text(dedent(FAILING))
    out = tmp_path / "out"
    assert main(["--check", str(file), "--family", "llava", "--out", str(out)]) == 3
    (row,) = written(out)
    assert row["status"] == "failed" and row["reason"].startswith("batch_is_single: ")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--check", "fastv", "--family", "qwen25_vl"], "did you mean 'qwen2_5_vl'?"),
        (["--family", "llava", "--methods", "fastv", "--bench", "gqa"], "--family"),
        (["--check", "fastv", "--out", "somewhere"], "add --family"),
        (["--check", "fastvv", "--family", "all"], "did you mean 'fastv'?"),
    ],
)
def test_wrong_words_are_one_line(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_page_has_every_method_on_every_family() -> None:
    from harness.families.catalog import FAMILIES

    shipped = {name for name, one in REGISTRY.items() if one.target.startswith("methods.")}
    with (ROOT / "docs" / "families.csv").open(encoding="utf-8", newline="") as file:
        rows = [(row["family"], row["method"], row["status"]) for row in csv.DictReader(file)]
    assert len(rows) == len({row[:2] for row in rows})
    assert {row[:2] for row in rows} == {(f, m) for f in FAMILIES for m in shipped}
    assert {status for *_, status in rows} == {"works", "refused"}
