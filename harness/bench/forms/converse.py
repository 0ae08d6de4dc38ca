"""Several rounds: a task makes each question from the answers before it.

Every round is a prompt of its own, as the task writes it and as lmms-eval's own models do it: no
cache is carried over. The record of a document is that of its **last** round; the rounds before it
are counted nowhere, and a note says how many there were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.bench.forms.form import Form
from harness.bench.request import Request
from harness.common.errors import CellError, one_line

if TYPE_CHECKING:
    from harness.bench.generation import Generator, Output
    from harness.bench.lmms import RoutedModel
    from harness.store.response_log import Answer

MOST = 100  # rounds; a task that asks on beyond them does not end


@dataclass
class Conversation(Request):
    """``go_on(answers, round, info)`` gives the task's next question."""

    go_on: Any = field(repr=False, default=None)
    round: int = 0

    @property
    def draw(self) -> str:
        return f"{super().draw}/{self.round}"


class Converse(Form):
    output_types = ("generate_until_multi_round",)

    def requests(self, lm: RoutedModel, asked: Sequence[Any]) -> list[Request]:
        found: list[Request] = []
        before: Any = None
        for place, one in enumerate(asked):
            again = one is before
            if again and not found[-1].how.sampling:
                found[-1].places = (*found[-1].places, place)
                continue
            text, kwargs, visual, doc_to_text, doc_id, task, split = one.args
            where = (task, doc_id, split)
            request = lm.request(len(found), place, where, text, visual, kwargs, kind=Conversation)
            request.go_on = _going_on(doc_to_text, lm.task_dict[task][split], doc_id)
            request.repeat = found[-1].repeat + 1 if again else 0
            found.append(request)
            before = one
        return found

    def answer(self, generator: Generator, batch: Sequence[Conversation]) -> list[Output]:
        talks = [_Talk(request) for request in batch]
        while going := [talk for talk in talks if talk.now is not None]:
            for talk, output in zip(going, generator.answer([t.now for t in going]), strict=True):
                talk.take(output)
        return [talk.output for talk in talks]

    def told(self, request: Conversation, answer: Answer) -> list[list[str]]:
        return [list(answer.told["answers"]) for _ in request.places]

    def count(self, answer: Answer) -> Mapping[str, int]:
        return {"n": 1, "rounds": answer.told["rounds"]}

    def remarks(self, total: Mapping[str, int]) -> list[str]:
        if not total:
            return []
        return [
            f"{total['rounds']} rounds in {total['n']} conversations, each with a prompt of its "
            "own; record, cost and cache are those of the last round"
        ]


class _Talk:
    """One conversation: ``now`` is what is to be asked, None at its end."""

    def __init__(self, request: Conversation) -> None:
        self.now: Any = request
        self.answers: list[str] = []
        self.info: Any = None
        self.outputs: list[Output] = []

    def take(self, output: Output) -> None:
        """An answer; the task says what comes next, and may rewrite the answers so far."""
        asked, number = self.now, len(self.outputs) + 1
        self.outputs.append(output)
        self.answers.append(output.text)
        try:
            found = asked.go_on(list(self.answers), number, self.info)
            visuals, text, stop, answers, self.info = found
        except Exception as error:  # the task's own code
            where = f"sample {asked.name}, round {number + 1}"
            raise CellError(f"{where}: {one_line(error, 200)}") from error
        self.answers = [str(answer) for answer in answers]
        if stop:
            self.now = None
        elif number >= MOST:
            raise CellError(f"sample {asked.name}: no end after {MOST} rounds")
        else:
            shown = list(visuals or ())
            self.now = replace(asked, text=str(text), round=number, load_images=lambda: shown)

    @property
    def output(self) -> Output:
        """The last round's, and what holds for all of them."""
        last = self.outputs[-1]
        return replace(
            last,
            image_id=last.image_id or self.outputs[0].image_id,
            over_length=any(output.over_length for output in self.outputs),
            truncated=max(output.truncated for output in self.outputs),
            told={"answers": self.answers, "rounds": len(self.outputs)},
        )


def _going_on(doc_to_text: Any, documents: Any, doc_id: Any) -> Any:
    def go_on(answers: list[str], number: int, info: Any) -> Any:
        return doc_to_text(
            documents[doc_id],
            previous_output=answers,
            round_idx=number,
            previous_round_info=info,
        )

    return go_on


CONVERSE = Converse()
