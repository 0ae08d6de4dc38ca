"""Checks of parameters and weights."""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
import typing
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

import methods
from harness.check.case import Case, NotApplicable, require
from harness.engine import EngineError, model_info, routed
from harness.families import tiny
from harness.model.checkpoints import load_checkpoint, save_checkpoint
from harness.store.cells import CellKey
from methods.base import Method, MethodError, ModelInfo


def parameters(s: Case) -> None:
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


def cell_ids(s: Case) -> None:
    """every parameter changes the cell id, and another value of it is accepted"""
    others = variants(s.method)
    if not s.method.params():
        raise NotApplicable("it has no parameters")
    lost = sorted(set(s.method.params()) - set(others))
    require(not lost, f"no second value of {', '.join(lost)} is accepted")
    ids = {name: _cell_id(method) for name, method in others.items()}
    ids["as given"] = _cell_id(s.method)
    twice = sorted(name for name, one in ids.items() if list(ids.values()).count(one) > 1)
    require(not twice, f"the same cell id for {', '.join(twice)}")


def every_parameter_acts(s: Case) -> None:
    """every parameter changes something: alone, or together with another one"""
    if not s.method.params():
        raise NotApplicable("it has no parameters")
    info = model_info(s.model)
    ways = _ways(s)
    seen: dict[tuple[int, Method], list[Any] | None] = {}

    def answer(way: int, method: Method) -> list[Any] | None:
        if (way, method) not in seen:
            try:
                seen[way, method] = ways[way](method)
            except MethodError:  # too small a budget for these images, say
                seen[way, method] = None
        return seen[way, method]

    def acts(name: str) -> bool:
        for way in range(len(ways)):
            for base in (s.method, *_bases(s.method, info)):
                for other in itertools.islice(_variants(base, name, info), 5):
                    one, two = answer(way, base), answer(way, other)
                    if one is not None and two is not None and not _alike(one, two):
                        return True
        return False

    idle = [name for name in s.method.params() if not acts(name)]
    require(not idle, f"nothing that was tried changes with {', '.join(idle)}")


def _bases(method: Method, info: ModelInfo) -> Iterator[Method]:
    """The method with one parameter changed; every choice of a named one."""
    for name in method.params():
        named = isinstance(getattr(method, name), (str, bool))
        yield from itertools.islice(_variants(method, name, info), 8 if named else 2)


def _ways(s: Case) -> list[Callable[[Method], list[Any]]]:
    """Ways of running a method, the cheap ones first: each gives tensors to compare."""
    crops = Case(s.method, family=tiny.TILED)

    def prompt(method: Method) -> list[Any]:
        twin = s.other(method)
        logits, records = twin.prefill(s.inputs)
        return [logits, *(torch.from_numpy(r.route.copy()) for r in records)]

    def tiles(method: Method) -> list[Any]:
        twin = crops.other(method)
        out, records = twin.generate(tiny.any_resolution_inputs(crops.model, crops.sizes))
        return [*out.logits, *(torch.from_numpy(r.route.copy()) for r in records)]

    def training(method: Method) -> list[Any]:
        return [torch.tensor(_trained(method, s.rows[:1])[0])]

    return [prompt, tiles, *([training] if s.method.trained else [])]


def _alike(one: list[Any], other: list[Any]) -> bool:
    pairs = list(zip(one, other, strict=False))
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.equal(a, b) for a, b in pairs
    )


def _cell_id(method: Method) -> str:
    """The id of a cell in which all but the method is fixed."""
    given: dict[str, Any] = {"method": method.name, "params": method.params()}
    given |= {"method_source": method.source_hash(), "versions": {}, "weights": {}}
    given |= {"limit": None, "batch_size": 1, "seed": 0}
    rest = {f.name: "" for f in dataclasses.fields(CellKey) if f.name not in given}
    return CellKey(**{**rest, **given, "halved_to": None}).cell_id


def variants(method: Method, info: ModelInfo | None = None) -> dict[str, Method]:
    """For each parameter the method with one other value that it (and the model) accepts."""
    found = {}
    for name in method.params():
        for other in _variants(method, name, info):
            found[name] = other
            break
    return found


def _variants(method: Method, name: str, info: ModelInfo | None) -> Iterator[Method]:
    kind = typing.get_type_hints(type(method))[name]
    for value in _others(kind, getattr(method, name)):
        try:
            made = methods.build(method.name, {**method.params(), name: value})
            if info is not None:
                made.fits(info)
                made.mod_layers(info)
        except MethodError:
            continue
        if made != method:
            yield made


def _others(kind: Any, value: Any) -> Iterator[Any]:
    """Values of this type that are worth a try, near the present one first."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:
        inner = next(a for a in args if a is not type(None))
        if value is not None:
            yield None
        yield from _others(inner, value)
    elif origin is Literal:
        yield from (a for a in args if a != value)
    elif origin is tuple:
        yield from _tuples(args[0], value)
    elif kind is bool:
        yield not value
    elif kind is int:
        near = (
            (8, 4, 2, 1)
            if value is None
            else (value // 2, value + 1, value - 1, 2 * value, 3 * value)
        )
        yield from (*near, 1, 64, 96, 128, 192)
    elif kind is float:
        yield from (0.5, 0.75, 1.0) if value is None else (value * 0.8, value * 1.25, 0.5, 0.25)
    elif kind is str:
        yield from ("all", "1+3", "even", "odd")


def _tuples(kind: Any, value: Any) -> Iterator[Any]:
    if not value:
        rising = ((1, 2, 3), (0, 2, 4), (0, 2), (1,))
        yield from (tuple(map(kind, one)) for one in (*rising, (5, 4, 3), (2, 1)))
        return
    yield tuple(kind(v * 0.8) if kind is float else v - 1 for v in value)
    yield tuple(kind(v + 1) for v in value)
    yield value[:-1]


def weights(s: Case) -> None:
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
    same = all((v == state[k]).all() for k, v in loaded.modules.state_dict().items())
    require(same and loaded.method == s.method, "the checkpoint reads back differently")


def gradients(s: Case) -> None:
    """in training, gradient reaches the method's own weights"""
    if not s.method.trained:
        raise NotApplicable("it has no weights")
    require(_trained(s.method, s.rows[:1])[1] > 0, "no gradient arrived")


def _trained(method: Method, rows: tiny.Rows) -> tuple[float, float]:
    """(loss, sum of the absolute gradients of the method's own weights) of one training step."""
    model = tiny.build(dtype=torch.float32).train()
    modules = tiny.randomise(method.build_modules(model_info(model)))  # type: ignore[arg-type]
    inputs = tiny.inputs_of(model, rows)
    with routed(model, method, modules) as run:
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        extra = run.aux_loss()
        loss = loss if extra is None else loss + extra
        loss.backward()
    total = sum(float(p.grad.abs().sum()) for p in modules.parameters() if p.grad is not None)
    return float(loss.detach()), total
