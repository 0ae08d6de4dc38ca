"""One batch from documents to answers: prompt, processor, routed generation, checks.

Greedy unless sampling was asked for. Nothing is swallowed: what goes wrong is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from harness.bench.decoding import is_truncated
from harness.bench.drawing import Draw
from harness.bench.pixels import fewer_pixels, in_whole
from harness.bench.prompter import Prompter
from harness.bench.request import Request
from harness.bench.watching import NanWatch, StopOnText, first_stop
from harness.common.conditions import OVER_LENGTH
from harness.common.errors import CellError
from harness.model.context import context_length
from harness.model.features import Sharing, image_key
from harness.model.session import Session


@dataclass(frozen=True)
class Output:
    """What one request got back; ``n_out`` counts generated tokens with the end token.

    ``record`` says where in its image each grid of tokens lies. ``over_length``: prompt and
    answer together are longer than the model's context. ``truncated``: images of the prompt
    whose files end too early. ``told``: see `harness.store.response_log.Answer`. ``shown``: the
    images as the processor got them.
    """

    text: str
    n_out: int
    image_id: str
    record: Any
    prompt_ids: Any = ()  # without padding
    images: Sequence[Any] = ()
    over_length: bool = False
    truncated: int = 0
    shown: Sequence[Any] = ()
    told: Any = None


@dataclass(frozen=True)
class Begun:
    """A batch ready for the model: its images, what is shown of them (fewer pixels where a method
    says so), their keys, the tensors, prompt tokens a row."""

    images: list[list[Any]]
    shown: list[list[Any]]
    keys: list[list[str]]
    inputs: dict[str, Any]
    sizes: list[int]


class Generator:
    """Answers batches with one loaded model under one routed method.

    ``allow``: what is answered although it should not be (``over-length``). ``seed``: of what is
    drawn where answers are sampled.
    """

    def __init__(
        self,
        loaded: Session,
        run: Any,
        sharing: Sharing,
        label: str,
        allow: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        self.loaded, self.run, self.sharing, self.label = loaded, run, sharing, label
        self.allow, self.context, self.seed = allow, context_length(loaded.model.config), seed
        self.model, self.processor = loaded.model, loaded.processor
        self.prompter = Prompter(loaded)

    def answer(self, batch: Sequence[Request]) -> list[Output]:
        """Generate for one batch of requests with the same settings.

        Raises CellError naming method and sample for NaN logits, for media that are no images and
        for prompts that do not fit the context.
        """
        begun = self.begin(batch)
        self.check_length(batch, begun.sizes, [1] * len(batch))
        how, start = batch[0].how, int(begun.inputs["input_ids"].shape[1])
        watch, stop = NanWatch(), StopOnText(self.processor.tokenizer, how.stops, start)
        draws = [Draw(how, self.seed, [r.draw for r in batch])] if how.sampling else []
        with torch.no_grad():
            ids = self.model.generate(
                **begun.inputs,
                do_sample=False,  # where answers are sampled, `Draw` leaves one token to choose
                max_new_tokens=how.max_new_tokens,
                eos_token_id=self.prompter.ends or None,
                pad_token_id=self.prompter.pad,
                logits_processor=LogitsProcessorList([watch, *draws]),
                stopping_criteria=StoppingCriteriaList([stop] if how.stops else []),
            )
        rows = ids[:, start:].tolist()
        lengths = [self._length(row, stop.ended.get(i)) for i, row in enumerate(rows)]
        self._check(batch, watch.first_bad(), lengths)
        texts = [self._text(row[:n], how.stops) for row, n in zip(rows, lengths, strict=True)]
        over = self.check_length(batch, begun.sizes, lengths)
        return self.finish(begun, texts, lengths, self.run.records(lengths), over)

    def begin(self, batch: Sequence[Request]) -> Begun:
        """Read and lay out a batch. Raises CellError as :meth:`answer` does."""
        images = [self.prompter.images(request) for request in batch]
        keys = [[image_key(image) for image in row] for row in images]
        shown = [[self._shown(image) for image in row] for row in images]
        inputs = self.prompter.inputs(batch, shown)
        sizes = inputs["attention_mask"].sum(dim=1).tolist()
        pixels = self.run.method.pixels
        kept = keys if pixels == 1 else [[f"{key} x {pixels:g}" for key in row] for row in keys]
        self.sharing.expect([key for row in kept for key in row], inputs)
        questions = [request.text for request in batch]
        self.run.set_samples([request.name for request in batch], questions)
        return Begun(images, shown, keys, inputs, sizes)

    def finish(
        self,
        begun: Begun,
        texts: Sequence[str],
        lengths: Sequence[int],
        records: Sequence[Any],
        over: Sequence[bool],
    ) -> list[Output]:
        """Outputs of answers of so many tokens each; ``over``: rows longer than the context."""
        for record, row, whole in zip(records, begun.shown, begun.images, strict=True):
            sizes = [(i.height, i.width) for i in row]
            self.prompter.family.place(record.grid, sizes, self.processor.image_processor)
            if self.run.method.pixels != 1:
                in_whole(record.grid, [(i.height, i.width) for i in whole])
        tables = (begun.inputs[name].tolist() for name in ("input_ids", "attention_mask"))
        real = [
            [i for i, own in zip(*prompt, strict=True) if own]
            for prompt in zip(*tables, strict=True)
        ]
        cut = [sum(map(is_truncated, row)) for row in begun.images]
        keys = ["+".join(row) for row in begun.keys]
        images = begun.images, over, cut, begun.shown
        found = zip(texts, lengths, keys, records, real, *images, strict=True)
        return [Output(*one) for one in found]

    def _shown(self, image: Any) -> Any:
        """The image as the processor gets it: with fewer pixels where a method says so."""
        share = self.run.method.pixels
        return image if share == 1 else fewer_pixels(image, share, self.processor.image_processor)

    def forget_features(self) -> None:
        """Give back the memory that shared vision features hold."""
        if self.loaded.features is not None:
            self.loaded.features.clear()

    def _length(self, row: list[int], stopped: int | None) -> int:
        """Generated tokens of a row: up to its end token, or where a stop string ended it."""
        ends = [row.index(end) + 1 for end in self.prompter.ends if end in row]
        return min([len(row), *ends, *([stopped] if stopped is not None else [])])

    def _text(self, ids: list[int], stops: tuple[str, ...]) -> str:
        text = str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))
        return text[: first_stop(text, stops)].strip()

    def check_length(
        self, batch: Sequence[Request], prompts: Sequence[int], answers: Sequence[int]
    ) -> list[bool]:
        """Which rows go past the context: prompt as asked, and the answer but its last token.

        The prompt counts whole, with all its image tokens, whatever a method drops of them: what
        is asked is then the same for every method. Raises CellError unless that is allowed.
        """
        over = []
        for request, prompt, answer in zip(batch, prompts, answers, strict=True):
            over.append(self.context is not None and prompt + answer - 1 > self.context)
            if over[-1] and OVER_LENGTH not in self.allow:
                more = f" and an answer of {answer}" if answer > 1 else ""
                raise CellError(
                    f"sample {request.name}: a prompt of {prompt} tokens{more} is longer than the "
                    f"model's context of {self.context}: --allow {OVER_LENGTH} answers and counts "
                    "such samples"
                )
        return over

    def _check(self, batch: Sequence[Request], bad: dict[int, int], lengths: list[int]) -> None:
        for row, step in sorted(bad.items()):
            if step < lengths[row]:  # rows that ended are fed padding, which does not count
                where = f"{batch[row].name} at answer token {step + 1}"
                raise CellError(f"method {self.label}: NaN logits in sample {where}")
