"""Likelihoods of given answers: one prompt a question, every answer fed behind it.

A given answer of T tokens is treated as one of T tokens that the model had generated: the prompt
says its first token, T - 1 of them are fed, each layer routes them as it routes generated tokens,
and the last one is never fed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness.common.errors import CellError
from harness.engine.branching import Branches

if TYPE_CHECKING:
    from harness.bench.forms.score import Scored
    from harness.bench.generation import Generator, Output

Scores = list[tuple[float, bool, int]]  # mean loss, whether greedy, tokens: one entry a choice


def likelihoods(generator: Generator, batch: Sequence[Scored]) -> list[Output]:
    """An output a question: the choice of the smallest mean loss, with the record it leaves.

    ``told`` holds the loss (natural logarithm, mean over tokens), whether every token is the most
    likely one, and the number of tokens of each choice. Raises CellError as `Generator.answer`.
    """
    begun = generator.begin(batch)
    given = [_tokens(generator, r, len(row)) for r, row in zip(batch, begun.images, strict=True)]
    over = generator.check_length(batch, begun.sizes, [max(map(len, row)) for row in given])
    with torch.no_grad():
        out = generator.model.generate(
            **begun.inputs,
            do_sample=False,
            max_new_tokens=1,
            pad_token_id=generator.prompter.pad,
            return_dict_in_generate=True,
            output_logits=True,
        )
        found, picked, records = _score(generator, batch, given, out.logits[0], begun.inputs)
    lengths = [len(row[number]) for row, number in zip(given, picked, strict=True)]
    texts = [r.choices[number].strip() for r, number in zip(batch, picked, strict=True)]
    outputs = generator.finish(begun, texts, lengths, records, over)
    return [replace(one, told=scores) for one, scores in zip(outputs, found, strict=True)]


def _tokens(generator: Generator, request: Scored, n_images: int) -> list[list[int]]:
    """The tokens of every choice."""
    try:
        return generator.prompter.continuations(request.text, n_images, request.choices)
    except CellError as error:
        raise CellError(f"sample {request.name}: {error}") from error


def _score(
    generator: Generator,
    batch: Sequence[Scored],
    given: list[list[list[int]]],
    first: Tensor,
    inputs: dict[str, Tensor],
) -> tuple[list[Scores], list[int], list[Any]]:
    """Scores of all rows, the picked choice of each, and its record.

    ``first``: logits [B, V] behind the prompts.
    """
    branches = Branches(generator.run, inputs["attention_mask"])
    found: list[Scores] = [[] for _ in batch]
    picked: list[int] = [0] * len(batch)
    records: list[Any] = [None] * len(batch)
    for number in range(max(map(len, given))):
        rows = [row[number] if number < len(row) else [] for row in given]
        ids = _padded(rows, generator.prompter.pad, inputs["input_ids"].device)
        with branches.fed(ids[:, :-1]) as behind:
            logits = first[:, None] if behind is None else torch.cat([first[:, None], behind], 1)
            better = []
            for i, (loss, greedy) in _losses(rows, ids, logits):
                if math.isnan(loss):
                    raise CellError(
                        f"method {generator.label}: NaN logits in sample {batch[i].name} at the "
                        f"given answer '{batch[i].choices[number].strip()}'"
                    )
                found[i].append((loss, greedy, len(rows[i])))
                if number == 0 or loss < found[i][picked[i]][0]:  # the first of equal ones
                    better.append(i)
            made = generator.run.records([max(1, len(row)) for row in rows]) if better else []
            for i in better:
                picked[i], records[i] = number, made[i]
    return found, picked, records


def _padded(rows: list[list[int]], pad: int, device: torch.device) -> Tensor:
    """[B, longest] ids, padded behind: nothing looks ahead, so no row sees it."""
    longest = max(map(len, rows))
    return torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)


def _losses(
    rows: list[list[int]], ids: Tensor, logits: Tensor
) -> Iterator[tuple[int, tuple[float, bool]]]:
    """Mean loss and greediness of each row that has tokens, with its number.

    ``logits`` [B, q, V] say the tokens ``ids`` [B, q].
    """
    ids = ids.to(logits.device)
    said = logits.float().log_softmax(dim=-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    chances, same = said.double().tolist(), (logits.argmax(dim=-1) == ids).tolist()
    for i, row in enumerate(rows):
        if n := len(row):
            yield i, (-sum(chances[i][:n]) / n, all(same[i][:n]))
