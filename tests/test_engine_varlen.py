"""Flash attention on ragged batches through the library's own packing: no padding reaches it.

The kernel is a stand-in that runs each sequence of a packed batch on its own; everything around it
(masks, unpadding, lengths, padding back) is the real code.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers.modeling_flash_attention_utils as library

import methods
from harness.engine import routed
from tests.routing_tools import ROWS, forced, random_modules
from tests.tiny import batch, tiny_llava

SPECS = ("dense", "fastv", "pmod", "visionzip", "pyramiddrop", "gamma:threshold=0.5")


def attend(q: Any, k: Any, v: Any, scale: float, causal: bool) -> torch.Tensor:
    """[q, heads, d] of one sequence; causality is aligned to the last key."""
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) * scale
    if causal:
        allowed = torch.ones(scores.shape[1:], dtype=torch.bool).tril(k.shape[0] - q.shape[0])
        scores = scores.masked_fill(~allowed, float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


class Kernel:
    """The two entries of a flash attention package; ``packed``: (queries, keys) of each call."""

    def __init__(self) -> None:
        self.packed: list[tuple[int, int]] = []
        self.asked = 0  # whether positions show packed sequences, each a wait for the device

    def same(self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False):
        pairs = zip(q, k, v, strict=True)
        return torch.stack([attend(*one, softmax_scale, causal) for one in pairs])

    def varlen(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False,
    ):  # fmt: skip
        assert int(cu_seqlens_q[-1]) == len(q)
        assert int(cu_seqlens_k[-1]) == len(k)
        assert int(cu_seqlens_q.diff().max()) == int(max_seqlen_q)
        self.packed.append((len(q), len(k)))
        at = zip(cu_seqlens_q, cu_seqlens_q[1:], cu_seqlens_k, cu_seqlens_k[1:], strict=False)
        parts = [attend(q[a:b], k[c:d], v[c:d], softmax_scale, causal) for a, b, c, d in at]
        return torch.cat(parts)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    found = Kernel()

    def imports(*_: Any, **__: Any) -> Any:
        return found.same, found.varlen, None, library._pad_input, library._unpad_input

    known = library._is_packed_sequence

    def asks(position_ids: Any, batch_size: int) -> Any:
        answer = known(position_ids, batch_size)
        found.asked += isinstance(answer, torch.Tensor)
        return answer

    monkeypatch.setattr(library, "_lazy_imports", imports)
    monkeypatch.setattr(library, "_is_packed_sequence", asks)
    for name in ("_loaded_implementation", "_flash_fn", "_flash_varlen_fn", "_pad_fn", "_unpad_fn",
                 "_flash_with_kvcache_fn", "_process_flash_kwargs_fn",
                 "_process_with_kvcache_kwargs_fn"):  # fmt: skip
        monkeypatch.setattr(library, name, None, raising=False)
    return found


def logits(spec: str, rows: Any, kernel: Kernel | None) -> tuple[torch.Tensor, list[Any]]:
    """Logits of a prompt and three steps in float64, and the records."""
    model, method = tiny_llava(layers=5, dtype=torch.float64), methods.parse(spec)
    if kernel is not None:
        model.config.text_config._attn_implementation = "flash_attention_2"
    answer = torch.tensor([[7, 11, 23]] * len(rows))
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        run.set_samples([str(i) for i in range(len(rows))])
        found = forced(model, batch(model, rows), answer)
        return found, run.records()


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1]], ids=["ragged", "one"])
@pytest.mark.parametrize("spec", SPECS)
def test_packed_rows_give_what_padded_ones_give(kernel, spec, rows):
    ours, records = logits(spec, rows, kernel)
    torch.testing.assert_close(ours, logits(spec, rows, None)[0], rtol=0, atol=1e-6)
    assert kernel.asked <= 1, "asked in every layer"
    if len(rows) > 1 and spec in ("dense", "fastv", "pyramiddrop"):
        layers = [sum(int((r.route[i] == range(r.n)).sum()) for r in records) for i in range(5)]
        assert [queries for queries, _ in kernel.packed[:5]] == layers  # real tokens, no padding
