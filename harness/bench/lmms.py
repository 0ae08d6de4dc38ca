"""Our lmms-eval model class: lmms-eval asks, the routed model answers, in batches.

Import it after :func:`harness.common.torchvision_ops.declare_missing_ops`; it loads lmms-eval.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms

from harness.bench.answerboxes import in_image
from harness.bench.dealing import Alone, Dealer, compose
from harness.bench.generation import Generator
from harness.bench.pictures import Boxes, words
from harness.bench.prompter import Prompter
from harness.bench.remarks import Tally
from harness.bench.request import MAX_NEW_TOKENS, GenerationKwargs, Request
from harness.common.errors import CellError, HarnessError, UsageError
from harness.store.packing import pack
from harness.store.response_log import Answer, Answers, Batch, ResponseLog

OUT_OF_MEMORY = "out of memory"
NAMED = 4  # samples of a failed batch that its error names
OnBatch = Callable[[int, int], None]  # answered requests, all requests
OnImage = Callable[[str, Any], None]  # image id, PIL image of a pictured sample


class RoutedModel(lmms):
    """Answers ``generate_until`` requests with one method on one loaded model.

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
        self.on_image = on_image
        self.dealer: Dealer = dealer or Alone()
        self.boxes = Boxes()
        self.answering = False  # whether documents are asked for one by one by now
        self.first: Request | None = None  # of those that are pictured
        self.notes: list[str] = []
        if not prompter.has_template:
            self.notes.append("the model has no chat template: prompts in the form of LLaVA-1.5")
        self.answers: Mapping[tuple[str, str], Answer] = {}  # read from the log when asked for
        self.tally = Tally()
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
        framed = self.prompter.family.boxes_in_frame
        return self.tally.remarks(self.generator.context, framed)

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return torch.device(self.prompter.model.device)

    def clean(self) -> None:
        """lmms-eval drops the model here to make room; ours serves the next method too."""

    # --- what lmms-eval asks ----------------------------------------------------------------
    def generate_until(self, requests: list[Any]) -> list[str]:
        """The answers, in the order of the requests."""
        self.answering = True
        wanted = [self._request(position, one) for position, one in enumerate(requests)]
        self.first = self.first or next((r for r in wanted if self.pictured(r.position)), None)
        order = self._order(wanted)
        batches = compose(order, self.batch_size)
        log = self.open_log(self._fingerprint(order))
        asked, self.batch_size = self.batch_size, self._ran_at(log)
        mine = self._answer(batches, log, len(wanted))
        self.notes = self.dealer.close(self.notes)
        log.refresh()
        self.batch_size = self._ran_at(log)
        if self.batch_size < asked and not any(OUT_OF_MEMORY in note for note in self.notes):
            self.notes.append(f"batch size {self.batch_size} after running {OUT_OF_MEMORY} earlier")
        if len(log) < len(wanted):
            raise CellError(
                f"{len(wanted) - len(log)} of {len(wanted)} answers are in no log here: all "
                "processes must write to one folder; on several machines --out on a shared one"
            )
        self.seconds = log.seconds
        self._show(log, (r for r in wanted if r.position not in mine))
        self.answers = Answers(log, {(r.task, r.doc_id): r.position for r in wanted})
        return [self._told(log.answer(r.position), r.asks_box) for r in wanted]

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        """Refused: given answers would be routed as part of the prompt, not as answers."""
        raise UsageError(f"task '{_task(requests)}' wants log-likelihoods of given answers; "
                         "only tasks with generated answers can be run")  # fmt: skip

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Refused: conversations are not routed yet."""
        raise UsageError(f"task '{_task(requests)}' is a conversation of several rounds; "
                         "only single questions can be run")  # fmt: skip

    # --- requests ---------------------------------------------------------------------------
    def _request(self, position: int, one: Any) -> Request:
        text, kwargs, doc_to_visual, doc_id, task, split = one.args
        how, note = GenerationKwargs.of_task(dict(kwargs), self.sample, self.max_new_tokens)
        if note and note not in self.notes:
            self.notes.append(note)
        documents = self.task_dict[task][split]
        return Request(
            position=position,
            task=str(task),
            doc_id=str(doc_id),
            text=str(text),
            how=how,
            load_images=lambda: doc_to_visual(documents[doc_id]),
            load_boxes=lambda: self.boxes.of(str(task), documents, doc_id),
            asks_box=self.boxes.asked(str(task), documents, doc_id),
        )

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
            row = [r.task, r.doc_id, r.text, r.how.max_new_tokens, r.how.stops, r.how.sampling]
            digest.update(json.dumps(row).encode())
        return digest.hexdigest()

    # --- batches ----------------------------------------------------------------------------
    def _answer(self, batches: list[list[Request]], log: ResponseLog, everything: int) -> set[int]:
        """Answer what is left of the batches that are dealt to this process; returns what it did.

        A batch that does not fit in memory is halved, and so are those that follow.
        """
        before, mine = len(log), set[int]()
        self._on_batch(before, everything)
        while (number := self.dealer.take()) < len(batches):
            left = [request for request in batches[number] if request.position not in log]
            while left:
                batch = left[: self.batch_size]
                done = self._one(batch)
                if done is None:
                    self._halve(len(batch), batch[0])
                    continue
                log.append(done)
                mine.update(done.positions)
                left = left[len(batch) :]
                answered = self.dealer.answered(len(batch), done.seconds)
                self._on_batch(min(before + answered, everything), everything)
        return mine

    def _ran_at(self, log: ResponseLog) -> int:
        """The smallest batch size that anybody came down to."""
        return min(self.batch_size, log.batch_size or self.batch_size)

    def _on_batch(self, answered: int, everything: int) -> None:
        if self.on_batch is not None:
            self.on_batch(answered, everything)

    def _one(self, batch: list[Request]) -> Batch | None:
        """A batch's answers; None when memory ran out."""
        started = time.perf_counter()
        # The same draw for the same batch, whether or not others ran before it.
        torch.manual_seed((self.seed * 1_000_003 + batch[0].position) % 2**63)
        outputs = self._try(batch)
        if outputs is None:
            return None
        answers = tuple(self._keep(r, o) for r, o in zip(batch, outputs, strict=True))
        positions = tuple(r.position for r in batch)
        return Batch(positions, answers, self.batch_size, time.perf_counter() - started)

    def _try(self, batch: list[Request]) -> Any:
        """The batch's outputs, or None when memory ran out.

        The exception is left behind before anything is retried: its traceback holds tensors.
        """
        try:
            return self.generator.answer(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                if not isinstance(error, HarnessError):  # ours name it themselves
                    error.add_note(_where(batch, self.generator.label))
                raise
        _free_memory(self.device)
        return None

    def _halve(self, size: int, first: Request) -> None:
        self.generator.forget_features()
        if size == 1:
            raise CellError(
                f"method {self.generator.label}: out of memory on {self.device} at batch size 1, "
                f"sample {first.name}"
            )
        self.batch_size = size // 2
        self.notes.append(f"{OUT_OF_MEMORY} at batch size {size}, halved to {self.batch_size}")

    def _keep(self, request: Request, output: Any) -> Answer:
        if len(output.images) == 1:
            output.record.evidence = request.load_boxes()
        return Answer(
            text=output.text,
            n_out=output.n_out,
            image_id=output.image_id,
            packed=pack(output.record),
            picture=self._picture(output) if self.pictured(request.position) else None,
            over_length=output.over_length,
            truncated=output.truncated,
            scored=self._scored(request, output),
        )

    def _scored(self, request: Request, output: Any) -> str | None:
        """The answer as the task's scoring shall read it, where that is not as it was given."""
        if not request.asks_box or len(output.images) != 1:
            return None
        if not self.prompter.family.boxes_in_frame:
            return None
        processor = self.prompter.processor.image_processor
        return in_image(output.text, output.images[0], processor)

    def _picture(self, output: Any) -> dict[str, Any]:
        """What a picture of a sample shows besides its routing; the images go to ``on_image``."""
        names = [name for name in output.image_id.split("+") if name]
        if self.on_image is not None:
            for name, image in zip(names, output.images, strict=True):
                self.on_image(name, image)
        kinds = output.record.kinds
        return {"images": names, "words": words(self.prompter.processor.tokenizer,
                                                output.prompt_ids, kinds)}  # fmt: skip

    def _show(self, log: ResponseLog, elsewhere: Iterable[Request]) -> None:
        """The images of pictured samples that were answered before, or by another process."""
        if self.on_image is None:
            return
        for request in filter(lambda r: self.pictured(r.position), elsewhere):
            picture = log.answer(request.position).picture
            images = self.prompter.images(request) if picture else ()
            for name, image in zip(picture["images"] if picture else (), images, strict=True):
                self.on_image(name, image)

    def _told(self, answer: Answer, asks_box: bool) -> str:
        """What the scoring reads of an answer, which is counted."""
        self.tally.add(answer, asks_box)
        return answer.for_scoring


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return OUT_OF_MEMORY in text or "can't allocate memory" in text


def _free_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _where(batch: Sequence[Request], label: str) -> str:
    """Of which samples an error comes; a batch is not taken apart to find the one."""
    names = [request.name for request in batch]
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" * (len(names) > NAMED))
    return f"method {label}, sample {shown}" if len(names) == 1 else f"method {label}, in {shown}"


def _task(requests: Sequence[Any]) -> str:
    return str(requests[0].task_name) if requests else "?"
