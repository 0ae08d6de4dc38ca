"""Training through the engine: packed questions, padding, gradients, auxiliary loss."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch

import methods
from harness.engine import routed
from tests.routing_tools import random_modules
from tests.tiny import batch, row, tiny_llava

SPECS = ["dense", "pmod:beta=0.3", "gamma:layers=all:mask=QA", "mod:layers=all:capacity=0.9"]
PREFIX = 19  # text and image of `packed`


def packed(model, blocks=(4, 6), padding=2):
    """One image with several questions behind it: ids, labels, block mask, restarting positions."""
    inputs = batch(model, [(3, [16], sum(blocks) + padding)])
    ids = inputs["input_ids"]
    n = ids.shape[1]
    seen = torch.zeros(n, n, dtype=torch.bool)
    seen[:PREFIX, :PREFIX] = torch.ones(PREFIX, PREFIX).tril().bool()
    positions, labels = list(range(PREFIX)), torch.full_like(ids, -100)
    start = PREFIX
    for size in blocks:
        seen[start : start + size, :PREFIX] = True
        seen[start : start + size, start : start + size] = torch.ones(size, size).tril().bool()
        positions += range(PREFIX, PREFIX + size)
        labels[0, start + size - 2 : start + size] = ids[0, start + size - 2 : start + size]
        start += size
    seen |= torch.eye(n, dtype=torch.bool)
    positions += [0] * padding
    return {
        "input_ids": ids,
        "pixel_values": inputs["pixel_values"],
        "attention_mask": seen[None, None],
        "position_ids": torch.tensor([positions]),
        "labels": labels,
    }


def additive(mask):
    return torch.where(mask, 0.0, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(("attn", "form"), [("sdpa", "bool"), ("sdpa", "add"), ("eager", "add")])
@pytest.mark.parametrize("spec", SPECS)
def test_packed_questions_equal_single_ones(spec, attn, form):
    model = tiny_llava(layers=6, attn=attn).train()
    method = methods.parse(spec)
    data = packed(model)
    whole = dict(data)
    if form == "add":
        whole["attention_mask"] = additive(data["attention_mask"])
    with torch.no_grad(), routed(model, method, random_modules(method, model)):
        together = model(**whole, use_cache=False).logits[0]
        start = PREFIX
        for size in (4, 6):
            take = torch.cat([torch.arange(PREFIX), torch.arange(start, start + size)])
            alone = model(
                input_ids=data["input_ids"][:, take],
                pixel_values=data["pixel_values"],
                labels=data["labels"][:, take],
                use_cache=False,
            ).logits[0]
            torch.testing.assert_close(
                together[start : start + size], alone[PREFIX:], rtol=1e-4, atol=2e-5
            )
            start += size


@pytest.mark.parametrize("spec", SPECS)
def test_right_padded_training_batch_equals_single_rows(spec):
    model = tiny_llava(layers=5, dtype=torch.float64).train()
    method = methods.parse(spec)
    shapes, images = [(3, [16], 4), (2, [], 5), (2, [16, 16], 2)], [[0], [], [1, 2]]
    inputs = batch(model, shapes, padding="right")
    labels = inputs["input_ids"].clone()
    labels[:, :-2] = -100
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        together = model(**inputs, labels=labels).logits
        losses = [run.aux_loss()]
        for i in range(3):
            single = row(inputs, i, images[i])
            mask = inputs["attention_mask"][i].bool()
            alone = model(**single, labels=labels[i][mask][None]).logits[0]
            torch.testing.assert_close(together[i][mask], alone, rtol=0, atol=1e-6)
            losses.append(run.aux_loss())
    if spec.startswith("gamma"):
        sizes = inputs["attention_mask"].sum(1).double()
        mean = sum(n * loss for n, loss in zip(sizes, losses[1:], strict=True)) / sizes.sum()
        torch.testing.assert_close(losses[0].double(), mean, rtol=1e-5, atol=1e-7)
    else:
        assert losses == [None] * 4


@pytest.mark.parametrize("spec", SPECS[1:])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_router_and_survive_checkpointing(spec, checkpointing):
    model = tiny_llava(layers=6).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    method = methods.parse(spec)
    modules = random_modules(method, model)
    with routed(model, method, modules) as run:
        loss = model(**packed(model), use_cache=False).loss
        if run.aux_loss() is not None:
            loss = loss + run.aux_loss()
        loss.backward()
    grads = {name: p.grad for name, p in modules.named_parameters()}
    last = [n for n in grads if n.startswith("5.")]  # image states of the last layer are unread
    assert all(g is not None and g.abs().sum() > 0 for n, g in grads.items() if n not in last)
    weights = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    if checkpointing:
        model.gradient_checkpointing_disable()
        model.zero_grad()
        with routed(model, method, modules.requires_grad_(False)) as run:
            loss = model(**packed(model), use_cache=False).loss
            extra = run.aux_loss()
            (loss if extra is None else loss + extra).backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                torch.testing.assert_close(weights[name], p.grad, rtol=1e-4, atol=1e-6)


def test_fresh_pmod_predictors_keep_the_first_tokens_at_dense_weight():
    """Zero predictors: all weights 1, ties to the lowest index, gradient still flows."""
    model = tiny_llava(layers=4).train()
    method = methods.parse("pmod:schedule=constant:span=all:ratio=0.5")
    from harness.engine import model_info

    modules = method.build_modules(model_info(model))
    seen = []
    original = type(method).layer

    def spy(self, layer, seq):
        seen.append(original(self, layer, seq))
        return seen[-1]

    with patch.object(type(method), "layer", spy), routed(model, method, modules):
        model(**packed(model), use_cache=False).loss.backward()
    for decision in seen:
        assert (
            decision.keep[0].tolist()
            == [i < 3 + 8 or i >= PREFIX for i in range(31)][:29] + [False] * 2
        )
        assert (decision.weight == 1).all()
    assert modules["1"].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("mask", "protected"), [("none", 0), ("Q", 8), ("QA", 10)])
def test_gamma_training_selection_and_loss(mask, protected):
    """Exactly floor(A * ratio) tokens are skipped, protected ones never; loss by hand."""
    model = tiny_llava(layers=5).train()
    method = methods.parse(f"gamma:layers=1+3:mask={mask}:ratio=0.34")
    modules = random_modules(method, model, scale=2.0)
    inputs = batch(model, [(3, [16], 10)])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -2:] = inputs["input_ids"][0, -2:]
    seen, logits = [], []
    route, compute = type(method).layer, type(method).logits

    def spy(self, layer, seq):
        decision = route(self, layer, seq)
        seen.extend([decision] if decision is not None else [])
        return decision

    def spy_logits(self, layer, seq):
        logits.append(compute(self, layer, seq))
        return logits[-1]

    with (
        torch.no_grad(),
        patch.object(type(method), "layer", spy),
        patch.object(type(method), "logits", spy_logits),
        routed(model, method, modules) as run,
    ):
        model(**inputs, labels=labels)
        aux = run.aux_loss()
    expected = 0.0
    for decision, values in zip(seen, logits, strict=True):
        keep = decision.keep[0]
        skipped = math.floor(19 * 0.34)
        assert (~keep).sum() == skipped == 6
        assert keep[PREFIX : PREFIX + 8].all() or protected == 0
        assert keep[PREFIX:].all() or protected < 10
        p = values[0].softmax(-1)[:, 1]
        assert p[~keep].max() <= p[:PREFIX][keep[:PREFIX]].min()
        chosen = torch.where(keep, p, 1 - p)
        expected += 0.01 * float(-chosen.log().mean())
    assert aux.item() == pytest.approx(expected, rel=1e-5)


def test_embeddings_of_a_caller_need_kinds_and_take_them():
    model = tiny_llava(layers=5)
    inputs = batch(model, [(3, [16], 4)])
    method = methods.parse("fastv")
    with torch.no_grad(), routed(model, method) as run:
        expected = model(**inputs).logits
        record = run.records()[0]
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        features = model.model.get_image_features(inputs["pixel_values"]).pooler_output
        embeds[0, 3:19] = features[0]
        run.set_kinds(torch.from_numpy(record.kinds)[None])
        mine = model(inputs_embeds=embeds).logits
    assert torch.equal(expected, mine)


def test_the_method_may_change_while_the_context_is_open():
    """Staged training: also what a method does to the vision tower follows the method of now."""
    model = tiny_llava(layers=3)
    inputs = batch(model, [(3, [16], 4)])
    with torch.no_grad():
        plain = model(**inputs).logits
        with routed(model, methods.parse("blind")) as run:
            assert not torch.equal(model(**inputs).logits[:, -1], plain[:, -1])
            run.method = methods.parse("dense")
            assert torch.equal(model(**inputs).logits, plain)
