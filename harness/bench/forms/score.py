"""Given answers, each with its likelihood: ``multiple_choice`` and ``loglikelihood`` tasks.

lmms-eval sends a request a choice. The choices of a document share question and images: its prompt
is computed once, and every choice is fed behind it as if the model had generated it.

What upstream's scoring takes is not the log-likelihood but the **mean loss of a choice's tokens**
(natural logarithm): ``acc`` picks the smallest, ``acc_norm`` the smallest after dividing it by the
choice's characters as well. With the value it is told whether every token is the most likely one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.bench.forms.form import Form
from harness.bench.request import GenerationKwargs, Request
from harness.common.errors import CellError

if TYPE_CHECKING:
    from harness.bench.generation import Generator, Output
    from harness.bench.lmms import RoutedModel
    from harness.store.response_log import Answer

HOW = GenerationKwargs(max_new_tokens=0)  # nothing is generated


@dataclass
class Scored(Request):
    """A question with given answers; ``which`` of them each place asks for."""

    choices: tuple[str, ...] = ()
    which: tuple[int, ...] = ()

    def row(self) -> list[Any]:
        return [*super().row(), *self.choices]


class Score(Form):
    output_types = ("multiple_choice", "loglikelihood")

    def requests(self, lm: RoutedModel, asked: Sequence[Any]) -> list[Request]:
        found: dict[tuple[str, str], Scored] = {}
        before: Any = None
        for place, one in enumerate(asked):
            text, given, visual, doc_id, task, split = one.args
            key = str(task), str(doc_id)
            if key not in found:
                where = (task, doc_id, split)
                found[key] = lm.request(len(found), None, where, text, visual, how=HOW, kind=Scored)
            request = found[key]
            if request.text != str(text):
                raise CellError(
                    f"sample {request.name}: the task puts its choices into the question; only "
                    "choices that are answers can be scored"
                )
            if one is not before:  # a task's repeats are the same object
                if callable(given):  # a loglikelihood task gives the function
                    given = given(lm.task_dict[task][split][doc_id])
                request.choices = (*request.choices, str(given))
                before = one
            request.places = (*request.places, place)
            request.which = (*request.which, len(request.choices) - 1)
        return list(found.values())

    def answer(self, generator: Generator, batch: Sequence[Scored]) -> list[Output]:
        from harness.bench.likelihood import likelihoods

        return likelihoods(generator, batch)

    def told(self, request: Scored, answer: Answer) -> list[tuple[float, bool]]:
        values = [(float(loss), bool(greedy)) for loss, greedy, _ in answer.told]
        return [values[number] for number in request.which]

    def count(self, answer: Answer) -> Mapping[str, int]:
        tokens = sum(tokens for _, _, tokens in answer.told)
        return {"n": 1, "choices": len(answer.told), "all": tokens, "picked": answer.n_out}

    def remarks(self, total: Mapping[str, int]) -> list[str]:
        if not total:
            return []
        choices, everything, picked = (total[k] / total["n"] for k in ("choices", "all", "picked"))
        return [
            f"given answers scored behind one prompt a question: {choices:.3g} choices of together "
            f"{everything:.3g} tokens; record, cost and cache are those of the picked choice alone "
            f"({picked:.3g} tokens)"
        ]


SCORE = Score()
