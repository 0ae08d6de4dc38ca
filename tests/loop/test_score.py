"""Given answers: their likelihoods against decoding step by step, and upstream's scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from harness.bench.benches import resolve_bench
from harness.bench.dealing import ShareDone
from harness.bench.forms.score import HOW, Scored
from harness.common.errors import CellError
from harness.model.session import Session
from harness.store.record import ANSWER
from tests.fixtures.hub_data import picture
from tests.loop.cells import comparable, predictions, run
from tests.loop.own_tasks import LOOKS, ROWS, write, write_seedbench

import torch  # isort: skip  after the fixtures, which prepare torchvision

SPECS = ["dense", "fastv:k=1", "pmod", "gamma:layers=all:threshold=0.5", "gamma:layers=all:mask=QA"]


@contextmanager
def generator(loaded: Session, spec: str) -> Iterator[Any]:
    """What answers, under a method with random weights of its own."""
    from harness.bench.generation import Generator
    from harness.engine import routed
    from harness.model.features import Sharing
    from tests.routing_tools import random_modules

    method = methods.parse(spec)
    modules = random_modules(method, loaded.model)
    with routed(loaded.model, method, modules, tokenizer=loaded.processor.tokenizer) as run:
        yield Generator(loaded, run, Sharing(), spec)


def questions() -> list[Scored]:
    """`ROWS` as requests."""
    import io

    from PIL import Image

    def images(i: int, count: int) -> Any:
        return lambda: [Image.open(io.BytesIO(picture(10 * i + j))) for j in range(count)]

    return [
        Scored(i, "own", str(i), text, HOW, images(i, count), choices=tuple(f" {c}" for c in given))
        for i, (text, count, given, _) in enumerate(ROWS)
    ]


def stepwise(loaded: Session, spec: str, request: Scored) -> list[tuple[list[float], bool, Any]]:
    """Log-probabilities of each choice's tokens, fed one by one behind a prompt of its own, whether
    all are the most likely ones, and the record."""
    from tests.routing_tools import forced

    found = []
    tokenizer = loaded.processor.tokenizer
    for choice in request.choices:
        with generator(loaded, spec) as made, torch.no_grad():
            inputs = made.prompter.inputs_of(request)
            ids = tokenizer(choice.strip(), add_special_tokens=False)["input_ids"]
            made.run.set_samples([request.name], [request.text])
            logits = forced(loaded.model, inputs, torch.tensor([ids[:-1]]).long())[0]
            (record,) = made.run.records([len(ids)])
        chances = logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]
        found.append((chances.tolist(), logits.argmax(-1).tolist() == ids, record))
    return found


@pytest.mark.parametrize("spec", SPECS)
def test_likelihoods_are_those_of_decoding_step_by_step(spec: str, llava: Session) -> None:
    from harness.bench.likelihood import likelihoods

    asked = questions()
    with generator(llava, spec) as made:
        alone = [likelihoods(made, [one])[0] for one in asked]
        together = likelihoods(made, asked)
    for request, one, other in zip(asked, alone, together, strict=True):
        expected = stepwise(llava, spec, request)
        means = [-sum(chances) / len(chances) for chances, _, _ in expected]
        picked = int(np.argmin(means))
        for output in (one, other):
            assert [loss for loss, _, _ in output.told] == pytest.approx(means, abs=2e-5)
            assert [n for _, _, n in output.told] == [len(chances) for chances, _, _ in expected]
            assert [greedy for _, greedy, _ in output.told] == [g for _, g, _ in expected]
            assert output.text == request.choices[picked].strip()
            record, wanted = output.record, expected[picked][2]
            assert output.n_out == output.told[picked][2] == record.n_out + 1
            np.testing.assert_array_equal(record.route, wanted.route)
            np.testing.assert_array_equal(record.decode, wanted.decode)
            assert not (record.kinds == ANSWER).any()
    if "gamma" in spec:  # its router does skip answer tokens
        assert not all(output.record.decode.all() for output in alone)


def test_dense_likelihoods_are_the_plain_models(llava: Session) -> None:
    """One forward pass of the unrouted library model over prompt and answer together."""
    from harness.bench.likelihood import likelihoods

    request = questions()[0]
    with generator(llava, "dense") as made:
        (output,) = likelihoods(made, [request])
        inputs = made.prompter.inputs_of(request)
    for choice, (loss, _, n) in zip(request.choices, output.told, strict=True):
        ids = llava.processor.tokenizer(choice.strip(), add_special_tokens=False)["input_ids"]
        whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], dim=1)
        labels = torch.full_like(whole, -100)
        labels[:, -len(ids) :] = whole[:, -len(ids) :]
        with torch.no_grad():
            plain = llava.model(
                input_ids=whole,
                attention_mask=torch.ones_like(whole),
                pixel_values=inputs["pixel_values"],
                labels=labels,
            )
        assert (loss, n) == (pytest.approx(float(plain.loss), abs=2e-5), len(ids))


def test_a_longer_prompt_of_other_choices_changes_nothing(llava: Session) -> None:
    """The choices are fed behind the same prompt: none sees another."""
    from harness.bench.likelihood import likelihoods

    request = questions()[2]
    with generator(llava, "gamma:layers=all:threshold=0.5") as made:
        (every,) = likelihoods(made, [request])
        for number, choice in enumerate(request.choices):
            request.choices = (choice,)
            (one,) = likelihoods(made, [request])
            assert one.told[0][0] == pytest.approx(every.told[number][0], abs=1e-6)
            request.choices = questions()[2].choices


def test_what_upstream_scores(
    llava: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sign: the most likely choice must win, and `acc_norm` divides by characters."""
    from dataclasses import replace

    from harness.bench import likelihood

    real = likelihood.likelihoods
    right = {row[0]: row[3] for row in ROWS}
    assert [len(c) for c in ROWS[3][2]] == [2, 3] and ROWS[3][3] == 1

    def known(made: Any, batch: Any) -> Any:
        found = []
        for request, output in zip(batch, real(made, batch), strict=True):
            losses = [1.0 + (number != right[request.text]) for number in range(len(output.told))]
            if request.text == "both?":  # the loss says "no", the loss by characters "yes": 1.4 > 1
                losses = [2.8, 3.0]
            told = [(loss, False, n) for loss, (_, _, n) in zip(losses, output.told, strict=True)]
            found.append(replace(output, told=told))
        return found

    monkeypatch.setattr(likelihood, "likelihoods", known)
    result = run(llava, write(tmp_path, "multiple_choice"))
    acc, norm = result.metrics
    assert (acc.metric, norm.metric) == ("acc", "acc_norm")
    assert list(acc.scores.values()) == [1.0, 1.0, 1.0, 0.0, 1.0]
    expected = []
    for text, _, choices, gold in ROWS:
        losses = np.array([1.0 + (i != gold) for i in range(len(choices))])
        losses = np.array([2.8, 3.0]) if text == "both?" else losses
        expected.append(float(np.argmin(losses / [len(c) for c in choices]) == gold))
    assert list(norm.scores.values()) == expected and expected[3] == 1.0
    assert [s.target for s in result.samples] == [row[2][row[3]] for row in ROWS]


@pytest.mark.parametrize("spec", ["dense", "fastv:k=1"])
def test_a_batch_of_four_scores_as_one(spec: str, llava: Session, tmp_path: Path) -> None:
    bench, method = write(tmp_path, "multiple_choice"), methods.parse(spec)
    single, batched = run(llava, bench, method), run(llava, bench, method, batch_size=4)
    one, other = comparable(single), comparable(batched)
    one.pop("batch_size"), other.pop("batch_size")
    assert one == other
    assert [s.prediction in row[2] for s, row in zip(single.samples, ROWS, strict=True)] == [
        True
    ] * 5
    assert [set(m.scores) for m in single.metrics] == [{"0", "1", "2", "3", "4"}] * 2
    (note,) = single.notes
    picked = np.mean([s.n_out for s in single.samples])
    assert "2.8 choices" in note and f"({picked:.3g} tokens)" in note
    for sample in single.samples:
        assert single.records[sample.doc_id].n_out == sample.n_out - 1


def test_seedbench_ppl_as_upstream_writes_it(llava: Session, tmp_path: Path) -> None:
    """Its own files: the target is the text of the right choice, the score whether it is picked."""
    write_seedbench(tmp_path)
    result = run(llava, resolve_bench("seedbench_ppl", str(tmp_path)), batch_size=4)
    assert result.headline.metric == "acc" and result.headline.is_mean
    assert [s.target for s in result.samples] == [LOOKS[2 * i % 5] for i in range(4)]
    for sample in result.samples:
        assert sample.prediction in LOOKS
        assert sample.score == float(sample.prediction == sample.target)


class Half:
    """A process that gets every second batch; the first one ends the cell."""

    def __init__(self, number: int) -> None:
        self.number, self._next = number, number

    def take(self) -> int:
        self._next += 2
        return self._next - 2

    def answered(self, requests: int, seconds: float) -> int:
        return requests

    def close(self, notes: Any) -> list[str]:
        if self.number:
            raise ShareDone
        return list(notes)


def test_killed_and_shared_cells_end_with_the_same_numbers(llava: Session, tmp_path: Path) -> None:
    bench, method = write(tmp_path, "multiple_choice"), methods.parse("fastv:k=1")
    whole = comparable(run(llava, bench, method, batch_size=2))
    log = tmp_path / "cell" / "log.jsonl"

    def kill(answered: int, everything: int) -> None:
        assert everything == len(ROWS)  # documents, not choices
        if answered >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llava, bench, method, batch_size=2, response_log=log, on_batch=kill)
    assert comparable(run(llava, bench, method, batch_size=2, response_log=log)) == whole
    shared: dict[str, Any] = {"batch_size": 2, "response_log": tmp_path / "two" / "log.jsonl"}
    with pytest.raises(ShareDone):
        run(llava, bench, method, dealer=Half(1), **shared)
    assert comparable(run(llava, bench, method, dealer=Half(0), **shared)) == whole


def test_loglikelihood_tasks_and_repeats(llava: Session, tmp_path: Path) -> None:
    """A task that is its own scorer gets one pair a document, however often it asks."""
    result = run(llava, write(tmp_path, "loglikelihood", repeats=2))
    values = {metric.metric: metric.value for metric in result.metrics}
    assert set(values) == {"acc", "loss"} and values["loss"] > 0
    assert predictions(result) == [row[0] for row in ROWS]  # the only choice


def test_what_cannot_be_scored(llava: Session, tmp_path: Path) -> None:
    with pytest.raises(CellError, match="the question"):
        run(llava, write(tmp_path, "multiple_choice", doc_to_text="gold"))
    with pytest.raises(CellError, match=r"sample own/0: .*image token"):
        run(llava, write(tmp_path, "multiple_choice", rows=[("is it?", 1, ("a <image>",), 0)]))


def test_nan_logits_name_sample_and_answer(llava: Session, tmp_path: Path) -> None:
    rows = [("is it?", 0, ("red",), 0)]
    weight = llava.model.lm_head.weight
    before = weight[0].detach().clone()
    with torch.no_grad():
        weight[0] = torch.nan
        try:
            with pytest.raises(CellError, match=r"dense: NaN logits in sample own/0 .* 'red'$"):
                run(llava, write(tmp_path, "multiple_choice", rows=rows))
        finally:
            weight[0] = before
