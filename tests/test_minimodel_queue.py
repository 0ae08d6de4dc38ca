"""Recipes side by side: who waits for whom, how many run at a time, what a failure does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.common.errors import HarnessError
from harness.common.threads import cores
from harness.minimodel import shipping
from harness.minimodel.queue import Queue, needs
from harness.train.__main__ import main as train

# Stands for the training: notes when it begins and ends; fails where its recipe's name says so.
FAKE = """#!{python}
import os, pathlib, sys, time
recipe, work = (pathlib.Path(sys.argv[sys.argv.index(k) + 1]) for k in ("--recipe", "--work"))
name = recipe.stem
(work / f"{{name}}.begun").write_text(os.environ["OMP_NUM_THREADS"] + " " + " ".join(sys.argv))
print("here", flush=True)
time.sleep(0.4)
(work / f"{{name}}.over").write_text("")
sys.exit(3 if "bad" in name else 0)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "fake"
    program.write_text(FAKE.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return tmp_path / "work"


def recipes(folder: Path, **starts: str) -> list[Path]:
    found = []
    for name, start in starts.items():
        found.append(folder / f"{name}.yaml")
        found[-1].write_text(f"stage: tune\nstart: {start or 'given'}\n")
    return found


def test_methods_wait_for_the_dense_model_and_not_for_each_other() -> None:
    (parts,) = shipping.named("tiny-llava").values()
    asked = needs(shipping.recipes(parts))
    assert asked["pmod-first"] == asked["gamma-first"] == asked["dense-longer-first"] == {"dense"}
    assert asked["gamma"] == {"dense", "gamma-third"}
    assert asked["mqt"] == {"dense", "mqt-second"}
    assert "tower" in asked["align"] | asked["dense-first"]
    assert not asked["tower"]


def test_two_at_a_time_in_an_order_that_holds(tmp_path: Path, fake: Path) -> None:
    paths = recipes(tmp_path, first="", a="first", b="first", c="first", last="a")
    said = list(Queue(paths, fake, ["--seed", "4"], 2).run())
    order = [line.split(" ")[:2] for line in said]
    at_once, most = 0, 0
    for _, word in order:
        at_once += 1 if word == "begun," else -1
        most = max(most, at_once)
    assert most == 2 and at_once == 0 and len(order) == 10
    places = {(name[:-1], word): i for i, (name, word) in enumerate(order)}
    assert places["b", "begun,"] < places["a", "done"], "side by side"
    for name, needed in {"a": "first", "b": "first", "c": "first", "last": "a"}.items():
        assert places[needed, "done"] < places[name, "begun,"]
    assert {p.stem for p in fake.glob("*.log")} == {"first", "a", "b", "c", "last"}
    assert (fake / "first.begun").read_text().split()[0] == str(cores()), "it is alone"
    threads, *words = (fake / "c.begun").read_text().split()
    assert int(threads) >= 1
    assert words[-4:] == ["--seed", "4", "--work", str(fake)]


def test_a_failure_begins_nothing_new_and_leaves_the_others_to_end(
    tmp_path: Path, fake: Path
) -> None:
    paths = recipes(tmp_path, bad="", good="", next="bad", later="")
    with pytest.raises(HarnessError, match=r"bad \(exit code 3\).*same command"):
        list(Queue(paths, fake, [], 2).run())
    assert (fake / "good.over").exists()
    assert not (fake / "next.begun").exists()


@pytest.mark.parametrize(
    "words",
    [["--all", "--jobs", "0"], ["--recipe", "x.yaml", "--jobs", "2"], ["--ship", "--jobs", "2"]],
)
def test_jobs_without_a_meaning_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(words) == 2
    assert "--jobs: expected" in capsys.readouterr().err


def test_an_interrupt_ends_what_runs(tmp_path: Path, fake: Path) -> None:
    queue = Queue(recipes(tmp_path, one="", two=""), fake, [], 2)
    lines = queue.run()
    assert [next(lines).split(":")[0] for _ in range(2)] == ["one", "two"]
    processes = [process for process, _ in queue.running.values()]
    lines.close()
    assert all(process.poll() for process in processes)
    assert not list(fake.glob("*.over"))
