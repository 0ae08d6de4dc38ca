"""The matrix products that really run against the ledger.

That every method of the registry agrees is a rule of the conformance suite (`work_is_counted`),
which `tests/test_check.py` runs on all of them; here are other settings, and the rule's own teeth.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import methods
from harness.check import running
from harness.check.case import STEPS, Case
from harness.cost.executed import executed
from harness.cost.findings import RefereeError
from harness.cost.ledger import sample_cost
from harness.cost.readouts import read_out
from harness.cost.referees import referees_for
from harness.cost.replica import DependsOnWeights, predicted_record
from harness.engine import routed
from harness.families import tiny
from harness.families.catalog import config_for, shape_from_config, shape_of
from harness.model.clip import Clip
from harness.store.record import RoutingRecord, dense_record
from methods.base import Method, Tokens
from tests.routing_tools import generate
from tests.test_costs import SMALL
from tests.test_engine_families import siglip
from tests.tiers import some
from tests.tiny import batch

LLAVA = "llava-hf/llava-1.5-7b-hf"
OTHERS = (
    "sparsevlm:version=2",
    "sparsevlm:keep=500+400+300",
    "fastv:score=all",
    "cdpruner:relevance=words",
    "cdpruner:keep=300",
    "freevideollm:relevance=words",
    "divprune:space=crop",
    "divprune:keep=0.5:newlines=keep",
    "prumerge:plus=true",
    "visionzip:dominant=200:contextual=200",
    "mqt:m=3",
    "gamma:rule=topk",
    "gamma:threshold=0.5",
    "mod:shared=true",
    "illava:vit_remove=200",
    "scope:keep=300",
    "vscan:keep=300",
    "mmtok:keep=300",
)


@pytest.mark.parametrize("spec", some(OTHERS, *OTHERS[::2]))
def test_what_runs_is_what_the_ledger_says(spec: str) -> None:
    running.work_is_counted(Case(methods.parse(spec)))


@pytest.mark.parametrize("spec", ["dense", "illava", "mmtok", "blind", "vscan", "visionzip"])
def test_towers_without_class_token_agree_too(spec: str) -> None:
    """SigLIP's tower and its pooling head, Qwen2's decoder."""
    method, model = methods.parse(spec), siglip()
    inputs = batch(model, [(3, [16], 4)])
    with torch.no_grad(), executed(model) as ran, routed(model, method) as run:
        generate(model, inputs)
        record = run.records()[0]
    shape = shape_from_config(model.config.to_dict(), "tiny")
    cost = sample_cost(record, shape, itemsize=4, vision_runs=method.needs_images)
    assert cost.whole == pytest.approx(ran.tflops, rel=1e-12)


def test_an_operator_that_nobody_counts_is_an_error() -> None:
    model = tiny.build()
    one = torch.ones(2, 2)
    with executed(model), pytest.raises(RefereeError, match="'_addmm_activation' multiplies"):
        torch._addmm_activation(one[0], one, one)


@dataclass(frozen=True)
class Silent(Method):
    """Multiplies tokens and says nothing of it, or too much."""

    name: ClassVar[str] = "silent"
    said: int = 0

    def before(self, seq: Tokens) -> None:
        _ = seq.hidden @ seq.hidden.transpose(1, 2)
        seq.note("product", [self.said * n * n for n in seq.counts])


def test_work_that_is_not_said_or_said_twice_is_caught() -> None:
    running.work_is_counted(Case(Silent(said=1)))
    for said in (0, 2):
        with pytest.raises(AssertionError, match=r"FLOP ran, the ledger says \d+"):
            running.work_is_counted(Case(Silent(said=said)))


def random_clip(model: Any) -> Clip:
    """A whole CLIP model around a tower like the model's, its text side of other sizes."""
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": tiny.VOCAB, "projection_dim": 20}
    config = CLIPConfig(
        text_config=text,
        vision_config=model.config.vision_config.to_dict(),
        projection_dim=20,
        attn_implementation="sdpa",
    )

    def tokenizer(one: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [tiny.WORD] * len(one)}  # a long question is several chunks

    return Clip(CLIPModel(config).to(model.dtype).eval(), tokenizer, last=-2)


@pytest.mark.parametrize("name", ["cdpruner", "freevideollm"])
def test_the_text_tower_counts_where_a_method_asks_it(name: str) -> None:
    subject = Case(methods.parse(name))
    model, inputs = subject.model, subject.prompt(0)
    clip = random_clip(model)
    shape = shape_from_config(model.config.to_dict(), "tiny")
    with (
        torch.no_grad(),
        executed(model) as ran,
        routed(model, subject.method, clip=clip) as run,
    ):
        run.set_samples(["one"], ["What is it? " * 10])
        model.generate(**inputs, do_sample=False, max_new_tokens=STEPS)
        record = run.records([STEPS])[0]
    cost = sample_cost(record, shape, itemsize=8)
    assert cost.whole == pytest.approx(ran.tflops, rel=1e-12)
    assert cost.router > 0.2 * ran.tflops  # two chunks of 77 tokens: no small part here
    for scopes in referees_for(shape).sample(record).values():
        assert scopes["router"] == pytest.approx(cost.router, rel=1e-12)


@cache
def counters() -> Any:
    """Of every method's samples: each shape of a layer is counted once."""
    return referees_for(shape_from_config(SMALL, "small"))


@pytest.mark.parametrize(
    "spec",
    [*(n for n in methods.names() if n != "freevideollm"), "prumerge:ratio=0.5", "gamma:rule=topk"],
)
def test_three_counters_agree_on_what_every_method_does(spec: str) -> None:
    try:
        record = predicted_record(methods.parse(spec), SMALL, n_text=8, n_out=3)
    except DependsOnWeights:
        pytest.skip("its counts depend on weights")
    shape = shape_from_config(SMALL, "small")
    found = read_out(record, shape, 2, spec != "blind", counters())
    for scope in ("router", "projector"):
        for counter in ("fvcore", "torch"):
            theirs, ours = found[f"tflops_{scope}_{counter}"], found[f"tflops_{scope}"]
            assert theirs == (None if ours is None else pytest.approx(ours, rel=1e-9))


def test_costs_of_published_sizes_by_hand() -> None:
    """LLaVA-1.5-7B, 576 patches: n²·d of similarities; VisionZip's tokens projected again."""
    d, w, n = 4096, 1024, 576
    cost = {
        spec: sample_cost(predicted_record(methods.parse(spec), config_for(LLAVA), 58, 1),
                          shape_of(LLAVA), itemsize=2)
        for spec in ("dense", "divprune", "scope", "fastervlm", "visionzip", "cdpruner")
    }  # fmt: skip
    row = 2 * (n + 1) * w
    assert cost["divprune"].router == pytest.approx(2 * n * n * d / 1e12, rel=1e-12)
    assert cost["fastervlm"].router == pytest.approx(row / 1e12, rel=1e-12)
    assert cost["scope"].router == pytest.approx((row + 2 * n * n * w) / 1e12, rel=1e-12)
    again = 2 * (1 + 10) * (w * d + d * d) / 1e12  # the class token and ten merged ones
    difference = cost["visionzip"].projector - cost["dense"].projector
    assert difference == pytest.approx(again, rel=1e-9)
    # CLIP-L's text tower on one chunk, the projection of 576 patches, S and 64 greedy steps.
    text = 12 * (8 * 77 * 768**2 + 4 * 77**2 * 768 + 4 * 77 * 768 * 3072) + 2 * 768 * 768
    clip = text + 2 * n * w * 768 + 2 * n * 768
    greedy = 2 * n * (64 * 63 // 2)
    expected = (clip + 2 * n * n * d + greedy) / 1e12
    assert cost["cdpruner"].router == pytest.approx(expected, rel=1e-12)


def test_a_record_without_notes_has_no_router_line(tmp_path: Path) -> None:
    dense_record(4, 16, 6).to_npz(tmp_path / "new.npz")
    with np.load(tmp_path / "new.npz") as data:
        arrays = dict(data)
    meta = json.loads(str(arrays["meta"]))
    del meta["notes"]  # as an older version wrote it, which saw less of what a method does
    np.savez(tmp_path / "old.npz", **{**arrays, "meta": np.array(json.dumps(meta))})
    shape = shape_from_config(SMALL, "small")
    for name, router in (("new", 0.0), ("old", None)):
        record = RoutingRecord.from_npz(tmp_path / f"{name}.npz")
        cost = sample_cost(record, shape, itemsize=2)
        assert cost.router == router
        for scopes in referees_for(shape).sample(record).values():
            assert scopes["router"] == router
