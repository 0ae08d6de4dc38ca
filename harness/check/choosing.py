"""Checks of what a method chooses: as many as asked for, the best by its own score, in order."""

from __future__ import annotations

from contextlib import suppress

import torch

import methods
from harness.check.case import TRIES, Case, NotApplicable, image_tokens, require
from harness.check.settings import variants
from harness.check.watch import Noted, Watched
from harness.engine import model_info
from harness.families import tiny
from harness.store.record import IMAGE
from methods.base import Method, MethodError

SHARES = (0.75, 0.5)  # what a method can meet that starts in the middle of the depth


def counts_as_requested(s: Case) -> None:
    """every layer processes as many image tokens as requested, under any value of any parameter"""
    info, n = model_info(s.model), s.image_tokens
    if s.method.request(info, n) is None:
        raise NotApplicable("it states no numbers: the images decide")
    for method in (s.method, *variants(s.method, info).values()):
        wanted = method.request(info, n)
        if wanted is None:
            continue
        try:
            _, (record,) = s.other(method).prefill(tiny.inputs_of(s.model, [(3, 1, 4)]))
        except MethodError:
            if method == s.method:
                raise
            continue  # refused on this model, with a reason
        found = image_tokens(record)
        off = len(record.grid) - 1  # of several crops, each one's share is rounded
        met = all(abs(a - b) <= off for a, b in zip(found, wanted, strict=True))
        require(met, f"{method.spec}: {found}, requested {list(wanted)}")


def budget_is_met(s: Case) -> None:
    """tokens=, ratio= and kv= are met as the mean over layers, to one token (or its grid's step)"""
    info, frames = model_info(s.model), s.method.least_images
    n, known = s.image_tokens * frames, s.method.params()
    if frames > 1:
        frames = s.rows[0][1]
        n = s.image_tokens * frames
    budgets = [k for k in ("tokens", "ratio", "kv") if k in known and known[k] is None]
    if "kv" not in budgets:
        raise NotApplicable("it takes no budget")
    for key in budgets if "tokens" in budgets else ["kv"]:
        for share in SHARES:
            value = round(n / frames * share) if key == "tokens" else share
            method = _with(s.method, {key: value})
            twin = s.other(method)
            twin.method.fits(info)
            _, (record,) = twin.prefill(s.prompt(0))
            mean = float(record.processed_per_layer(IMAGE).mean())
            # a float32 product rounded down in every layer stays below by one at most
            off = n / 6 if s.method.coarse else 1
            require(
                abs(mean - n * share) <= off,
                f"{method.spec}: {mean:.2f} image tokens a layer, wanted {n * share:g}",
            )


def _with(method: Method, values: dict[str, object]) -> Method:
    try:
        return methods.build(method.name, {**method.params(), **values})
    except MethodError:  # a parameter of the method's own that excludes a budget
        return methods.build(method.name, values)


def best_are_kept(s: Case) -> None:
    """the kept tokens are those with the highest score of the method's own"""
    seen = 0
    for seed in range(TRIES):
        watched = Watched(s.method)
        s.prefill(s.inputs if seed == 0 else s.prompt(seed), watched)
        seen += sum(_ranked_well(noted, s.method.routes_text) for noted in watched.noted)
    for method in variants(s.method, model_info(s.model)).values():
        watched = Watched(method)
        with suppress(MethodError):  # refused on this model, with a reason
            s.other(method).prefill(s.prompt(0), watched)
        seen += sum(_ranked_well(noted, s.method.routes_text) for noted in watched.noted)
    if not seen:
        raise NotApplicable("it ranks no tokens, or all of them stay")


def _ranked_well(noted: Noted, text: bool) -> bool:
    """Whether tokens were ranked and some left; raises where a better one left than stayed."""
    ranked = noted.decision.ranked
    if ranked is None:
        return False
    candidates = noted.valid if text else noted.image
    chosen = noted.kept if ranked.chosen is None else ranked.chosen
    group = torch.zeros_like(noted.index) if ranked.group is None else ranked.group
    where = "before the first layer" if noted.layer < 0 else f"layer {noted.layer}"
    some = False
    for b in range(len(candidates)):
        for g in group[b][candidates[b] & (group[b] >= 0)].unique():
            mine = candidates[b] & (group[b] == g)
            score = ranked.score[b].float()  # as methods compare them (`top_k_mask`)
            stay, leave = score[mine & chosen[b]], score[mine & ~chosen[b]]
            if len(stay) and len(leave):
                some = True
                good = float(leave.max()) <= float(stay.min())
                require(good, f"{where}, row {b}: a token left with a higher score than one stayed")
    return some


def order_is_kept(s: Case) -> None:
    """tokens stay in the order of the prompt"""
    if s.method.reorders:
        raise NotApplicable("it says that it reorders")
    watched = Watched(s.method)
    s.prefill(s.inputs, watched)
    for layer, index in enumerate(watched.running):
        for b, row in enumerate(index):
            rises = row[row >= 0].diff() > 0
            require(bool(rises.all()), f"layer {layer}, row {b}: tokens stand in another order")


def numbered_as_said(s: Case) -> None:
    """kept tokens are numbered as it says, anew or by their place: controls go by that"""
    seen = 0
    for method in (s.method, *variants(s.method, model_info(s.model)).values()):
        if method.merge_layers(model_info(s.model)):
            continue  # what the tower merges, the engine numbers
        watched = Watched(method)
        with suppress(MethodError):  # refused on this model, with a reason
            s.other(method).prefill(s.prompt(0), watched)
        for noted in watched.noted:
            stays = noted.kept & noted.image
            if not bool(stays.any()) or bool((noted.kept == noted.valid).all()):
                continue  # all of them left, or none did
            seen += 1
            found, said = noted.decision.positions, method.numbering
            require(found == said, f"{method.spec}: positions are {found}, it says {said}")
    if not seen:
        raise NotApplicable("it leaves out no token, or all of them")
