"""--shard i/N: one cut for all workers, shares that miss nothing and are runs of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.command.cli import main, parse
from harness.common.errors import UsageError
from harness.jobs.shards import cut
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run


def cell(number: int, weights: int, limit: int) -> Any:
    """What the cut looks at."""
    key = SimpleNamespace(data="mini", limit=limit, bench="b", cell_id=str(number))
    return SimpleNamespace(key=key, bench=SimpleNamespace(documents=1000), checkpoint=weights)


cells_of_any_size = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 400)), min_size=1, max_size=12
).map(lambda rows: [cell(i, *row) for i, row in enumerate(rows)])


@given(cells_of_any_size, st.data())
def test_shares_are_a_partition_in_stretches_of_one_load(cells: list[Any], data: Any) -> None:
    count = data.draw(st.integers(1, len(cells)))
    shares = cut(cells, count)
    assert len(shares) == count and all(shares)
    flat = [one for share in shares for one in share]
    assert sorted(c.key.cell_id for c in flat) == sorted(c.key.cell_id for c in cells)
    switches = sum(a.checkpoint != b.checkpoint for a, b in pairwise(flat))
    assert switches == len({c.checkpoint for c in cells}) - 1


@given(cells_of_any_size, st.data())
def test_the_largest_share_is_as_small_as_stretches_allow(cells: list[Any], data: Any) -> None:
    count = data.draw(st.integers(1, min(4, len(cells))))
    shares = cut(cells, count)
    sizes = [c.key.limit for share in shares for c in share]

    def best(sizes: list[int], count: int) -> int:
        if count == 1:
            return sum(sizes)
        return min(
            max(sum(sizes[:i]), best(sizes[i:], count - 1))
            for i in range(1, len(sizes) - count + 2)
        )

    assert max(sum(c.key.limit for c in share) for share in shares) == best(sizes, count)


@dataclass
class Unready:
    """A bench of the hub, as two machines see it: one has the documents already."""

    documents: int | None
    name: str = "gqa"


def test_what_lies_in_a_cache_does_not_move_the_cut() -> None:
    def cells(known: int | None) -> list[Any]:
        keys = [
            SimpleNamespace(data="hub", limit=None, bench=name, cell_id=f"{name}{i}")
            for name in ("gqa", "pope", "their_own_task")
            for i in range(3)
        ]
        return [SimpleNamespace(key=k, bench=Unready(known), checkpoint=None) for k in keys]

    one, other = ([[c.key.cell_id for c in s] for s in cut(cells(n), 4)] for n in (None, 7))
    assert one == other


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0/3", "the shares of 3 are 1/3 to 3/3"),
        ("4/3", "the shares of 3 are 1/3 to 3/3"),
        ("3", "expected i/N, the i-th of N shares from 1, got '3'"),
        ("a/b", "expected i/N"),
        ("1/0", "expected i/N"),
        ("-1/2", "expected i/N"),
        ("1/2/3", "expected i/N"),
        ("", "expected i/N"),
    ],
)
def test_bad_shares_are_refused(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=r"^--shard: ") as error:
        parse(["--methods", "fastv", "--bench", "gqa", f"--shard={text}"])
    assert says in str(error.value)


def test_more_shares_than_cells_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="7 shares are too many: 6 cells make at most 6 shares"):
        run(out, shard="1/7")
    assert not out.exists()


def test_words_of_whoever_runs_it_are_no_keys_of_a_suite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("methods: [fastv]\nbench: [gqa]\nshard: 1/2\n")
    assert main(["--suite", str(suite)]) == 2
    said = capsys.readouterr().err
    assert "--shard belongs on the command line" in said and said.count("\n") == 1
    assert main(["--methods", "fastv", "--costs-only", "--shard", "1/2"]) == 2
    assert "--shard has no meaning with --costs-only" in capsys.readouterr().err


def test_shares_together_are_the_run(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    assert run(whole) == 0
    all_ids = [row["cell_id"] for row in read_rows(whole / "cells.csv")]
    found: list[str] = []
    for number in (1, 2, 3):
        out = tmp_path / f"share{number}"
        assert run(out, shard=f"{number}/3") == 0
        about = json.loads((out / "run.json").read_text())
        assert about["settings"]["shard"] == about["shard"]["of"] == f"{number}/3"
        assert list(about["shard"]["cells"]) == all_ids
        assert about["cells"] == [row["cell_id"] for row in read_rows(out / "cells.csv")]
        found += about["cells"]
        for cell_id in about["cells"]:
            for name in (f"samples/{cell_id}.csv", f"records/{cell_id}.gz"):
                assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert sorted(found) == sorted(all_ids)


def test_a_directory_is_of_one_share(tmp_path: Path) -> None:
    out, again = tmp_path / "run", FakeRun()
    assert run(out, shard="1/2") == 0
    assert run(out, again, shard="1/2") == 0
    assert again.loads == 0
    for other, says in (("2/2", "--shard 1/2, now it is --shard 2/2"), (None, "no --shard")):
        with pytest.raises(UsageError, match="choose another --out") as error:
            run(out, shard=other)
        assert says in str(error.value)
