"""Conversations of several rounds, sampled answers, repeated questions, forms that are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.bench.request import GenerationKwargs
from harness.bench.wants import refuse_mixed, refuse_unanswerable
from harness.common.errors import CellError, UsageError
from harness.model.session import Session
from tests.loop.cells import comparable, predictions, run
from tests.loop.own_tasks import ROWS, write

TALK = "generate_until_multi_round"
HOT = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 6}
FASTV = methods.parse("fastv:k=1")


# --- several rounds -------------------------------------------------------------------------
def test_each_round_is_a_prompt_of_its_own(llava: Session, tmp_path: Path) -> None:
    """The rounds of a document are those of the same questions asked one by one."""
    talk = run(llava, write(tmp_path, TALK), FASTV, batch_size=2)
    single = run(llava, write(tmp_path, "generate_until"), FASTV)
    asked: list[tuple[str, int]] = []
    rounds = [int(score) for score in talk.headline.scores.values()]
    assert set(rounds) == {1 + len(p) % 3 for p in predictions(single)} and len(set(rounds)) > 1
    last = list(predictions(single))
    for number in range(1, max(rounds)):
        again = [
            (f"no red {text} {number}", row[1] * (number == 1), row[2], row[3])
            for text, row in zip(last, ROWS, strict=True)
        ]
        asked = [(row[0], row[1]) for row in again]
        after = run(llava, write(tmp_path, "generate_until", rows=again), FASTV)
        for i, count in enumerate(rounds):
            if count > number:
                last[i] = after.samples[i].prediction
                if count == number + 1:  # the record is that of the last round
                    mine, other = talk.records[str(i)], after.records[str(i)]
                    assert mine.route.tolist() == other.route.tolist()
                    assert talk.samples[i].n_out == after.samples[i].n_out
    assert asked and predictions(talk) == last
    assert talk.notes == (
        f"{sum(rounds)} rounds in {len(ROWS)} conversations, each with a prompt of its own; "
        "record, cost and cache are those of the last round",
    )


def test_a_killed_conversation_goes_on(llava: Session, tmp_path: Path) -> None:
    bench = write(tmp_path, TALK)
    whole = comparable(run(llava, bench, batch_size=2))
    assert {**whole, "batch_size": 1} == comparable(run(llava, bench))
    log = tmp_path / "cell" / "log.jsonl"

    def kill(answered: int, everything: int) -> None:
        if answered >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llava, bench, batch_size=2, response_log=log, on_batch=kill)
    assert comparable(run(llava, bench, batch_size=2, response_log=log)) == whole


def test_a_conversation_without_end(
    llava: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.bench.forms import converse

    monkeypatch.setattr(converse, "MOST", 1)
    with pytest.raises(CellError, match=r"sample own/\d: no end after 1 rounds"):
        run(llava, write(tmp_path, TALK))


def test_a_task_that_cannot_go_on(llava: Session, tmp_path: Path) -> None:
    bench = write(tmp_path, TALK)
    code = tmp_path / "utils.py"
    code.write_text(code.read_text().replace("stop = round_idx", "stop = round_idx + doc['gone']"))
    with pytest.raises(CellError, match=r"^sample own/0, round 2: KeyError: 'gone'$"):
        run(llava, bench)


# --- sampling and repeats -------------------------------------------------------------------
@pytest.mark.parametrize("form", ["generate_until", TALK])
def test_draws_depend_on_no_batch_and_no_resume(form: str, llava: Session, tmp_path: Path) -> None:
    bench = write(tmp_path, form, generation_kwargs=HOT)
    drawn = run(llava, bench, sample=True)
    assert drawn.notes[0] == "sampled as the task asks: temperature 5"
    other = comparable(run(llava, bench, sample=True, batch_size=3))
    assert {**other, "batch_size": 1} == comparable(drawn)
    log = tmp_path / "cell" / "log.jsonl"

    def kill(answered: int, everything: int) -> None:
        if answered >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llava, bench, sample=True, response_log=log, on_batch=kill)
    assert comparable(run(llava, bench, sample=True, response_log=log)) == comparable(drawn)
    fewer = run(llava, bench, sample=True, limit=2)  # what stands behind changes nothing before
    assert predictions(fewer) == predictions(drawn)[:2]


def test_draws_follow_the_probabilities() -> None:
    """Frequencies of many draws from a known distribution, with and without its tail."""
    import torch

    from harness.bench.drawing import Draw

    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    names = [f"gqa/{i}" for i in range(4000)]
    for more, expected in (
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.7}, [0.625, 0.375, 0, 0]),
        ({"top_k": 3.0}, [0.5263, 0.3158, 0.1579, 0]),
        ({"temperature": 0.5}, [0.6849, 0.2466, 0.0616, 0.0068]),
    ):
        kwargs = {"do_sample": True, "temperature": 1.0, **more}
        how, _ = GenerationKwargs.of_task(kwargs, sample=True, default_max=8)
        only = Draw(how, 0, names)(torch.zeros(1, 1), scores.expand(len(names), -1))
        shares = (only > -torch.inf).float().mean(dim=0)
        assert ((only > -torch.inf).sum(dim=1) == 1).all()
        assert shares.tolist() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(
    ("kwargs", "drawn"),
    [
        ({"do_sample": True}, (("temperature", 1.0),)),
        ({"do_sample": True, "temperature": 0}, ()),  # as lmms-eval's own models take it
        ({"do_sample": False, "temperature": 0.2}, ()),
        ({"temperature": 0.2, "top_p": 0.9}, (("temperature", 0.2), ("top_p", 0.9))),
    ],
)
def test_what_counts_as_sampling(kwargs: Any, drawn: Any) -> None:
    how, note = GenerationKwargs.of_task(kwargs, sample=True, default_max=8)
    assert how.sampling == drawn and bool(note) == bool(drawn)
    how, note = GenerationKwargs.of_task(kwargs, sample=False, default_max=8)
    assert how.sampling == () and ("greedily" in note) == bool(drawn)


def test_repeated_questions(llava: Session, tmp_path: Path) -> None:
    """Greedy answers are all the same and made once; drawn ones are each made."""
    generated = []
    several = {"name": "all", "filter": [{"function": "take_first_k", "k": 3}]}
    once = run(llava, write(tmp_path, "generate_until", generation_kwargs=HOT))
    bench = write(
        tmp_path, "generate_until", generation_kwargs=HOT, repeats=3, filter_list=[several]
    )

    def count(answered: int, everything: int) -> None:
        generated.append(everything)

    greedy = run(llava, bench, on_batch=count)
    assert predictions(greedy) == predictions(once) and set(generated) == {len(ROWS)}
    assert "asked 3 times a question; answered once, as greedy answers are the same" in greedy.notes
    generated.clear()
    drawn = run(llava, bench, on_batch=count, sample=True)
    assert set(generated) == {3 * len(ROWS)}
    single = write(tmp_path, "generate_until", generation_kwargs=HOT)
    assert predictions(drawn) == predictions(run(llava, single, sample=True))  # the first of three


# --- refused --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"output_type": "generate_until_agentic"}, "wants generate_until_agentic requests"),
        ({"num_fewshot": 2}, "shows 2 solved examples before each question"),
        ({"output_type": "loglikelihood", "process_results": None}, "has no process_results"),
        (
            {"output_type": "multiple_choice", "metric_list": [{"metric": "acc_mutual_info"}]},
            "wants acc_mutual_info",
        ),
    ],
)
def test_refused_before_anything_is_read(changes: Any, reason: str, tmp_path: Path) -> None:
    bench = write(tmp_path, **{"output_type": "generate_until", **changes})
    with pytest.raises(UsageError, match=reason) as caught:
        refuse_unanswerable(bench.file)
    assert "\n" not in str(caught.value)


def test_a_group_of_several_forms(tmp_path: Path) -> None:
    files = []
    for form in ("generate_until", "multiple_choice"):
        (tmp_path / form).mkdir()
        files.append(write(tmp_path / form, form).file)
    refuse_mixed("g", files[:1])
    with pytest.raises(UsageError, match=r"'g' mixes question forms: generate_until .*multiple_ch"):
        refuse_mixed("g", files)


def test_sampling_is_part_of_the_key_and_of_the_run(tmp_path: Path) -> None:
    from tests.fakes import FakeRun
    from tests.fakes import run as run_job

    asked: list[bool] = []

    class Watched(FakeRun):
        def evaluate(self, *args: Any, **options: Any) -> Any:
            asked.append(options["sample"])
            return super().evaluate(*args, **options)

    keys = {}
    for name, more in (("greedy", {}), ("drawn", {"sample": True})):
        out = tmp_path / name
        assert run_job(out, Watched(), **more) == 0
        cells = (out / "cells.csv").read_text().splitlines()
        keys[name] = {line.split(",")[0] for line in cells[1:]}
        settings = json.loads((out / "run.json").read_text())["settings"]
        assert settings.get("sample", False) is bool(more)
    assert not keys["greedy"] & keys["drawn"]
    assert set(asked) == {False, True}
    with pytest.raises(UsageError, match="--sample"):
        run_job(tmp_path / "greedy", Watched(), sample=True)
