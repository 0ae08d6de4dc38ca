"""One batch from documents to answers: prompt, processor, routed generation, checks.

Greedy unless sampling was asked for. Nothing is swallowed: what goes wrong is raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from harness.errors import CellError
from harness.model.catalog import LoadedModel
from harness.model.features import Sharing, image_key
from harness.model.framing import place

# For tasks that set no limit (textvqa, vizwiz, seedbench, ...). Their answers are a few words; a
# model that has not ended by then is not going to match one.
MAX_NEW_TOKENS = 128
# Where a processor has no chat template: the form LLaVA-1.5 was trained with.
PLAIN_TEMPLATE = "USER: {images}{text} ASSISTANT:"
TAIL = 8  # tokens more than a stop string has characters: enough to find it at the end


@dataclass(frozen=True)
class GenerationKwargs:
    """What a task says about generating."""

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    sampling: tuple[tuple[str, float], ...] = ()  # temperature, top_p; empty = greedy

    @classmethod
    def of_task(
        cls, kwargs: dict[str, Any], sample: bool, default_max: int
    ) -> tuple[GenerationKwargs, str]:
        """The settings of a task's ``generation_kwargs``, and a note where they are not followed.

        Raises CellError for beam search, which routing does not do.
        """
        if int(kwargs.get("num_beams") or 1) > 1:
            raise CellError("the task asks for beam search, which a routed model does not do")
        until = kwargs.get("until") or ()
        stops = tuple(s for s in ((until,) if isinstance(until, str) else until) if s)
        limit = kwargs.get("max_new_tokens") or kwargs.get("max_gen_toks") or default_max
        temperature = float(kwargs.get("temperature") or 0)
        # A temperature beside do_sample: false is not sampling (mmvet is written so).
        wants = bool(kwargs.get("do_sample", temperature > 0))
        note = ""
        sampling: tuple[tuple[str, float], ...] = ()
        if wants and not sample:
            note = "the task asks for sampling; answered greedily"
        elif wants:
            given = {"temperature": temperature or 1.0, "top_p": kwargs.get("top_p")}
            sampling = tuple((k, float(v)) for k, v in given.items() if v is not None)
        return cls(int(limit), stops, sampling), note


@dataclass
class Request:
    """One document to answer; ``images`` are loaded when its batch comes up."""

    position: int
    task: str
    doc_id: str
    text: str
    how: GenerationKwargs
    load_images: Any = field(repr=False)
    load_boxes: Any = field(repr=False, default=list)

    @property
    def name(self) -> str:
        """Stable name of the sample: methods that draw at random seed by it."""
        return f"{self.task}/{self.doc_id}"


@dataclass(frozen=True)
class Output:
    """What one request got back; ``n_out`` counts generated tokens with the end token.

    ``record`` says where in its image each grid of tokens lies.
    """

    text: str
    n_out: int
    image_id: str
    record: Any
    prompt_ids: Any = ()  # without padding
    images: Sequence[Any] = ()


class Generator:
    """Answers batches with one loaded model under one routed method."""

    def __init__(self, loaded: LoadedModel, run: Any, sharing: Sharing, label: str) -> None:
        self.loaded, self.run, self.sharing, self.label = loaded, run, sharing, label
        self.model, self.processor = loaded.model, loaded.processor
        config = self.model.generation_config
        tokenizer = self.processor.tokenizer
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.pad = tokenizer.pad_token_id

    def answer(self, batch: Sequence[Request]) -> list[Output]:
        """Generate for one batch of requests with the same settings.

        Raises CellError naming method and sample for NaN logits and for media that are no images.
        """
        images = [self._images(request) for request in batch]
        keys = [[image_key(image) for image in row] for row in images]
        inputs = self._inputs(batch, images)
        self.sharing.expect([key for row in keys for key in row])
        questions = [request.text for request in batch]
        self.run.set_samples([request.name for request in batch], questions)
        how, start = batch[0].how, int(inputs["input_ids"].shape[1])
        watch, stop = NanWatch(), StopOnText(self.processor.tokenizer, how.stops, start)
        with torch.no_grad():
            ids = self.model.generate(
                **inputs,
                **dict(how.sampling),
                do_sample=bool(how.sampling),
                max_new_tokens=how.max_new_tokens,
                eos_token_id=self.ends or None,
                pad_token_id=self.pad,
                logits_processor=LogitsProcessorList([watch]),
                stopping_criteria=StoppingCriteriaList([stop] if how.stops else []),
            )
        rows = ids[:, start:].tolist()
        lengths = [self._length(row, stop.ended.get(i)) for i, row in enumerate(rows)]
        self._check(batch, watch.first_bad(), lengths)
        records = self.run.records(lengths)
        for record, row in zip(records, images, strict=True):
            place(record.grid, [(i.height, i.width) for i in row], self.processor.image_processor)
        prompts = zip(inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True)
        real = [[i for i, own in zip(*prompt, strict=True) if own] for prompt in prompts]
        found = zip(rows, lengths, keys, records, real, images, strict=True)
        return [
            Output(self._text(row[:n], how.stops), n, "+".join(key), record, ids, pictures)
            for row, n, key, record, ids, pictures in found
        ]

    def inputs_of(self, request: Request) -> dict[str, Any]:
        """The tensors of one request alone, without padding."""
        return self._inputs([request], [self._images(request)])

    def forget_features(self) -> None:
        """Give back the memory that shared vision features hold."""
        if self.loaded.features is not None:
            self.loaded.features.clear()

    def _images(self, request: Request) -> list[Any]:
        from PIL.Image import Image

        found = request.load_images() or []
        if not all(isinstance(image, Image) for image in found):
            kind = type(next(v for v in found if not isinstance(v, Image))).__name__
            raise CellError(f"sample {request.name} has media of type {kind}; only images work")
        return [image.convert("RGB") for image in found]

    def _inputs(self, batch: Sequence[Request], images: list[list[Any]]) -> dict[str, Any]:
        """Tensors on the model's device: left-padded ids [B, n], mask, pixels in prompt order."""
        pairs = zip(batch, images, strict=True)
        prompts = [self.prompt(request.text, len(row)) for request, row in pairs]
        flat = [image for row in images for image in row]
        tokenizer = self.processor.tokenizer
        begins = tokenizer.bos_token and prompts[0].startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=prompts,
            images=flat or None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not begins,
        )
        names = ("input_ids", "attention_mask", "pixel_values", "image_sizes")
        tensors = {name: inputs[name].to(self.model.device) for name in names if name in inputs}
        if "pixel_values" in tensors:
            tensors["pixel_values"] = tensors["pixel_values"].to(self.model.dtype)
        return tensors

    @property
    def has_template(self) -> bool:
        """Whether the checkpoint says how a question is put to it."""
        mine = getattr(self.processor, "chat_template", None)
        return bool(mine or self.processor.tokenizer.chat_template)

    def prompt(self, text: str, n_images: int) -> str:
        """The chat prompt of one question, images first, in the processor's own template.

        A text that already says where its images go, once each, keeps them there.
        """
        token = self.processor.image_token
        placed = text.count(token)
        if placed != n_images:
            text = text.replace(token, "").strip()
        ahead = n_images if placed != n_images else 0
        images = f"{token}\n" * ahead
        content: Any = [{"type": "image"}] * ahead + [{"type": "text", "text": text}]
        if not self.has_template:
            return PLAIN_TEMPLATE.format(images=images, text=text)
        renderer = self.processor
        if not getattr(self.processor, "chat_template", None):
            renderer, content = self.processor.tokenizer, images + text
        turns = [{"role": "user", "content": content}]
        return str(renderer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))

    def _length(self, row: list[int], stopped: int | None) -> int:
        """Generated tokens of a row: up to its end token, or where a stop string ended it."""
        ends = [row.index(end) + 1 for end in self.ends if end in row]
        return min([len(row), *ends, *([stopped] if stopped is not None else [])])

    def _text(self, ids: list[int], stops: tuple[str, ...]) -> str:
        text = str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))
        return text[: _first_stop(text, stops)].strip()

    def _check(self, batch: Sequence[Request], bad: dict[int, int], lengths: list[int]) -> None:
        for row, step in sorted(bad.items()):
            if step < lengths[row]:  # rows that ended are fed padding, which does not count
                where = f"{batch[row].name} at answer token {step + 1}"
                raise CellError(f"method {self.label}: NaN logits in sample {where}")


def _first_stop(text: str, stops: Sequence[str]) -> int:
    """Where the first stop string begins, or the length of the text."""
    return min([len(text), *(text.index(stop) for stop in stops if stop in text)])


class NanWatch(LogitsProcessor):
    """Notes rows with NaN logits, without asking the device before the batch is done."""

    def __init__(self) -> None:
        self.flags: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.flags.append(torch.isnan(scores).any(dim=-1))
        return scores

    def first_bad(self) -> dict[int, int]:
        """Row -> first step with a NaN, for the rows that had one."""
        if not self.flags:
            return {}
        bad = torch.stack(self.flags, dim=1)
        return {
            row: int(bad[row].to(torch.uint8).argmax())
            for row in bad.any(dim=1).nonzero().flatten().tolist()
        }


class StopOnText(StoppingCriteria):
    """Ends a row when its new text contains a stop string; ``ended`` says after how many tokens."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        self.tail = max((len(stop) for stop in stops), default=0) + TAIL
        self.ended: dict[int, int] = {}

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        new = input_ids[:, self.start :]
        texts = self.tokenizer.batch_decode(new[:, -self.tail :], skip_special_tokens=True)
        for row, text in enumerate(texts):
            if row not in self.ended and any(stop in text for stop in self.stops):
                self.ended[row] = int(new.shape[1])
        done = [row in self.ended for row in range(len(texts))]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)
