"""The clock's arithmetic under a clock that only tests move."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import methods
from harness.common.errors import CellError
from harness.families.catalog import shape_from_config
from harness.options.workload import Workload, pictures
from harness.store.record import DROPPED, IMAGE
from harness.timing.agreement import FEW, Answer, agreement, check_batch, verdict
from harness.timing.agreement import answer as answer_of
from harness.timing.clock import HostClock
from harness.timing.device import Watch
from harness.timing.measure import Budget, Measured, Times, rounds, warm_up
from harness.timing.phases import Prompt, selection_ms, timed, watched
from harness.timing.prompts import images_by_row, synthetic
from harness.timing.subject import Bench, Subject, active, fresh
from tests import tiny

MS = 1_000_000


class FakeTime:
    """Nanoseconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def sleep(self, ms: float) -> None:
        self.now += int(ms * MS)


class FakeModel:
    """Sleeps 5 ms in the tower, 20 to the first token, 3 a token after it, 2 before and behind."""

    def __init__(self, time: FakeTime, tokens: int) -> None:
        self.time, self.tokens = time, tokens
        self.config = SimpleNamespace(model_type="llava")
        self.model = SimpleNamespace(get_image_features=lambda *a, **k: time.sleep(5))

    def generate(self, logits_processor: Any, **inputs: Any) -> None:
        self.time.sleep(2)
        self.model.get_image_features()
        self.time.sleep(20)
        for step in range(self.tokens):
            if step:
                self.time.sleep(3)
            for processor in logits_processor:
                processor(None, None)
        self.time.sleep(2)


def test_known_sleeps_give_known_phases() -> None:
    time = FakeTime()
    found = timed(FakeModel(time, 4), Prompt({}, ("a",)), 4, HostClock(now=time), now=time)
    launch = found.pop("launch_bound")
    assert found == {"vision": 5.0, "prefill": 20.0, "decode": 9.0, "end_to_end": 38.0}
    assert launch == 0  # only a device can be


def test_one_new_token_has_no_decode_and_another_number_is_refused() -> None:
    time = FakeTime()
    clock = HostClock(now=time)
    assert "decode" not in timed(FakeModel(time, 1), Prompt({}, ("a",)), 1, clock, now=time)
    with pytest.raises(CellError, match="3 tokens were generated instead of 4"):
        timed(FakeModel(time, 3), Prompt({}, ("a",)), 4, clock, now=time)


@pytest.fixture(scope="module")
def bench() -> Bench:
    model = tiny.tiny_llava()
    model.generation_config.eos_token_id = None
    return Bench(model, shape_from_config(model.config.to_dict(), "tiny"))


def prompt_of(bench: Bench, batch: int = 2, n_image: int | None = None) -> Prompt:
    work = Workload(n_text=7, n_image=n_image, n_out=3, batch=batch)
    return synthetic(bench, work, pictures(bench.shape, n_image), seed=0)


def test_a_delay_in_prefill_appears_in_prefill_only(bench: Bench) -> None:
    time, prompt = FakeTime(), prompt_of(bench)

    def slow(module: Any, args: Any, output: Any) -> None:
        if output.shape[1] > 1:
            time.sleep(7)

    handle = bench.model.model.language_model.layers[1].mlp.register_forward_hook(slow)
    try:
        with active(bench, Subject(methods.parse("fastv:k=2"))):
            found = timed(bench.model, prompt, 3, HostClock(now=time), now=time)
    finally:
        handle.remove()
    found.pop("launch_bound")
    assert found == {"vision": 0.0, "prefill": 7.0, "decode": 0.0, "end_to_end": 7.0}


def test_selection_is_the_decisions_of_the_prompt(bench: Bench) -> None:
    time, marks = FakeTime(), []  # type: ignore[var-annotated]
    clock = HostClock(now=time)
    method = watched(methods.parse("fastv:k=2"), marks, clock)
    with active(bench, Subject(methods.parse("fastv:k=2")), method):
        assert selection_ms(bench.model, prompt_of(bench), clock, marks) == 0.0
    assert len(marks) == 1 + 4  # before, and one question a layer


def test_noise_images_may_have_another_resolution(bench: Bench) -> None:
    prompt = prompt_of(bench, batch=2, n_image=25)
    assert prompt.inputs["pixel_values"].shape[-1] == 20
    one = answer_of(bench, Subject(methods.parse("pool")), prompt, 2)
    assert [r.n_image for r in one.records] == [25, 25]
    assert images_by_row(bench, prompt) == [[0], [1]]
    assert images_by_row(bench, prompt_of(bench, 2, n_image=0)) == [[], []]


# --- rounds ---------------------------------------------------------------------------------
def test_rounds_run_forwards_and_backwards_and_pair_up() -> None:
    order: list[str] = []

    def once(subject: Any, prompt: Any) -> dict[str, float]:
        order.append(subject)
        return {"end_to_end": float(len(order)), "launch_bound": 0.0}

    subjects: Any = ["dense", "a", "b"]
    found = Measured([Times() for _ in subjects])
    rounds(once, subjects, [None], Budget(6, 1, 0.0), Watch(None), 0, found)  # type: ignore[list-item]
    turns = [order[i : i + 3] for i in range(0, 18, 3)]
    assert turns[1] == turns[0][::-1]
    assert turns[2] == turns[0]
    assert {len(t.rounds["end_to_end"]) for t in found.times} == {6}
    for number, turn in enumerate(turns):  # entry i of everyone belongs to round i
        for place, subject in enumerate(subjects):
            assert (
                found.times[place].rounds["end_to_end"][number]
                == 3 * number + turn.index(subject) + 1
            )


def test_rounds_stop_at_the_limit_but_never_below_what_an_interval_needs() -> None:
    def once(subject: Any, prompt: Any) -> dict[str, float]:
        return {"end_to_end": 1.0}

    found = Measured([Times()])
    budget = Budget(repeats=50, warmup=1, min_seconds=0.0, max_seconds=0.0)
    rounds(once, ["dense"], [None], budget, Watch(None), 0, found)  # type: ignore[list-item]
    assert (len(found.times[0].rounds["end_to_end"]), found.stopped) == (6, True)


def test_warm_up_goes_on_until_it_settles() -> None:
    values = iter([9.0, 8.0, 7.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0])
    times = Times()
    warm_up(lambda *_: {"end_to_end": next(values)}, None, [None], 6, times)  # type: ignore[arg-type,list-item]
    assert times.first_ms == 9.0
    assert times.settled
    assert next(values, None) == 5.0  # settled after twelve: not all were used


# --- subjects -------------------------------------------------------------------------------
def test_checkpoint_tensors_are_exchanged_and_put_back(bench: Bench) -> None:
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    weight = dict(bench.model.named_parameters())[name]
    before, place = weight.clone(), weight.data_ptr()
    other = Subject(methods.parse("dense"), tensors={name: torch.zeros_like(weight)})
    with active(bench, other):
        assert not weight.any()
    assert weight.data_ptr() == place
    assert torch.equal(weight, before)
    assert other.extra_bytes == weight.nbytes


def test_random_weights_take_the_rule_that_skips() -> None:
    changed, note = methods.parse("gamma:ratio=0.5").for_random_weights()
    assert (changed.rule, changed.ratio) == ("topk", 0.5)
    assert "rule=topk" in note
    same, note = methods.parse("pmod").for_random_weights()
    assert (same.spec, note) == ("pmod", "")


# --- batch against single -------------------------------------------------------------------
@pytest.mark.parametrize("spec", ["dense", "pmod", "fastv:k=2", "gamma:rule=topk:layers=1+2"])
def test_a_batch_answers_as_its_rows_do_and_a_changed_answer_is_found(
    bench: Bench, spec: str
) -> None:
    subject, prompt = fresh(methods.parse(spec), bench.model, 0), prompt_of(bench)
    together = answer_of(bench, subject, prompt, 3)
    assert check_batch(bench, subject, prompt, together, 3).share == 1.0
    ids = together.ids.clone()
    ids[1, 2] = int(together.logits[2, 1].argmin())
    changed = Answer(ids, together.logits, together.records, together.cache_bytes)
    with pytest.raises(
        CellError, match="other answers than batch 1 in row 1: token 3 is not a tie"
    ):
        check_batch(bench, subject, prompt, changed, 3)


def test_ties_and_selections_are_told_from_faults(bench: Bench) -> None:
    subject, prompt = Subject(methods.parse("dense")), prompt_of(bench)
    together = answer_of(bench, subject, prompt, 3)
    single = Answer(together.ids[:1].clone(), together.logits[:, :1].clone(), together.records, 0)
    assert verdict(together, single, 0, torch.float32) == ""
    other = int(single.logits[1, 0].argsort()[-2])
    single.ids[0, 1] = other
    assert verdict(together, single, 0, torch.float32) == "tie"  # alone it liked that one more
    single.logits[1, 0, other] = single.logits[1, 0].max() + 1
    assert verdict(together, single, 0, torch.float32).startswith("wrong")
    assert agreement(["", "tie", "selection", ""], "m", 4).share == 0.5


def test_a_swapped_token_is_a_selection_and_a_lost_one_a_fault(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FEW, torch.float32, 0.1)  # a swap is a large share of so few tokens
    subject, prompt = Subject(methods.parse("fastv:k=2")), prompt_of(bench)
    together = answer_of(bench, subject, prompt, 3)
    other = answer_of(bench, subject, prompt, 3)
    ids, route = other.ids.clone(), other.records[0].route
    ids[0, 0] = int(other.logits[0, 0].argmin())
    last = route[-1]
    kept = int(np.flatnonzero((last >= 0) & (other.records[0].kinds == IMAGE))[0])
    gone = int(np.flatnonzero(last < 0)[0])
    route[2:, gone], route[2:, kept] = gone, DROPPED
    single = Answer(ids, other.logits, other.records, 0)
    single.logits[0, 0, ids[0, 0]] = single.logits[0, 0].max() + 1
    assert verdict(together, single, 0, torch.float32) == "selection"
    route[2:, gone] = DROPPED
    assert verdict(together, single, 0, torch.float32).startswith("wrong")


def test_cache_bytes_are_those_of_the_schedule(bench: Bench) -> None:
    one = answer_of(bench, Subject(methods.parse("fastv:k=2:r=0.5")), prompt_of(bench), 3)
    lengths = np.array([23, 23, 15, 15]) + 2  # 7 text, 16 image of which 8 leave; 2 fed tokens
    assert one.cache_bytes == 2 * lengths.sum() * 2 * 2 * 4 * 4  # rows, k and v, heads, size, bytes
