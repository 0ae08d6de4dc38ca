"""Any sequence of decisions: a random method against the reference, in ragged batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engine import routed
from methods.base import Drop, Merge, Method, Route
from tests import naive
from tests.routing_tools import exact_norms, forced, naive_sample, with_positions
from tests.tiny import batch, row, tiny_llava

LAYERS, STEPS = 5, 3
SCOPES = ("mlp_branch", "layer_output", "residual_update")


class Script:
    """Decisions of one sample for every layer and token, drawn before any model runs."""

    def __init__(self, rng: np.random.Generator, total: int, prompt: int) -> None:
        self.kind, self.positions = [], []
        self.keep = rng.random((LAYERS, total)) < rng.choice([0.3, 0.7])
        self.keep[:, prompt - 1] = True  # some token must be left
        self.slot = rng.random((LAYERS, total))
        self.weight = rng.normal(1, 0.3, (LAYERS, total))
        self.skip = rng.normal(1, 0.1, (LAYERS, total))


@dataclass(frozen=True)
class Scripted(Method):
    """Follows scripts; all samples share the kind of decision in a layer, as real methods do."""

    name: ClassVar[str] = "scripted"
    kinds: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    compact: tuple[bool, ...] = ()
    scripts: tuple[Script, ...] = ()

    def table(self, seq, values):
        """[B, m] of per-sample tables at the running tokens."""
        rows = []
        for b in range(len(self.scripts)):
            token = (seq.index[b] - seq.samples.first[b]).clamp(min=0)
            rows.append(torch.as_tensor(values[b])[token.clamp(max=len(values[b]) - 1)])
        return torch.stack(rows)

    def route(self, layer, keep, weight, skip):
        positions = "compact" if self.compact[layer] else "original"
        return Route(keep, None, weight, self.scopes[layer], skip, positions)

    def layer(self, layer, seq):
        kind = self.kinds[layer]
        keep = self.table(seq, [s.keep[layer] for s in self.scripts])
        positions = "compact" if self.compact[layer] else "original"
        if kind == "route":
            weight = self.table(seq, [s.weight[layer] for s in self.scripts])
            skip = self.table(seq, [s.skip[layer] for s in self.scripts])
            return self.route(layer, keep, weight, skip)
        if kind == "drop":
            return Drop(keep & seq.valid, None, positions)
        if kind == "merge":
            assign = torch.full(seq.index.shape, -1)
            weight = self.table(seq, [s.weight[layer] for s in self.scripts])
            for b, script in enumerate(self.scripts):
                alive = torch.nonzero(seq.valid[b]).flatten()
                tokens = (seq.index[b] - seq.samples.first[b])[alive]
                for column, target in zip(alive, merge_of(script, layer, tokens), strict=True):
                    assign[b, column] = alive[target] if target >= 0 else -1
            return Merge(assign, None, weight=weight, positions=positions)
        return None

    def decode(self, layer, seq):
        if self.kinds[layer] != "route":
            return None
        step = seq.memo_step
        tables = [[getattr(s, n)[layer] for s in self.scripts] for n in ("keep", "weight", "skip")]
        now = [[[values[s.prompt + step]] for s, values in zip(self.scripts, t, strict=True)]
               for t in tables]  # fmt: skip
        one = [torch.as_tensor(np.array(t)) for t in now]
        return self.route(layer, *one)


def merge_of(script: Script, layer: int, tokens) -> list[int]:
    """For each of the alive tokens: which alive token takes it in, -1 for none."""
    draws = script.slot[layer][np.asarray(tokens)]
    slots = [i for i, d in enumerate(draws) if d < 0.5]
    if len(draws) - 1 not in slots:
        slots.append(len(draws) - 1)
    return [
        i if i in slots else (-1 if d > 0.85 else slots[int(d * 1000) % len(slots)])
        for i, d in enumerate(draws)
    ]


def follow(reference: naive.Naive, method: Scripted, script: Script) -> torch.Tensor:
    """The same script on the reference."""
    prompt = reference.sample.prompt
    for layer, kind in enumerate(method.kinds):
        keep = torch.as_tensor(script.keep[layer])
        compact = method.compact[layer]
        if kind == "route":
            active = keep & reference.alive
            position = reference.ranks(active) if compact else None
            weight, skip = (torch.as_tensor(t[layer]) for t in (script.weight, script.skip))
            reference.run_layer(layer, active, position, weight, method.scopes[layer], skip)
            continue
        if kind == "drop":
            reference.alive[:prompt] &= keep[:prompt]
        elif kind == "merge":
            tokens = torch.nonzero(reference.alive[:prompt]).flatten()
            weight = torch.as_tensor(script.weight[layer])
            merged, x = reference.x.clone(), reference.x
            targets = merge_of(script, layer, tokens)
            for i, token in enumerate(tokens):
                members = tokens[[j for j, t in enumerate(targets) if t == i]]
                reference.alive[token] = targets[i] == i
                merged[token] = (weight[members, None] * x[members]).sum(0)
            reference.x = merged
        if kind in ("drop", "merge") and compact:
            reference.position = reference.ranks(reference.alive)
        reference.run_layer(layer)
    return reference.logits()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_decisions_equal_the_reference(seed):
    rng = np.random.default_rng(seed)
    seeded = tiny_llava(layers=LAYERS, dtype=torch.float64, side=3, seed=int(rng.integers(100)))
    model = exact_norms(seeded)
    shapes = [
        (int(rng.integers(2, 6)), [9] * int(rng.integers(0, 3)), int(rng.integers(1, 6)))
        for _ in range(int(rng.integers(1, 5)))
    ]
    inputs = batch(model, shapes, seed=int(rng.integers(1000)))
    answer = torch.as_tensor(rng.integers(3, 50, (len(shapes), STEPS)))
    scripts = []
    for before, images, after in shapes:
        prompt = before + sum(images) + after
        scripts.append(Script(rng, prompt + STEPS, prompt))
        scripts[-1].prompt = prompt
    method = Scripted(
        kinds=tuple(rng.choice(["none", "route", "drop", "merge"], LAYERS).tolist()),
        scopes=tuple(rng.choice(SCOPES, LAYERS).tolist()),
        compact=tuple((rng.random(LAYERS) < 0.5).tolist()),
        scripts=tuple(scripts),
    )
    with torch.no_grad(), routed(model, method) as run:
        result = forced_with_steps(model, inputs, answer)
        records = run.records()
        image = 0
        for b, (_, images, _) in enumerate(shapes):
            single = row(inputs, b, list(range(image, image + len(images))))
            image += len(images)
            sample = naive_sample(model, single, answer[b], "")
            reference = naive.Naive(model, sample)
            expected = follow(reference, method, scripts[b])
            torch.testing.assert_close(result[b], expected, rtol=0, atol=1e-7)
            active = torch.stack(reference.active).numpy()
            np.testing.assert_array_equal(records[b].keep, active[:, : records[b].n])
            np.testing.assert_array_equal(records[b].decode, active[:, records[b].n :])


def forced_with_steps(model, inputs, answer):
    """Forced decoding that tells the scripted method which step it is."""
    from harness.engine.sequence import RunningTokens

    steps = iter(range(answer.shape[1]))
    original = RunningTokens.__init__

    def numbered(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.memo_step = next(steps) if self.generated else -1

    RunningTokens.__init__ = numbered
    try:
        return forced(model, with_positions(inputs), answer)
    finally:
        RunningTokens.__init__ = original


@dataclass(frozen=True)
class Reorder(Method):
    """Keeps everything, but turns the image tokens around before layer 0."""

    name: ClassVar[str] = "reorder"

    def before(self, seq):
        order = torch.where(seq.image, 2 * 3 + 15 - seq.index, seq.index)
        return Drop(seq.valid, list(seq.counts), "compact", order)


def test_survivors_can_be_reordered():
    model = tiny_llava(layers=4)
    inputs = batch(model, [(3, [16], 4)])
    features = model.model.get_image_features(inputs["pixel_values"], return_dict=True)
    text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    features.pooler_output = [features.pooler_output[0].flip(0)]
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [60]}
    expected = model.generate(**text, **options, mm_encoder_outputs={"image": features})
    with routed(model, Reorder()) as run:
        mine = model.generate(**inputs, **options)
        assert run.records()[0].skip_all_layers == 0
    assert torch.equal(expected, mine)
