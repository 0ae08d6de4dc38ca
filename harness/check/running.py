"""Checks of what the engine does under a method: caches, batches, kernels, no trace left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

import methods
from harness.check.case import TRIES, Case, NotApplicable, image_tokens, require
from harness.check.watch import Replayed, Watched, counted
from harness.cost.executed import executed
from harness.cost.ledger import sample_cost
from harness.engine import model_info
from harness.engine.model import find_parts
from harness.families import tiny
from harness.families.catalog import shape_from_config
from harness.families.towers import whole
from harness.store.record import IMAGE
from methods.base import MethodError
from methods.budget import Budgeted


def nothing_dropped(s: Case) -> None:
    """with nothing to drop, logits equal the plain model's bit for bit (sdpa and eager)"""
    if s.method.neutral is None:
        raise NotApplicable("it states no `neutral`, a setting that changes nothing")
    neutral = methods.build(s.method.name, s.method.neutral)
    for attn in ("sdpa", "eager"):
        twin = Case(neutral, attn, torch.float32, s.family)
        twin.modules = neutral.build_modules(model_info(twin.model))  # fresh: they scale nothing
        with torch.no_grad():
            plain = twin.model(**twin.inputs).logits
        require(torch.equal(plain, twin.prefill(twin.inputs)[0]), f"logits differ under {attn}")


def cache_is_recorded(s: Case) -> None:
    """the KV cache holds exactly the recorded tokens, and tokens skip or leave as announced"""
    _, records = s.generate(s.inputs)  # records() asserts the cache tensors
    allowed = list(s.method.mod_layers(model_info(s.model)))
    for record in records:
        for layer, routes in enumerate(allowed):
            dense = bool(record.keep[layer].all())
            require(routes or dense, f"layer {layer} acts but is not among the method's layers")


def recount(s: Case) -> None:
    """recorded tokens equal those counted at every layer's attention output and MLP"""
    for i in range(len(s.rows)):
        with counted(find_parts(s.model).layers) as found:
            _, (record,) = s.generate(s.row(i))
        told = record.kv_tokens.tolist()
        for part, seen in found.items():
            require(seen == told, f"row {i}: {part} ran on {seen} tokens a layer, recorded {told}")


def work_is_counted(s: Case) -> None:
    """every matrix product that runs is in the ledger, and nothing else is"""
    free = isinstance(s.method, Budgeted) and s.method.target(1) is None
    budget = [replace(s.method, ratio=0.5)] if free else []  # type: ignore[call-arg]
    tries = [(s.other(method), s.prompt(0)) for method in (s.method, *budget)]
    if s.family == "llava" and s.takes_tiles:  # whole tiles, then cut ones
        other, sizes, count = Case(s.method, family=tiny.TILED), [(32, 32), (20, 30)], 2
    else:
        other, sizes, count = s, s.sizes, max(2, s.rows[0][1])
    for size in sizes:
        tries.append((other, tiny.any_resolution_inputs(other.model, [size] * count)))
    for subject, inputs in tries:
        try:
            with executed(subject.model) as ran:
                _, (record,) = subject.generate(inputs)
        except MethodError:
            if subject.method == s.method:
                raise
            continue  # a budget that is out of reach on this model
        shape = shape_from_config(subject.model.config.to_dict(), "tiny")
        told = sample_cost(record, shape, 8, s.method.needs_images).whole
        require(told is not None, "some of its work is not known")
        assert told is not None  # for the type checker
        say = f"{subject.method.spec}: {ran.tflops * 1e12:.0f} FLOP ran, the ledger says"
        require(abs(told - ran.tflops) < 1e-9 * told, f"{say} {told * 1e12:.0f} (Tokens.note?)")


def batch_is_single(s: Case) -> None:
    """a padded batch with unequal image counts gives answers and costs of single prompts"""
    together, records = s.generate(s.inputs)
    for i in range(len(s.rows)):
        alone, record = s.generate(s.row(i))
        worst = max(
            float((a[i] - b[0]).abs().max())
            for a, b in zip(together.logits, alone.logits, strict=True)
        )
        require(worst < 1e-5, f"row {i}: logits differ by {worst:.1e}")
        require(bool((records[i].route == record[0].route).all()), f"row {i} is routed differently")
        require(records[i].scoring == record[0].scoring, f"row {i} counts other work of its own")


def cache_on_and_off(s: Case) -> None:
    """generation with and without the KV cache agrees"""
    on, a = s.generate(s.inputs)
    off, b = s.generate(s.inputs, use_cache=False)
    require(torch.equal(on.sequences, off.sequences), "other tokens")
    same = all((x.decode == y.decode).all() for x, y in zip(a, b, strict=True))
    require(same, "other decisions at decode")


def kernels_agree(s: Case) -> None:
    """eager and sdpa attention give the same routing, tokens and logits (to 1e-4)"""
    # float32: the library's eager attention gives NaN for padded rows in float64.
    sdpa, eager = (Case(s.method, attn, torch.float32, s.family) for attn in ("sdpa", "eager"))
    (one, a), (other, b) = sdpa.generate(sdpa.inputs), eager.generate(eager.inputs)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        require(bool((x.route == y.route).all()), f"row {i} is routed differently")
    require(torch.equal(one.sequences, other.sequences), "other tokens")
    pairs = zip(one.logits, other.logits, strict=True)
    worst = max(float((x - y).abs().max()) for x, y in pairs)
    require(worst < 1e-4, f"logits differ by {worst:.1e}")


def future_unseen(s: Case) -> None:
    """no token sees a later one: with the same decisions, other last words change nothing before"""
    watched = Watched(s.method)
    inputs = s.prompt(0)
    first, (record,) = s.prefill(inputs, watched)
    later = {**inputs, "input_ids": inputs["input_ids"].clone()}
    later["input_ids"][0, -2:] = torch.tensor([tiny.WORD, tiny.WORD + 1])
    second, _ = s.prefill(later, Replayed(watched))
    change = (first - second)[0].abs().amax(dim=-1)
    require(float(change[-1]) > 0, "other last words change nothing at all")
    # Tokens that left are no longer computed: their logits mean nothing.
    there = torch.from_numpy(record.route[-1] != -2)[:-2]
    worst = float(change[:-2][there].max())
    require(worst < 1e-9, f"earlier logits change by {worst:.1e}")


def ties_and_seeds(s: Case) -> None:
    """the same prompt is routed alike every time: under ties, under any global seed; numbers drawn
    are its own"""
    blank = Case(s.method, dtype=s.dtype)
    embeddings = whole(find_parts(blank.model).tower).embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight.zero_()  # all patches of a blank image are equal
    blank.inputs["pixel_values"].zero_()
    for case, what in ((s, "prompt"), (blank, "blank image")):
        _ = case.modules  # fresh weights may be drawn, once
        torch.manual_seed(1)
        state = torch.get_rng_state()
        once, a = case.prefill(case.inputs)
        require(torch.equal(torch.get_rng_state(), state), "it draws from the global generator")
        torch.manual_seed(2)
        again, b = case.prefill(case.inputs)
        require(torch.equal(once, again), f"{what}: other logits in the second run")
        same = all((x.route == y.route).all() for x, y in zip(a, b, strict=True))
        require(same, f"{what}: routed differently in the second run")
        require(bool(torch.isfinite(once).all()), f"{what}: logits are not finite")
    wanted = s.method.request(model_info(blank.model), blank.image_tokens)
    if wanted is not None and s.method.least_images == 1:
        _, (record,) = blank.prefill(blank.row(0))
        require(image_tokens(record) == list(wanted), "a blank image keeps other numbers of tokens")


def seed_counts(s: Case) -> None:
    """a method with a seed draws other tokens under another one"""
    if not hasattr(s.method, "seed"):
        raise NotApplicable("it has no seed")
    other = s.other(methods.build(s.method.name, {**s.method.params(), "seed": s.method.seed + 1}))
    for seed in range(TRIES):
        inputs = s.prompt(seed)
        (a, (x,)), (b, (y,)) = s.prefill(inputs), other.prefill(inputs)
        if bool((x.route != y.route).any()) or not torch.equal(a, b):
            return
    drawn = [k for k, v in s.method.params().items() if v in ("random",)]
    require(not drawn, f"seed changes nothing although {drawn} asks for it")
    raise NotApplicable(f"no draw decided anything in {TRIES} prompts")


def text_untouched(s: Case) -> None:
    """text is always processed, and a prompt without image runs as the dense model"""
    if s.method.routes_text:
        raise NotApplicable("it routes text too")
    _, records = s.generate(s.inputs)
    for record in records:
        require(bool(record.keep[:, record.kinds != IMAGE].all()), "a text token was not processed")
    text = tiny.inputs_of(s.model, [(3, 0, 4), (2, 0, 1)])
    with torch.no_grad():
        plain = s.model(**text).logits
    require(torch.equal(plain, s.prefill(text)[0]), "text-only logits differ")


def any_resolution(s: Case) -> None:
    """works on any-resolution images with tiles and newline tokens, several in a prompt"""
    if not s.takes_tiles:
        raise NotApplicable("it refuses images in tiles")
    other = Case(s.method, family=tiny.TILED)
    inputs = tiny.any_resolution_inputs(other.model, other.sizes)
    _, (record,) = other.generate(inputs)
    require(len(record.grid) == 4, f"{len(record.grid)} patch grids instead of 4")
    size = sum(g["rows"] * (g["cols"] + g["newline"]) for g in record.grid)
    require(size == record.n_image, "the grids do not cover the image tokens")
    with counted(find_parts(other.model).layers) as found:
        _, (record,) = other.generate(inputs)
    require(found["mlp"] == record.kv_tokens.tolist(), "other tokens ran than were recorded")


def no_trace(s: Case) -> None:
    """nothing is left behind in the model, also after an exception"""
    plain = s.other(methods.build(methods.REFERENCE))
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
        with s.running():
            raise KeyError
    except KeyError:
        require(left() == before, "attributes or hooks stayed behind after an exception")
    require(torch.equal(plain.generate(s.inputs)[0].sequences, answer), "the model changed")


def tower_left_alone(s: Case) -> None:
    """a method without images never runs the vision tower"""
    if s.method.needs_images:
        raise NotApplicable("it looks at images")
    tower = type(find_parts(s.model).tower)
    with patch.object(tower, "forward", side_effect=AssertionError("the vision tower ran")):
        s.generate(s.inputs)
