"""One timed ``generate``: marks around the tower, at the first token, and at every later one.

Nothing but the method's own work runs inside: no routing record, no hook that traces. Phases of
one call, in milliseconds:

    vision      tower, projector and packing of all images
    prefill     from there (or the call's start, without images) to the logits of the first token
    decode      the other n_out - 1 tokens
    end_to_end  the host's clock around the whole call, device idle before and after
    selection   only in :func:`selection_ms`: the method's decisions during the prompt
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from harness.common.errors import CellError
from harness.engine.shadow import shadowed
from harness.families.catalog import family_of
from harness.timing.clock import Clock, HostClock

PHASES = ("vision", "prefill", "decode", "end_to_end")
DECIDES = ("before", "layer")
LAUNCH_BOUND = 0.05  # event time and host time differ by more


@dataclass(frozen=True)
class Prompt:
    """A batch ready for ``generate``: tensors on the device, and what the tower needs besides.

    ``inputs``: input_ids and attention_mask [B, n], pixel_values as the model wants them,
    image_sizes [images, 2] for any-resolution models. ``names``: one a row, for seeded methods.
    ``tower``: further arguments of the tower (interpolated positions).
    """

    inputs: Mapping[str, torch.Tensor]
    names: tuple[str, ...]
    tower: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class _Marks:
    clock: Clock
    start: Any = None
    vision: list[tuple[Any, Any]] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)


class _Stamp(LogitsProcessor):
    """Marks each step's logits and passes them on."""

    def __init__(self, marks: _Marks) -> None:
        self.marks = marks

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.marks.tokens.append(self.marks.clock.mark())
        return scores


@contextmanager
def stamped_tower(model: Any, prompt: Prompt, marks: _Marks | None) -> Iterator[None]:
    """Marks around ``get_image_features`` of this model object, whoever calls it."""
    inner = family_of(model.config, type(model).__name__).inner(model)
    original = inner.get_image_features

    @functools.wraps(original)  # generate reads the signature
    def features(*args: Any, **kwargs: Any) -> Any:
        if marks is None:
            return original(*args, **kwargs, **prompt.tower)
        begin = marks.clock.mark()
        out = original(*args, **kwargs, **prompt.tower)
        marks.vision.append((begin, marks.clock.mark()))
        return out

    with shadowed(inner, "get_image_features", features):
        yield


def generate(model: Any, prompt: Prompt, n_out: int, marks: _Marks | None, **extra: Any) -> Any:
    """Greedy, exactly ``n_out`` new tokens a row."""
    processors = [_Stamp(marks)] if marks is not None else []
    with stamped_tower(model, prompt, marks):
        return model.generate(
            **prompt.inputs,
            do_sample=False,
            num_beams=1,
            min_new_tokens=n_out,
            max_new_tokens=n_out,
            logits_processor=LogitsProcessorList(processors),
            **extra,
        )


def timed(
    model: Any,
    prompt: Prompt,
    n_out: int,
    clock: Clock,
    now: Callable[[], int] | None = None,
    on_tokens: Callable[[list[float]], object] | None = None,
) -> dict[str, float]:
    """Milliseconds by phase of one call, under whatever method the model is routed by.

    ``on_tokens`` hears when the tokens came, in ms from the call's start, first token first.

    ``decode`` is missing for one new token, ``vision`` without images. The extra entry
    ``launch_bound`` is 1 where the device's own times and the host's differ by more than 5 %.
    Raises CellError when another number of tokens came out: such rows do not compare.
    """
    marks, now = _Marks(clock), now or clock.now
    clock.finish()
    began = now()
    marks.start = clock.mark()
    generate(model, prompt, n_out, marks)
    end = clock.mark()
    clock.finish()
    host = (now() - began) / 1e6
    if len(marks.tokens) != n_out:
        raise CellError(f"{len(marks.tokens)} tokens were generated instead of {n_out}")
    if on_tokens is not None:
        on_tokens([clock.ms(marks.start, token) for token in marks.tokens])
    device = clock.ms(marks.start, end)
    found = {"end_to_end": host}
    if marks.vision:
        found["vision"] = sum(clock.ms(*pair) for pair in marks.vision)
    read = marks.vision[-1][1] if marks.vision else marks.start
    found["prefill"] = clock.ms(read, marks.tokens[0])
    if n_out > 1:
        found["decode"] = clock.ms(marks.tokens[0], marks.tokens[-1])
    on_device = not isinstance(clock, HostClock)
    found["launch_bound"] = float(on_device and abs(host - device) > LAUNCH_BOUND * host)
    return found


def watched(method: Any, marks: list[tuple[Any, Any]], clock: Clock) -> Any:
    """A copy of the method whose prompt decisions are marked; the decisions stay the same."""
    copied = copy.copy(method)

    def asked(ask: Callable[..., Any], *args: Any) -> Any:
        begin = clock.mark()
        decision = ask(*args)
        marks.append((begin, clock.mark()))
        return decision

    for name in DECIDES:
        object.__setattr__(copied, name, functools.partial(asked, getattr(method, name)))
    return copied


def selection_ms(model: Any, prompt: Prompt, clock: Clock, marks: list[tuple[Any, Any]]) -> float:
    """Time the watched method spent deciding, in one prompt. Moving tokens is not in it."""
    marks.clear()
    clock.finish()
    generate(model, prompt, 1, None)
    clock.finish()
    return sum(clock.ms(*pair) for pair in marks)
