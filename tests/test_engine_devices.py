"""A routed pass as a second device sees it, without one: shapes, dtypes and places, no values.

The model stands in bfloat16 on a pretended device (fake tensors). A table made on the host and not
moved, two dtypes that do not go together, or a question to the device that the pass on the CPU did
not ask: each is an error here as it is there. What the host may ask is answered from a real pass.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch._functorch.config as functorch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import methods
from harness.engine import routed
from tests.routing_tools import ROWS, random_modules
from tests.tiny import batch, tiny_llava

ROOT = Path(methods.__file__).parent.parent
OURS = (str(ROOT / "harness"), str(ROOT / "methods"))
TORCH = str(Path(torch.__file__).parent)
PLACE = torch.device("meta")
ASKS = ("tolist", "__bool__", "item", "__int__", "__float__")
# Rules whose counts the host knows: no line asks twice a prompt, so the number does not grow with
# depth, and none asks in a step. One of each kind runs always, all of them with --slow.
USUAL = ("pmod", "fastv", "visionzip")
FIXED = (
    "dense", "blind", "mod", "gamma:rule=topk", "uniform", "random", "pool", "llavolta",
    "fastv:positions=compact", "fastv:score=all", "pyramiddrop", "fastervlm", "scope",
    "divprune", "vscan", "sparsevlm", "prumerge:tokens=4", "illava", "mqt",
)  # fmt: skip
# The device decides how many stay: questions in a prompt of five layers and two steps.
DECIDED = {"prumerge": 4, "gamma:layers=all": 1 + 5 + 2 * 5}


class Answers:
    """The host's questions by the line that asks: answered in a real pass, then in a pretended."""

    def __init__(self) -> None:
        self.given: dict[tuple[str, int], list[Any]] = defaultdict(list)
        self.asked: Counter[str] = Counter()  # of the pretended device, by this project, by line

    @contextmanager
    def written(self) -> Iterator[None]:
        """Note every answer."""
        inside = False

        def noting(ask: Callable[..., Any]) -> Callable[..., Any]:
            def noted(tensor: torch.Tensor, *args: Any) -> Any:
                nonlocal inside
                if inside:  # one question may be put through another
                    return ask(tensor, *args)
                inside = True
                try:
                    answer = ask(tensor, *args)
                finally:
                    inside = False
                self.given[asker()].append(answer)
                return answer

            return noted

        with patch.multiple(torch.Tensor, **{n: noting(getattr(torch.Tensor, n)) for n in ASKS}):
            yield

    @contextmanager
    def read(self) -> Iterator[None]:
        """Answer from the notes; a question that is not among them is an error."""
        left = {place: iter(answers) for place, answers in self.given.items()}

        def reading(ask: Callable[..., Any]) -> Callable[..., Any]:
            def answer(tensor: torch.Tensor, *args: Any) -> Any:
                if not isinstance(tensor, FakeTensor):
                    return ask(tensor, *args)
                place = asker()
                assert place in left, f"{place}: not asked on the CPU"
                if tensor.device == PLACE and place[0].startswith(OURS):
                    self.asked[f"{place[0]}:{place[1]}"] += 1
                return next(left[place])

            return answer

        # Fake tensors have a tolist of their own, made of many questions.
        with (
            patch.multiple(torch.Tensor, **{n: reading(getattr(torch.Tensor, n)) for n in ASKS}),
            patch.object(FakeTensor, "tolist", reading(torch.Tensor.tolist)),
        ):
            yield


def asker() -> tuple[str, int]:
    """File and line outside torch and this file that put the question."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


def pretended(tensor: torch.Tensor, dtype: torch.dtype | None = torch.bfloat16) -> torch.Tensor:
    """Its like on the pretended device; floats in ``dtype``, None = as they are."""
    kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    return torch.empty(tensor.shape, dtype=kept, device=PLACE)


def move(module: Any) -> None:
    """Weights in bfloat16, buffers as they are (rotary tables keep float32), on that device."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(pretended(value), requires_grad=False)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = pretended(value, None)


def passes(
    model: Any, method: Any, modules: Any, inputs: Any, answers: Any, tokens: int, notes: Any = None
) -> Any:
    """A prompt and ``tokens`` steps, with records noted; what ``notes`` held behind the prompt."""
    rows = inputs["input_ids"].shape[0]
    with torch.no_grad(), routed(model, method, modules) as run:
        run.set_samples([str(i) for i in range(rows)], ["what is it"] * rows)
        with answers():
            cache = model(**inputs, use_cache=True, logits_to_keep=1).past_key_values
            behind = Counter(notes.asked) if notes is not None else None
            for _ in range(tokens):
                step = inputs["input_ids"][:, -1:]
                mask = torch.ones_like(inputs["attention_mask"][:, :1])
                inputs["attention_mask"] = torch.cat([inputs["attention_mask"], mask], dim=1)
                model(
                    input_ids=step, attention_mask=inputs["attention_mask"], past_key_values=cache
                )
    return behind


def asked(spec: str, attn: str = "sdpa") -> tuple[Counter[str], Counter[str]]:
    """Questions of a ragged prompt, and of two steps behind it, by the line that asks."""
    method, model = methods.parse(spec), tiny_llava(layers=5, attn=attn)
    modules, inputs, answers = random_modules(method, model), batch(model, ROWS), Answers()
    passes(model, method, modules, dict(inputs), answers.written, 2)
    with functorch.patch(fake_tensor_allow_meta=True), FakeTensorMode(allow_non_fake_inputs=True):
        move(model)
        if modules is not None:
            move(modules)
        fakes = {name: pretended(value) for name, value in inputs.items()}
        prompt = passes(model, method, modules, fakes, answers.read, 2, answers)
    return prompt, answers.asked - prompt


@pytest.mark.parametrize(
    "spec", [*USUAL, *(pytest.param(s, marks=pytest.mark.slow) for s in FIXED)]
)
def test_known_counts_hold_on_a_second_device_without_waiting_for_it(spec):
    prompt, steps = asked(spec)
    assert max(prompt.values()) == 1, prompt
    assert not steps


@pytest.mark.slow
@pytest.mark.parametrize("spec", DECIDED)
def test_what_the_device_decides_is_asked_as_often_as_listed(spec):
    assert sum(sum(asked.values()) for asked in asked(spec)) == DECIDED[spec]


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["fastv", "pmod"])
def test_eager_attention_holds_too(spec):
    assert not asked(spec, "eager")[1]


def test_a_table_left_on_the_host_is_seen():
    class Forgets(methods.load("dense")):  # type: ignore[misc]
        def layer(self, layer, seq):
            seq.hidden = seq.hidden + torch.ones(seq.hidden.shape)

    with (
        patch.object(methods, "parse", lambda spec: Forgets()),
        pytest.raises(Exception, match="same device"),
    ):
        asked("dense")
