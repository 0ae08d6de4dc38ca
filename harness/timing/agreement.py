"""Does a batch give the answers that its rows give alone?

Throughput at a batch size means nothing when the batch is answered wrongly. Every row is
generated again by itself, greedily, and the token ids are compared. Different batch shapes round
differently, so a difference is not yet a fault. At the first token that differs, in this order:

    tie         the row alone had the two candidates closer together than rounding can tell
                (``TOLERANCE`` times the spread of its logits at that step)
    selection   the routing itself differs, with the same counts in every layer and in no more
                than ``FEW`` of the token-layers: tokens scored alike, and others were kept
    wrong       anything else; the cell fails

Ties and selections are reported beside the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.common.errors import CellError
from harness.store.record import RoutingRecord
from harness.timing.phases import Prompt, generate
from harness.timing.prompts import alone, images_by_row
from harness.timing.subject import Bench, Subject, active

# In standard deviations of the logits. Rounding adds up over some dozens of layers; a fault moves
# logits by whole deviations, and a token taken at random lies about four below the best of 32,000.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
# Untrained scores lie close together, so half precision, with three digits, swaps more of them.
FEW = {torch.float64: 1e-3, torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Answer:
    """New token ids [B, n_out], their logits [n_out, B, vocab] float32 on the host, records,
    and the bytes of the cache tensors."""

    ids: Tensor
    logits: Tensor
    records: list[RoutingRecord]
    cache_bytes: int


@dataclass(frozen=True)
class Agreement:
    """Rows with identical token ids, as a share, and a line on the others."""

    share: float
    note: str = ""


def answer(
    bench: Bench,
    subject: Subject,
    prompt: Prompt,
    n_out: int,
    lengths: Sequence[int] | None = None,
) -> Answer:
    """One recorded, untimed call. The engine asserts its cache against the record here.

    ``lengths``: new tokens of each row that count, where they are not all ``n_out``.
    """
    with torch.no_grad(), active(bench, subject, record=True) as run:
        run.set_samples(list(prompt.names))
        out = generate(
            bench.model, prompt, n_out, None, return_dict_in_generate=True, output_logits=True
        )
        records = run.records(lengths or [n_out] * len(prompt.names))
    layers = [layer for layer in out.past_key_values.layers if layer.is_initialized]
    return Answer(
        ids=out.sequences[:, -n_out:].cpu(),
        logits=torch.stack([step.float().cpu() for step in out.logits]),
        records=records,
        cache_bytes=sum(layer.keys.nbytes + layer.values.nbytes for layer in layers),
    )


def check_batch(
    bench: Bench, subject: Subject, prompt: Prompt, together: Answer, n_out: int
) -> Agreement:
    """Compare a batch's answer with each of its rows alone.

    Raises CellError, one line, for a row that is wrong beyond what rounding explains.
    """
    rows = []
    for row, images in enumerate(images_by_row(bench, prompt)):
        single = answer(bench, subject, alone(prompt, row, images, bench.model), n_out)
        rows.append(verdict(together, single, row, bench.model.dtype))
    return agreement(rows, subject.method.label, len(prompt.names))


def agreement(verdicts: Sequence[str], label: str, batch: int) -> Agreement:
    """Sum up the rows' verdicts. Raises CellError when one of them is wrong."""
    wrong = [row for row, one in enumerate(verdicts) if one.startswith("wrong")]
    if wrong:
        raise CellError(
            f"{label}: batch {batch} gives other answers than batch 1 in row {wrong[0]}"
            f"{f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''}: "
            f"{verdicts[wrong[0]].partition(' ')[2]}"
        )
    differ = [one for one in verdicts if one]
    if not differ:
        return Agreement(1.0)
    kinds = " and ".join(sorted(set(differ)))
    note = f"{len(differ)} of {batch} rows answer otherwise than alone ({kinds}: rounding)"
    return Agreement(1 - len(differ) / batch, note)


def verdict(together: Answer, single: Answer, row: int, dtype: torch.dtype) -> str:
    """Empty when row and single agree, else ``tie``, ``selection`` or ``wrong ...``."""
    differs = (together.ids[row] != single.ids[0]).nonzero()
    if len(differs) == 0:
        return ""
    step = int(differs[0, 0])
    logits = single.logits[step, 0]
    mine, theirs = (int(answer.ids[r, step]) for answer, r in ((single, 0), (together, row)))
    margin = float(logits[mine] - logits[theirs]) / max(float(logits.std()), 1e-30)
    if margin <= TOLERANCE[dtype]:
        return "tie"
    moved = _moved(together.records[row], single.records[0])
    if 0 < moved <= FEW[dtype]:
        return "selection"
    return (
        f"wrong token {step + 1} is not a tie ({margin:.2g} standard deviations of the logits "
        f"apart, {TOLERANCE[dtype]:g} allowed), {moved:.1%} of the routing differs"
    )


def _moved(one: RoutingRecord, other: RoutingRecord) -> float:
    """Share of token-layers whose route differs; 1 where not even the counts per layer agree."""
    if one.route.shape != other.route.shape:
        return 1.0
    if not np.array_equal(one.processed_per_layer(), other.processed_per_layer()):
        return 1.0
    return float((one.route != other.route).mean())


def tokens_per_sample(records: Sequence[RoutingRecord]) -> dict[str, Any]:
    """Mean text and image tokens a row, whole numbers where they are."""
    found = {
        "n_text": float(np.mean([r.n_text for r in records])),
        "n_image": float(np.mean([r.n_image for r in records])),
    }
    return {name: int(v) if v == int(v) else round(v, 2) for name, v in found.items()}
