"""The flash-attention form of the masks, with a stand-in kernel that obeys its rules.

The real kernel needs a GPU. The stand-in takes what the library hands it: a 2-D padding mask or
none, causality aligned to the last key, padded queries giving zeros; and it refuses position ids
with gaps, which the library would take for the borders of packed sequences.
"""

from __future__ import annotations

import pytest
import torch

import methods
from harness.engine import EngineError, routed, run
from tests.routing_tools import ALL, ROWS, forced, random_modules, with_positions
from tests.tiny import batch, tiny_llava

NAME = "stand_in"  # the library would look for a real kernel behind a name with "flash" in it


def stand_in(module, query, key, value, attention_mask, scaling=None, **kwargs):
    """[B, heads, q, d] in, [B, q, heads, d] out."""
    position_ids = kwargs.get("position_ids")
    if query.shape[0] == 1 and position_ids is not None and position_ids.shape[-1] > 1:
        assert (position_ids.diff() == 1).all(), "would be taken for packed sequences"
    assert attention_mask is None or attention_mask.shape == (key.shape[0], key.shape[2])
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, 1) for t in (key, value))
    q, k = query.shape[2], key.shape[2]
    allowed = torch.ones(q, k, dtype=torch.bool)[None, None]
    if module.is_causal:  # not in the vision tower
        allowed = allowed.tril(k - q)
    real = torch.ones(query.shape[0], k, dtype=torch.bool)
    if attention_mask is not None:
        real = attention_mask.bool()
    scores = (query @ key.transpose(2, 3)) * scaling
    scores = scores.masked_fill(~(allowed & real[:, None, None]), float("-inf"))
    out = scores.softmax(-1).nan_to_num() @ value
    return (out * real[:, None, -q:, None]).transpose(1, 2), None


@pytest.fixture
def flash(monkeypatch):
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, flash_attention_mask

    for name in (NAME, "other_kernel"):
        AttentionInterface.register(name, stand_in)
        AttentionMaskInterface.register(name, flash_attention_mask)
    known = run.backend
    monkeypatch.setattr(
        run, "backend", lambda c: "flash" if c._attn_implementation == NAME else known(c)
    )
    return NAME


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]])
@pytest.mark.parametrize("spec", [*ALL, "pmod:beta=0.3", "fastv:positions=compact"])
def test_flash_equals_sdpa(flash, spec, rows):
    method = methods.parse(spec)
    results = []
    for attn in ("sdpa", flash):
        model = tiny_llava(layers=5, attn=attn, dtype=torch.float64)
        answer = torch.tensor([[7, 11, 23]] * len(rows))
        with torch.no_grad(), routed(model, method, random_modules(method, model)) as mine:
            mine.set_samples([str(i) for i in range(len(rows))])
            results.append(forced(model, with_positions(batch(model, rows)), answer))
            mine.records()
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-6)


def test_block_masks_and_other_backends_are_refused(flash):
    model = tiny_llava(layers=5, attn=flash)
    inputs = batch(model, ROWS[:1])
    n = inputs["input_ids"].shape[1]
    inputs["attention_mask"] = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
    with routed(model, methods.parse("fastv")), pytest.raises(EngineError, match="4-D under sdpa"):
        model(**inputs)
    other = tiny_llava(layers=5, attn="other_kernel")
    with (
        routed(other, methods.parse("fastv")),
        pytest.raises(EngineError, match="backend 'other_kernel' is not supported"),
    ):
        other(**batch(other, ROWS[:1]))
