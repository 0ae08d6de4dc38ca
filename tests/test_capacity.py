"""What a batch takes of a GPU: memory and bounds by hand, refusals, and what the report says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.options.gpus import GPUS, find_gpu, parse_gpu
from harness.statistics.bounds import GIB, Gpu, Sample, bound, capacity_row, whole_call
from reports.capacity import _cheaper, choose, load, table
from reports.rundata import load_run
from reports.summary import summarise

# LLaVA-1.5-7B, dense, 634 prompt tokens in bfloat16: 32 layers x 2 x 4096 numbers x 2 bytes.
ENTRY = 32 * 2 * 4096 * 2 / 1024**2  # MiB a token: 0.5
DENSE = Sample(prompt=8.0, token=0.0135, kv_prompt=634 * ENTRY, kv_token=ENTRY, activations=2**26)


def test_the_largest_batch_is_what_the_room_beside_the_weights_holds() -> None:
    weights = 13 * GIB
    row = capacity_row(DENSE, weights, 4, 33, Gpu("made", 80, 312, 2039))
    each = (634 + 32) * ENTRY + 64  # MiB: cache after the 33rd token (32 stored), activations
    assert row["kv_gib"] == pytest.approx(4 * (634 + 32) * ENTRY / 1024)
    assert row["memory_gib"] == pytest.approx(13 + 4 * each / 1024)
    assert row["largest_batch"] == int((80 * 0.95 - 13) * 1024 // each)


def test_no_room_beside_the_weights_is_a_batch_of_none() -> None:
    row = capacity_row(DENSE, 30 * GIB, 1, 32, Gpu("small", 24))
    assert row["largest_batch"] == 0
    assert "prefill_ms_least" not in row  # memory alone bounds no time


def test_a_step_is_bound_by_arithmetic_or_by_the_weights() -> None:
    assert bound(3.12, 1e9, 312, 2000) == pytest.approx(10.0)  # 3.12 TFLOP at 312 TFLOP/s
    assert bound(0.01, 20e9, 312, 2000) == pytest.approx(10.0)  # 20 GB at 2,000 GB/s
    flat = Sample(prompt=3.12, token=0.0, kv_prompt=0.0, kv_token=0.0, activations=0.0)
    assert whole_call(flat, 20e9, 1, 11, 312, 2000) == pytest.approx(10.0 + 10 * 10.0)


@pytest.mark.parametrize("text", ["A100-80G", "a100_80g", " a100-80g "])
def test_names_are_read_as_people_write_them(text: str) -> None:
    assert find_gpu(parse_gpu(text)) is GPUS["a100-80g"]


def test_an_amount_of_memory_is_a_gpu_too() -> None:
    assert find_gpu(parse_gpu("24 GiB")) == Gpu("24GiB", 24.0)


def test_a_gpu_of_several_sizes_is_asked_which() -> None:
    with pytest.raises(UsageError, match=r"'a100' .*: 'a100-40g' or 'a100-80g'"):
        parse_gpu("a100")


def test_an_unknown_gpu_is_refused_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code = main(["--costs-only", "--methods", "fastv", "--gpu", "a100-80", "--out", str(out)])
    assert code == 2 and not out.exists()
    said = capsys.readouterr().err.strip()
    assert "did you mean 'a100-80g'?" in said and "\n" not in said


@pytest.mark.usefixtures("uncounted")
def test_costs_alone_end_in_a_report_that_says_what_to_choose(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    argv = ["--costs-only", "--methods", "divprune:kv=0.5,fastv", "--n-text", "8", "--n-out", "3"]
    assert main([*argv, "--gpu", "1GiB", "--batch-size", "2", "--out", str(tmp_path / "c")]) == 0
    shown = capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "c" / "capacity.csv").open(encoding="utf-8")))
    assert [row["label"] for row in rows] == ["dense", "divprune kv=0.5", "fastv"]
    cost = {}
    for row in csv.DictReader((tmp_path / "c" / "cost.csv").open(encoding="utf-8")):
        cost[row["label"]] = row  # the cache is the same in every line of a row
    for row in rows:
        assert float(row["kv_gib"]) * 1024 == pytest.approx(float(cost[row["label"]]["kv_mib_end"]))
    batches = [int(row["largest_batch"]) for row in rows]
    assert batches[1] > batches[0] > 0
    assert not rows[0]["prefill_ms_least"]
    said = choose(summarise(load_run(tmp_path / "c")))
    assert said[0].startswith("Cheapest in prompt, new token or KV cache: divprune.")
    assert "Never on costs: dense" in said[0] and said[0] in " ".join(shown.split())
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "What to choose on costs" in page and "samples on 1GiB, at most" in page


def test_what_a_budget_is_met_within_is_no_reason_for_never() -> None:
    costs = (3.228, 0.0134, 3.93)
    near = (3.242, 0.0134, 3.94)  # 0.4 % dearer: another rounding of the same budget
    assert not _cheaper(costs, near) and not _cheaper(near, costs)
    assert _cheaper(costs, (3.5, 0.0134, 3.93)) and not _cheaper((3.5, 0.0134, 3.93), costs)


def test_what_costs_alone_cannot_count_is_no_run_to_go_on_with(tmp_path: Path) -> None:
    argv = ["--costs-only", "--methods", "gamma,fastv", "--n-text", "8", "--n-out", "3"]
    assert main([*argv, "--gpu", "a100-80g", "--out", str(tmp_path / "c")]) == 0
    page = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert "not complete" not in page and "Run the same command again" not in page
    assert "not counted" in page and "depends on its weights and the picture" in page
    assert "FLOPs and KV cache of 2 rows" in page and "1 could not be counted" in page
    assert "Non-inferior" not in page  # how to read what it has, not what it has not
    summary = summarise(load_run(tmp_path / "c"))
    shown = [cell.main for row in table(summary, load(summary)).rows for cell in row[1:]]
    assert all(float(number) > 0 for number in shown)  # a small model's costs are not 0.00
    assert len(set(shown)) > len(shown) / 2
