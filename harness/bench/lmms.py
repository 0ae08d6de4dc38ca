"""Our lmms-eval model class: lmms-eval asks, the routed model answers, in batches.

Import it after :func:`harness.common.torchvision_ops.declare_missing_ops`; it loads lmms-eval.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms

from harness.bench.answerboxes import asked as asked_for
from harness.bench.batches import OUT_OF_MEMORY, Batches, OnBatch
from harness.bench.dealing import Alone, Dealer, compose
from harness.bench.forms import FORMS, Form
from harness.bench.generation import Generator
from harness.bench.keeping import Keeper, OnImage
from harness.bench.pictures import Boxes
from harness.bench.prompter import Prompter
from harness.bench.remarks import Tally
from harness.bench.request import MAX_NEW_TOKENS, GenerationKwargs, Request
from harness.common.errors import CellError
from harness.store.response_log import Answer, Answers, ResponseLog


class RoutedModel(lmms):
    """Answers requests of every form in `FORMS` with one method on one loaded model.

    Requests with the same generation settings are answered together, the longest first when the
    batch size is above 1, in document order otherwise. A batch that does not fit in memory is
    halved, and all that follow here; a single sample that does not fit ends the cell. ``dealer``
    says which batches are this process's to answer.
    """

    is_simple = True  # requests carry a context and a function that gives the images

    def __init__(
        self,
        prompter: Prompter,
        generator: Generator | None,  # None where nothing shall be answered
        *,
        batch_size: int = 1,
        seed: int = 0,
        sample: bool = False,
        max_new_tokens: int = MAX_NEW_TOKENS,
        open_log: Callable[[str], ResponseLog] | None = None,
        on_batch: OnBatch | None = None,
        pictured: Callable[[int], bool] | None = None,
        on_image: OnImage | None = None,
        dealer: Dealer | None = None,
    ) -> None:
        super().__init__()
        self.accelerator = None  # lmms-eval would make one; a single process needs none
        self.prompter = prompter
        self._generator = generator
        self.batch_size = batch_size
        self.seed, self.sample, self.max_new_tokens = seed, sample, max_new_tokens
        self.open_log = open_log or (lambda fingerprint: ResponseLog(None, fingerprint))
        self.on_batch = on_batch
        self.pictured = pictured or (lambda position: True)
        self.keeper = Keeper(prompter, self.pictured, on_image)
        self.dealer: Dealer = dealer or Alone()
        self.boxes = Boxes()
        self.answering = False  # whether documents are asked for one by one by now
        self.first: Request | None = None  # of those that are pictured
        self.notes: list[str] = []
        if not prompter.has_template:
            self.notes.append("the model has no chat template: prompts in the form of LLaVA-1.5")
        self.answers: Mapping[tuple[str, str], Answer] = {}  # read from the log when asked for
        self.tally = Tally()
        self.form_notes: list[str] = []
        self.seconds = 0.0

    def found_truncated(self) -> None:
        """A truncated picture was decoded. Raises CellError where that cannot be counted.

        A task that decodes and stores its pictures again before it asks anything leaves no trace
        of which were whole.
        """
        if not self.answering:
            raise CellError(
                "the task reads all its pictures before it asks, and the file of one ends too "
                "early: mend or leave out that document"
            )

    @property
    def generator(self) -> Generator:
        """What answers."""
        assert self._generator is not None
        return self._generator

    @property
    def answer_notes(self) -> list[str]:
        """What must be said of the answers."""
        boxes = self.prompter.boxes
        return [*self.form_notes, *self.tally.remarks(self.generator.context, boxes)]

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return torch.device(self.prompter.model.device)

    def clean(self) -> None:
        """lmms-eval drops the model here to make room; ours serves the next method too."""

    # --- what lmms-eval asks ----------------------------------------------------------------
    def generate_until(self, requests: list[Any]) -> list[str]:
        """A generated answer each, in the order of the requests."""
        return self.ask(FORMS["generate_until"], requests)

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        """Mean loss of a given answer's tokens, and whether they are what greedy decoding says."""
        return [_as_it_is(pair) for pair in self.ask(FORMS["multiple_choice"], requests)]

    def generate_until_multi_round(self, requests: list[Any]) -> list[list[str]]:  # type: ignore[override]
        """The answers of all rounds each."""
        return self.ask(FORMS["generate_until_multi_round"], requests)

    def ask(self, form: Form, asked: list[Any]) -> list[Any]:
        """What the scoring is handed, in the order of the requests."""
        self.answering = True
        wanted = form.requests(self, asked)
        self.first = self.first or next((r for r in wanted if self.pictured(r.position)), None)
        order = self._order(wanted)
        log = self.open_log(self._fingerprint(order))
        mine = self._answer(form, compose(order, self.batch_size), log, len(wanted))
        self.seconds = log.seconds
        self.keeper.show(log, (r for r in wanted if r.position not in mine))
        firsts = {(r.task, r.doc_id): r.position for r in reversed(wanted)}
        self.answers = Answers(log, firsts)
        return self._told(form, wanted, log, len(asked))

    def _told(
        self, form: Form, wanted: Sequence[Request], log: ResponseLog, number: int
    ) -> list[Any]:
        """Answers at the places that they serve; each is counted once."""
        told: list[Any] = [None] * number
        total = Counter[str]()
        for request in wanted:
            answer = log.answer(request.position)
            self.tally.add(answer, request.asks_box)
            total.update(form.count(answer))
            for place, value in zip(request.places, form.told(request, answer), strict=True):
                told[place] = value
        self.form_notes += form.remarks(total)
        return told

    # --- requests ---------------------------------------------------------------------------
    def request(
        self,
        position: int,
        place: int | None,
        where: tuple[Any, Any, Any],
        text: Any,
        visual: Callable[[Any], Any],
        kwargs: Mapping[str, Any] | None = None,
        how: GenerationKwargs | None = None,
        kind: type[Any] = Request,
    ) -> Any:
        """A request of ``kind``. ``where``: task, document and split; ``kwargs``: how the task
        wants its answer generated, or ``how`` instead."""
        task, doc_id, split = where
        if how is None:
            given = dict(kwargs or {})
            how, note = GenerationKwargs.of_task(given, self.sample, self.max_new_tokens)
            self.note(note)
        documents = self.task_dict[task][split]
        asks_box = self.boxes.asked(str(task), documents, doc_id)
        return kind(
            position=position,
            task=str(task),
            doc_id=str(doc_id),
            text=asked_for(str(text), str(task), asks_box, self.prompter.boxes),
            how=how,
            load_images=lambda: visual(documents[doc_id]),
            load_boxes=lambda: self.boxes.of(str(task), documents, doc_id),
            asks_box=asks_box,
            places=() if place is None else (place,),
        )

    def note(self, text: str) -> None:
        """Something a report must say, once."""
        if text and text not in self.notes:
            self.notes.append(text)

    def _order(self, requests: list[Request]) -> list[Request]:
        """Requests of equal settings together; by length, longest first, if they share batches."""
        groups: dict[GenerationKwargs, list[Request]] = {}
        for request in requests:
            groups.setdefault(request.how, []).append(request)
        if self.batch_size == 1:
            return [r for group in groups.values() for r in group]
        tokenizer = self.prompter.processor.tokenizer
        texts = tokenizer([r.text for r in requests], add_special_tokens=False)["input_ids"]
        length = {r.position: len(ids) for r, ids in zip(requests, texts, strict=True)}
        return [
            request
            for group in groups.values()
            for request in sorted(group, key=lambda r: (-length[r.position], r.position))
        ]

    def _fingerprint(self, order: Sequence[Request]) -> str:
        """Everything that shapes the answers and is known here, in the order of work."""
        digest = hashlib.sha256()
        first = [self.generator.label, self.batch_size, self.seed, self.sample]
        digest.update(json.dumps([*first, self.generator.loaded.dtype]).encode())
        for r in order:
            digest.update(json.dumps(r.row()).encode())
        return digest.hexdigest()

    # --- batches ----------------------------------------------------------------------------
    def _answer(
        self, form: Form, batches: list[list[Request]], log: ResponseLog, everything: int
    ) -> set[int]:
        """Answer this process's share and wait for the others'; returns what was answered here.

        Raises CellError where answers are missing then.
        """
        asked, self.batch_size = self.batch_size, self._ran_at(log)
        work = Batches(
            form,
            self.generator,
            self.dealer,
            self.keeper.keep,
            self.batch_size,
            self.seed,
            self.on_batch,
            self.device,
        )
        mine = work.answer(batches, log, everything)
        self.notes = self.dealer.close([*self.notes, *work.notes])
        log.refresh()
        self.batch_size = min(work.size, self._ran_at(log))
        if self.batch_size < asked and not any(OUT_OF_MEMORY in note for note in self.notes):
            self.notes.append(f"batch size {self.batch_size} after running {OUT_OF_MEMORY} earlier")
        if len(log) < everything:
            raise CellError(
                f"{everything - len(log)} of {everything} answers are in no log here: all "
                "processes must write to one folder; on several machines --out on a shared one"
            )
        return mine

    def _ran_at(self, log: ResponseLog) -> int:
        """The smallest batch size that anybody came down to."""
        return min(self.batch_size, log.batch_size or self.batch_size)


def _as_it_is(pair: tuple[float, bool]) -> Any:
    """A pair that reaches the scoring: lmms-eval 0.7.3 makes text of any answer that is no text,
    unless it comes in the wrapper that it has for answers with token counts."""
    try:
        from lmms_eval.api.instance import GenerationResult
    except ImportError:  # a version that hands on what it gets
        return pair
    return GenerationResult(text=pair)
