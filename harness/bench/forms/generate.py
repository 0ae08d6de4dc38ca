"""One question, one generated answer: most tasks.

Where a task asks each question several times (``repeats``) and nothing is drawn, the answers would
all be the same: it is answered once, and told as often as it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.bench.forms.form import Form
from harness.bench.request import Request

if TYPE_CHECKING:
    from harness.bench.generation import Generator, Output
    from harness.bench.lmms import RoutedModel
    from harness.store.response_log import Answer


class Generate(Form):
    output_types = ("generate_until",)

    def requests(self, lm: RoutedModel, asked: Sequence[Any]) -> list[Request]:
        found: list[Request] = []
        before: Any = None  # lmms-eval repeats a request by the same object
        for place, one in enumerate(asked):
            again = one is before
            if again and not found[-1].how.sampling:
                found[-1].places = (*found[-1].places, place)
                continue
            text, kwargs, visual, doc_id, task, split = one.args
            request = lm.request(len(found), place, (task, doc_id, split), text, visual, kwargs)
            request.repeat = found[-1].repeat + 1 if again else 0
            found.append(request)
            before = one
        most = max((len(r.places) for r in found), default=1)
        if most > 1:
            lm.note(f"asked {most} times a question; answered once, as greedy answers are the same")
        return found

    def answer(self, generator: Generator, batch: Sequence[Request]) -> list[Output]:
        return generator.answer(batch)

    def told(self, request: Request, answer: Answer) -> list[str]:
        return [answer.for_scoring] * len(request.places)


GENERATE = Generate()
