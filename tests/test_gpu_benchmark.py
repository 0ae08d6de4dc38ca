"""``benchmarks/gpu.py`` at toy size: its plan, its files, going on, and what runs out of memory."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
QWEN = "Qwen/Qwen2.5-VL-7B-Instruct"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("gpu")
    torch.set_num_threads(threads)


def call(gpu: Any, monkeypatch: pytest.MonkeyPatch, out: Path, *words: str) -> int:
    command = ["gpu.py", "--dry-run", "--models", QWEN, "--batches", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--methods", "dense", "fastv:r=0.5", *words])
    return int(gpu.main())


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rounds_are_kept_gone_on_with_and_summed_up(gpu, monkeypatch, tmp_path, capsys):
    assert call(gpu, monkeypatch, tmp_path, "--rounds", "2") == 0
    said = capsys.readouterr().out
    assert said.index("together about") < said.index("building")  # the plan comes first
    first = (tmp_path / "rounds.csv").read_text()
    assert {(r["round"], r["method"]) for r in table(tmp_path / "rounds.csv")} == {
        (n, m) for n in "01" for m in ("dense", "fastv:r=0.5")
    }
    # A machine that went away in the middle of a line.
    (tmp_path / "rounds.csv").write_text(first + f"{QWEN},1")
    assert call(gpu, monkeypatch, tmp_path, "--rounds", "3") == 0
    after = table(tmp_path / "rounds.csv")
    assert {r["round"] for r in after if r["ms"]} == {"0", "1", "2"}
    row = next(
        r for r in table(tmp_path / "summary.csv")
        if (r["method"], r["phase"]) == ("fastv:r=0.5", "prefill")
    )  # fmt: skip
    assert row["rounds"] == "3"
    ratio = float(row["speedup"]) / float(row["flops_ratio"])
    assert float(row["realisation"]) == pytest.approx(ratio, rel=1e-3)


def test_out_of_memory_is_marked_and_the_others_go_on(gpu, monkeypatch, tmp_path):
    timed = gpu.timed

    def full(model: Any, prompt: Any, n_out: int, clock: Any) -> Any:
        if "fastv" in model.model.language_model.forward.__self__.method.spec:
            raise torch.OutOfMemoryError("no room")
        return timed(model, prompt, n_out, clock)

    monkeypatch.setattr(gpu, "timed", full)
    assert call(gpu, monkeypatch, tmp_path, "--rounds", "1") == 0
    rows = table(tmp_path / "summary.csv")
    found = [(r["phase"], r["status"]) for r in rows if r["method"] == "fastv:r=0.5"]
    assert found == [("", "out of memory")]
    assert any(r["method"] == "dense" and r["status"] == "timed" for r in rows)


def test_other_conditions_and_a_missing_device_are_refused(gpu, monkeypatch, tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"methods": ["dense"]}')
    assert call(gpu, monkeypatch, tmp_path) == 2
    assert "choose another --out" in capsys.readouterr().err
    if not torch.cuda.is_available():
        monkeypatch.setattr(sys, "argv", ["gpu.py", "--plan"])
        assert gpu.main() == 2
        assert "--dry-run" in capsys.readouterr().err
