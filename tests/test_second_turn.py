"""A second question on the kept cache: against the reference, and against the same from scratch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import methods
from harness.bench.conversation import Conversation, Talker
from harness.bench.request import GenerationKwargs, Request
from harness.common.errors import CellError
from harness.engine import EngineError, routed
from harness.model.catalog import load_model
from harness.model.session import Session
from methods.base import ANSWER, QUESTION
from tests import naive, naive_choosers
from tests.fixtures.hub_models import write_llava
from tests.qwen_tools import rows_of, tiny_qwen
from tests.routing_tools import exact_norms, naive_params, naive_sample, random_modules
from tests.tiny import EOS, IMAGE, PAD, batch, tiny_llava

SAID = torch.tensor([[7, 11, 23]])  # the first answer
ASKED = torch.tensor([[5, 31, 8, 40, 19]])  # the second question
AGAIN = torch.tensor([[12, 44]])  # the second answer
TURNS = torch.cat([SAID, ASKED, AGAIN], dim=1)
NEW = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": [EOS, PAD, IMAGE]}
NEW |= {"return_dict_in_generate": True, "output_logits": True}


def second_turn(model: Any, run: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits [1 + 10, V] from the first prompt's last token on: the question comes as one chunk."""
    out = model(**inputs, use_cache=True)
    logits, chunks = [out.logits[0, -1:]], [*SAID.split(1, 1), ASKED, *AGAIN.split(1, 1)]
    for chunk in chunks:
        if chunk is ASKED:
            run.set_kinds(torch.full(ASKED.shape, QUESTION, dtype=torch.uint8))
        out = model(input_ids=chunk, past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits[0])
    run.records()  # asserts what every layer's cache holds
    return torch.cat(logits)


REFERENCED = ["dense", "blind", "random", "uniform:positions=compact", "pool:positions=compact"]
REFERENCED += ["fastv", "fastv:positions=compact", "llavolta", "pmod", "mod:positions=compact"]
REFERENCED += ["gamma:threshold=0.4:decode_threshold=0.6", "gamma:rule=topk:positions=original"]
CHOSEN = ["pyramiddrop:tokens=12", "pyramiddrop:positions=original:tokens=12", "sparsevlm"]
CHOSEN += ["sparsevlm:version=2", "divprune:ratio=0.2", "cdpruner:relevance=words:ratio=0.2"]


@pytest.mark.parametrize("spec", [*REFERENCED, *CHOSEN])
def test_it_is_a_masked_forward_over_both_turns_with_the_first_turns_choice(spec: str) -> None:
    model = exact_norms(tiny_llava(layers=6, side=6, dtype=torch.float64))
    method, inputs = methods.parse(spec), batch(model, [(3, [36], 4)])
    modules = random_modules(method, model)
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples(["one"])
        mine = second_turn(model, run, inputs)
    sample = naive_sample(model, inputs, TURNS[0], "one")
    first = sample.prompt + SAID.shape[1]
    sample = replace(sample, asked=range(first, first + ASKED.shape[1]))
    if method.name in naive_choosers.CHOOSERS:
        expected = naive_choosers.run(naive.Naive(model, sample), method)
    else:
        params = naive_params(method, 6)
        expected = naive.run(model, sample, method.name, params, modules).logits()
    torch.testing.assert_close(mine, expected, rtol=0, atol=1e-9)


def test_a_question_behind_the_cache_is_routed_as_prompt_not_as_answer() -> None:
    model = tiny_llava(layers=6, side=6, dtype=torch.float64)
    method = methods.parse("gamma:threshold=0:decode_threshold=1")
    modules, inputs = random_modules(method, model), batch(model, [(3, [36], 4)])
    with torch.no_grad(), routed(model, method, modules) as run:
        second_turn(model, run, inputs)
        done = run.records()[0].decode[4]  # a layer that routes
        assert done.tolist() == [False] * 3 + [True] * 5 + [False] * 2
        cache = model(**inputs, use_cache=True).past_key_values
        run.set_kinds(torch.full((1, 2), ANSWER, dtype=torch.uint8))
        with pytest.raises(EngineError, match=r"kinds \[1, 2\] for new tokens \[1, 5\]"):
            model(input_ids=ASKED, past_key_values=cache)


# --- kept against fresh
def both_ways(model: Any, spec: str, inputs: dict[str, Tensor]) -> tuple[Any, Any, Any, Any]:
    """Logits of three second answers, and the kept tokens: on the cache, and from scratch."""
    method = methods.parse(spec)
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        run.set_samples(["one"])
        first = model.generate(**inputs, **NEW)
        kept = run.records()[0]
        whole = torch.cat([first.sequences, ASKED], dim=1)
        mask = torch.ones_like(whole)
        held = first.past_key_values.get_seq_length()
        kinds = [[ANSWER] * (whole.shape[1] - held - 5) + [QUESTION] * 5]
        run.set_kinds(torch.tensor(kinds, dtype=torch.uint8))
        text = {"input_ids": whole, "attention_mask": mask}
        if "mm_token_type_ids" in inputs:
            text["mm_token_type_ids"] = (whole == IMAGE).int()
        second = model.generate(**text, past_key_values=first.past_key_values, **NEW)
        run.records()
        run.set_samples(["one"])
        fresh = model.generate(**{**inputs, **text}, **NEW)
        pruned = run.records()[0]
    return torch.cat(second.logits), torch.cat(fresh.logits), kept, pruned


BLIND_TO_TEXT = ["dense", "blind", "visionzip:tokens=12", "fastervlm:keep=12", "divprune:tokens=6"]
BLIND_TO_TEXT += ["prumerge:tokens=9", "scope:tokens=9", "random", "uniform", "llavolta", "pool"]
BLIND_TO_TEXT += ["pmod", "mod", "gamma:rule=topk", "mqt:m=9"]


@pytest.mark.parametrize("spec", BLIND_TO_TEXT)
def test_kept_equals_fresh_where_no_later_text_has_a_say(spec: str) -> None:
    model = exact_norms(tiny_llava(layers=6, side=6, dtype=torch.float64))
    kept, fresh, before, after = both_ways(model, spec, batch(model, [(3, [36], 4)]))
    torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-9)
    assert before.kv_ratio_vision == after.kv_ratio_vision


@pytest.mark.parametrize(
    "spec",
    ["fastv", "pyramiddrop:tokens=12", "sparsevlm", "cdpruner:relevance=words:tokens=6",
     "mmtok:tokens=6"],
)  # fmt: skip
def test_a_method_that_reads_the_question_would_have_kept_other_tokens(spec: str) -> None:
    model = exact_norms(tiny_llava(layers=6, side=6, dtype=torch.float64))
    kept, fresh, before, after = both_ways(model, spec, batch(model, [(3, [36], 4)]))
    assert (kept - fresh).abs().max() > 1e-3
    image = before.kinds == 2
    assert before.route[-1][image].tolist() != after.route[-1][: before.n][image].tolist()


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("spec", ["dense", "pmod", "random:k=0:positions=compact"])
def test_several_axes_of_positions_count_on(family: str, spec: str) -> None:
    model = tiny_qwen(family)
    (inputs,) = rows_of(model, [(3, [(5, 9)], 4)])
    kept, fresh, *_ = both_ways(model, spec, inputs)
    torch.testing.assert_close(kept, fresh, rtol=0, atol=1e-9)


# --- the conversation
@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return load_model(str(write_llava(tmp_path_factory.mktemp("llava"))), device="cpu")


def asked(number: int, text: str) -> Request:
    from PIL import Image

    picture = Image.linear_gradient("L").convert("RGB")
    return Request(number, "gqa", str(number), text, GenerationKwargs(4), lambda: [picture])


def said(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def hold(session: Session, spec: str, *texts: str) -> tuple[Conversation, list[Any]]:
    """A conversation, and the token ids of every prompt that was generated from."""
    seen: list[Any] = []
    method = methods.parse(spec)
    with session.under(method) as (run, sharing):
        original = session.model.generate

        def generate(**inputs: Any) -> Any:
            seen.append((inputs["input_ids"][0].tolist(), "pixel_values" in inputs))
            return original(**inputs)

        session.model.generate = generate
        try:
            talker = Talker(session, run, sharing, method.label)
            found = talker.hold(*(asked(i, text) for i, text in enumerate(texts)))
        finally:
            del session.model.generate
    return found, seen


def test_both_ways_are_given_the_templates_own_two_turns(llava: Session) -> None:
    found, seen = hold(llava, "dense", "Is the dog red?", "Who is <image> it?")
    (first, one), (kept, two), (fresh, three) = seen
    assert (one, two, three) == (True, False, True) and kept == fresh
    assert kept[: len(first)] == first
    decode = llava.processor.tokenizer.decode
    turns = [
        {"role": "user", "content": [{"type": "image"}, said("Is the dog red?")]},
        {"role": "assistant", "content": [said("xyz")]},
        {"role": "user", "content": [said("Who is it?")]},
    ]
    text = llava.processor.apply_chat_template(turns, add_generation_prompt=True)
    behind = text.partition("xyz")[2]
    assert decode(kept[-found.n_question :]).split() == behind.split()
    assert found.kept == found.fresh and found.kept.n_prompt == len(kept)
    assert found.kept.kv == 1.0


def test_the_fresh_run_prunes_with_the_second_question(
    llava: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    from harness.engine.run import Run

    before = Run.set_samples
    monkeypatch.setattr(Run, "set_samples", lambda self, *a: (told.append(a), before(self, *a))[1])
    hold(llava, "fastv", "Is the dog red?", "Who is it?")
    assert told == [(["gqa/0"], ["Is the dog red?"]), (["gqa/0"], ["Who is it?"])]


def test_a_template_that_rewrites_the_past_is_refused(
    llava: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = "{% for m in messages[-1:] %}{{ m['content'][-1]['text'] }}{% endfor %} ASSISTANT:"
    monkeypatch.setattr(llava.processor, "chat_template", last)
    with pytest.raises(CellError, match="cannot follow on the kept cache") as error:
        hold(llava, "dense", "<image> Is the dog red?", "Who is it?")
    assert "\n" not in str(error.value)


def test_who_cannot_go_on_says_why() -> None:
    assert methods.parse("gamma:rule=topk:mask=none").one_turn
    assert not methods.parse("gamma:rule=topk").one_turn
    assert not methods.parse("fastv").one_turn


def test_too_long_a_conversation_names_its_sample(llava: Session, tmp_path: Path) -> None:
    with pytest.raises(CellError, match=r"sample gqa/1: a prompt of \d+ tokens"):
        hold(llava, "dense", "Is the dog red?", "red " * 5000)
