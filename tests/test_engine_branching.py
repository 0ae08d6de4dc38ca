"""Several continuations of one prompt, on every family, against the library's own ``generate``."""

from __future__ import annotations

from typing import Any

import pytest

import methods
from harness.engine import EngineError, routed
from harness.families import tiny
from harness.families.catalog import FAMILIES
from tests.routing_tools import random_modules

import torch  # isort: skip  after the families, which prepare torchvision
from transformers import LogitsProcessor, LogitsProcessorList  # isort: skip

ANSWERS = torch.tensor([[[5, 9, 20, 7], [33, 3, 8, 41]], [[12, 40, 3, 6], [5, 5, 9, 30]]])


class Forced(LogitsProcessor):
    """Lets ``generate`` choose the tokens of an answer, one by one."""

    def __init__(self, answer: torch.Tensor, start: int) -> None:
        self.answer, self.start = answer, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.answer[:, input_ids.shape[1] - self.start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, chosen, 0.0)


def generated(model: Any, run: Any, inputs: Any, answer: torch.Tensor) -> Any:
    """Logits [B, T, V] that say the answer's tokens, and the records."""
    start = inputs["input_ids"].shape[1]
    out = model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=answer.shape[1],
        logits_processor=LogitsProcessorList([Forced(answer, start)]),
        return_dict_in_generate=True,
        output_logits=True,
    )
    return torch.stack(out.logits, dim=1), run.records([answer.shape[1]] * len(answer))


GAMMA = "gamma:layers=all:threshold=0.5"  # routes generated tokens, numbers them by layer
CASES = [(family, GAMMA) for family in sorted(FAMILIES)]
CASES += [(family, spec) for family in ("llava", "qwen2_5_vl") for spec in ("dense", "fastv:k=1")]


@pytest.mark.parametrize(("family", "spec"), CASES)
def test_each_continuation_is_what_generate_makes_of_it(family: str, spec: str) -> None:
    from harness.engine.branching import Branches

    model, method = tiny.build(family, layers=3), methods.parse(spec)
    inputs = tiny.inputs_of(model, tiny.ROWS[:2])  # the second has no image, and is padded
    modules = random_modules(method, model)
    with torch.no_grad(), routed(model, method, modules) as run:
        wanted = [generated(model, run, inputs, answer) for answer in ANSWERS]
        first = model.generate(
            **inputs, do_sample=False, max_new_tokens=1, return_dict_in_generate=True,
            output_logits=True,
        ).logits[0]  # fmt: skip
        before = run.records([1, 1])
        branches = Branches(run, inputs["attention_mask"])
        for _ in range(2):  # none sees what was fed before it
            for answer, (logits, records) in zip(ANSWERS, wanted, strict=True):
                with branches.fed(answer[:, :-1]) as behind:
                    mine = run.records([4, 4])
                found = torch.cat([first[:, None], behind], dim=1)
                torch.testing.assert_close(found.float(), logits, rtol=1e-5, atol=1e-5)
                for one, other in zip(mine, records, strict=True):
                    assert one.decode.tolist() == other.decode.tolist()
                    assert one.route.tolist() == other.route.tolist()
        for one, other in zip(run.records([1, 1]), before, strict=True):
            assert one.n_out == other.n_out == 0 and one.scoring == other.scoring


def test_without_a_prompt_there_is_nothing_to_go_on_from() -> None:
    from harness.engine.branching import Branches

    model = tiny.build("llava", layers=2)
    with (
        routed(model, methods.parse("dense")) as run,
        pytest.raises(EngineError, match="run a prompt with a cache first"),
    ):
        Branches(run, torch.ones(1, 3))
