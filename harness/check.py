"""The conformance suite: what every method must do, on tiny random models built in memory."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from unittest.mock import patch

import torch

import methods
from harness.engine import EngineError, model_info, routed
from harness.model import tiny
from harness.model.checkpoints import load_checkpoint, save_checkpoint
from harness.record import IMAGE, RoutingRecord
from methods.base import Method, MethodError

STEPS = 4


@dataclass(frozen=True)
class CheckResult:
    """One line of the suite's report."""

    method: str
    name: str
    ok: bool
    detail: str = ""

    def __str__(self) -> str:
        mark = "ok  " if self.ok else "FAIL"
        return f"{mark} {self.method}: {self.name}" + (f" ({self.detail})" if self.detail else "")


class NotApplicable(Exception):
    """The property makes no sense for this method; the reason is reported."""


@dataclass
class Subject:
    """One method on a tiny random model, with random weights if it is trained."""

    method: Method
    model: Any = field(default_factory=tiny.build)

    @cached_property
    def modules(self) -> Any:
        modules = self.method.build_modules(model_info(self.model))
        return None if modules is None else tiny.randomise(modules).to(self.model.dtype)

    @property
    def rows(self) -> list[tuple[int, list[int], int]]:
        """The prompts of the test batch: frames for a method that needs several images."""
        return tiny.ROWS if self.method.least_images == 1 else tiny.FRAMES

    @cached_property
    def inputs(self) -> dict[str, Any]:
        return tiny.inputs_of(self.model, self.rows)

    def row(self, i: int) -> dict[str, Any]:
        """Row i alone, without padding."""
        real = self.inputs["attention_mask"][i].bool()
        single = {k: self.inputs[k][i][real][None] for k in ("input_ids", "attention_mask")}
        first, count = sum(len(images) for _, images, _ in self.rows[:i]), len(self.rows[i][1])
        if count:
            single["pixel_values"] = self.inputs["pixel_values"][first : first + count]
        return single

    def generate(self, inputs: dict[str, Any], **extra: Any) -> tuple[Any, list[RoutingRecord]]:
        """Greedy tokens and logits under the method, and the records of the samples."""
        options = {"do_sample": False, "suppress_tokens": [tiny.IMAGE], "max_new_tokens": STEPS}
        options |= {"return_dict_in_generate": True, "output_logits": True}
        with (
            torch.no_grad(),
            routed(self.model, self.method, self.modules, clip=tiny.Clip(self.model)) as run,
        ):
            out = self.model.generate(**inputs, **options, **extra)
            return out, run.records([STEPS] * len(inputs["input_ids"]))


def require(ok: bool, detail: str) -> None:
    """Fail a check with a reason."""
    if not ok:
        raise AssertionError(detail)


# --- the checks: each takes a subject, raises AssertionError with the reason ---------------------
def parameters(s: Subject) -> None:
    """parameters survive being written and read; unknown ones are refused"""
    require(methods.parse(s.method.spec) == s.method, f"{s.method.spec} reads back differently")
    again = methods.build(s.method.name, s.method.params())
    require(again == s.method, "params() do not give the method back")
    try:
        methods.parse(f"{s.method.name}:no_such_key=1")
    except MethodError as error:
        require("no_such_key" in str(error) and "\n" not in str(error), "unclear error message")
    else:
        raise AssertionError("an unknown parameter was accepted")


def nothing_dropped(s: Subject) -> None:
    """with nothing to drop, logits equal the plain model's bit for bit (sdpa and eager)"""
    if s.method.neutral is None:
        raise NotApplicable("it has no setting that changes nothing")
    neutral = methods.build(s.method.name, s.method.neutral)
    for attn in ("sdpa", "eager"):
        model = tiny.build(attn=attn, dtype=torch.float32)
        inputs = tiny.inputs_of(model, s.rows)
        modules = neutral.build_modules(model_info(model))
        with torch.no_grad():
            plain = model(**inputs).logits
            with routed(model, neutral, modules, clip=tiny.Clip(model)):
                mine = model(**inputs).logits
        require(torch.equal(plain, mine), f"logits differ under {attn}")


def cache_is_recorded(s: Subject) -> None:
    """the KV cache holds exactly the recorded tokens, and tokens skip or leave as announced"""
    _, records = s.generate(s.inputs)  # records() asserts the cache tensors
    info = model_info(s.model)
    allowed = list(s.method.mod_layers(info))
    for record in records:
        for layer, routes in enumerate(allowed):
            dense = bool(record.keep[layer].all())
            require(routes or dense, f"layer {layer} acts but is not among the method's layers")


def batch_is_single(s: Subject) -> None:
    """a padded batch with unequal image counts gives the answers of single prompts"""
    together, records = s.generate(s.inputs)
    for i in range(len(s.rows)):
        alone, record = s.generate(s.row(i))
        worst = max(
            float((a[i] - b[0]).abs().max())
            for a, b in zip(together.logits, alone.logits, strict=True)
        )
        require(worst < 1e-5, f"row {i}: logits differ by {worst:.1e}")
        require(bool((records[i].route == record[0].route).all()), f"row {i} is routed differently")


def cache_on_and_off(s: Subject) -> None:
    """generation with and without the KV cache agrees"""
    on, a = s.generate(s.inputs)
    off, b = s.generate(s.inputs, use_cache=False)
    require(torch.equal(on.sequences, off.sequences), "other tokens")
    same = all((x.decode == y.decode).all() for x, y in zip(a, b, strict=True))
    require(same, "other decisions at decode")


def text_untouched(s: Subject) -> None:
    """text is always processed, and a prompt without image runs as the dense model"""
    if s.method.routes_text:
        raise NotApplicable("it routes text too")
    _, records = s.generate(s.inputs)
    for record in records:
        require(bool(record.keep[:, record.kinds != IMAGE].all()), "a text token was not processed")
    text = tiny.inputs_of(s.model, [(3, [], 4), (2, [], 1)])
    with torch.no_grad():
        plain = s.model(**text).logits
        with routed(s.model, s.method, s.modules, clip=tiny.Clip(s.model)):
            require(torch.equal(plain, s.model(**text).logits), "text-only logits differ")


def any_resolution(s: Subject) -> None:
    """works on any-resolution images with tiles and newline tokens, several in a prompt"""
    other = Subject(s.method, tiny.build(any_resolution=True))
    inputs = tiny.any_resolution_inputs(other.model, [(20, 30), (32, 14)])
    _, (record,) = other.generate(inputs)
    require(len(record.grid) == 4, f"{len(record.grid)} patch grids instead of 4")
    size = sum(g["rows"] * (g["cols"] + g["newline"]) for g in record.grid)
    require(size == record.n_image, "the grids do not cover the image tokens")


def no_trace(s: Subject) -> None:
    """nothing is left behind in the model, also after an exception"""
    plain = Subject(methods.parse("dense"), s.model)
    answer = plain.generate(s.inputs)[0].sequences  # the library installs its own hooks once

    def left() -> list[Any]:
        return [
            (sorted(m.__dict__), len(m._forward_hooks), len(m._forward_pre_hooks))
            for m in s.model.modules()
        ]

    before = left()
    s.generate(s.inputs)
    require(left() == before, "attributes or hooks stayed behind")
    try:
        with routed(s.model, s.method, s.modules, clip=tiny.Clip(s.model)):
            raise KeyError
    except KeyError:
        require(left() == before, "attributes or hooks stayed behind after an exception")
    require(torch.equal(plain.generate(s.inputs)[0].sequences, answer), "the model changed")


def weights(s: Subject) -> None:
    """without weights it stops with one line; a checkpoint gives its weights back exactly"""
    if not s.method.trained:
        raise NotApplicable("it has no weights")
    try:
        with routed(s.model, s.method):
            raise AssertionError("it ran without weights")
    except EngineError as error:
        require("--checkpoint" in str(error), "the error does not say what to pass")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, s.method, s.modules, model_info(s.model))
        loaded = load_checkpoint(folder, s.model, s.method)
    state = s.modules.state_dict()
    assert loaded.modules is not None  # a trained method has some
    same = all(torch.equal(v, state[k]) for k, v in loaded.modules.state_dict().items())
    require(same and loaded.method == s.method, "the checkpoint reads back differently")


def tower_left_alone(s: Subject) -> None:
    """a method without images never runs the vision tower"""
    if s.method.needs_images:
        raise NotApplicable("it looks at images")
    tower = type(s.model.model.vision_tower)
    with patch.object(tower, "forward", side_effect=AssertionError("the vision tower ran")):
        s.generate(s.inputs)


def gradients(s: Subject) -> None:
    """in training, gradient reaches the method's own weights"""
    if not s.method.trained:
        raise NotApplicable("it has no weights")
    model = tiny.build(dtype=torch.float32).train()
    modules = tiny.randomise(s.method.build_modules(model_info(model)))  # type: ignore[arg-type]
    inputs = tiny.inputs_of(model, s.rows[:1])
    with routed(model, s.method, modules) as run:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        extra = run.aux_loss()
        (loss if extra is None else loss + extra).backward()
    total = sum(float(p.grad.abs().sum()) for p in modules.parameters() if p.grad is not None)
    require(total > 0, "no gradient arrived")


CHECKS: tuple[Callable[[Subject], None], ...] = (
    parameters,
    nothing_dropped,
    cache_is_recorded,
    batch_is_single,
    cache_on_and_off,
    text_untouched,
    any_resolution,
    no_trace,
    weights,
    gradients,
    tower_left_alone,
)


def check(specs: Iterable[str]) -> Iterable[CheckResult]:
    """Run the whole suite on each ``name[:key=value]...``, one result at a time."""
    for spec in specs:
        method = methods.parse(spec)
        method.check(model_info(tiny.build()))
        subject = Subject(method)
        for test in CHECKS:
            title = inspect.getdoc(test) or test.__name__
            try:
                test(subject)
                yield CheckResult(method.spec, title, True)
            except NotApplicable as reason:
                yield CheckResult(method.spec, title, True, f"not applicable: {reason}")
            except Exception as error:
                detail = f"{type(error).__name__}: {error}".splitlines()[0]
                yield CheckResult(method.spec, title, False, detail)


def run_check(name: str, say: Callable[[str], None] = print) -> bool:
    """``--check METHOD|all``: print each result as it comes; True if everything holds."""
    results = []
    for result in check(methods.names() if name == "all" else [name]):
        results.append(result)
        say(str(result))
    failed = sum(not r.ok for r in results)
    say(f"{len(results) - failed} of {len(results)} checks hold")
    return failed == 0
