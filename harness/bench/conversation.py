"""Two questions about one image: the second on the kept cache, and the same asked from scratch.

Turn 1 is an ordinary question. Turn 2 is the template's second user turn, fed to the cache as turn
1 left it: no image token comes back, so what the method dropped for the first question stays
dropped, and positions count on. The fresh run is given the same token ids as one prompt, so the
method decides again and knows the second question; the first answer is then part of a prompt.

One conversation at a time: rows of a batch would differ in the length of their answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from harness.bench.generation import Generator
from harness.bench.request import Request
from harness.bench.watching import NanWatch, StopOnText
from harness.model.features import image_key
from methods.base import ANSWER, QUESTION


@dataclass(frozen=True)
class Reply:
    """One answer: ``n_out`` generated tokens with the end token, ``n_prompt`` tokens before it.

    ``kv``: share of the image tokens' cache that the method kept of the prompt it last saw whole.
    """

    text: str
    n_out: int
    n_prompt: int
    kv: float | None


@dataclass(frozen=True)
class Conversation:
    """What was answered: the first question, the second on the kept cache, and from scratch."""

    first: Reply
    kept: Reply
    fresh: Reply
    n_question: int  # tokens that were appended for the second turn


@dataclass(frozen=True)
class Generated:
    """Token ids of an answer with its end, the cache behind it, and whether it came to an end."""

    ids: list[int]
    cache: Any
    ended: bool

    @property
    def said(self) -> list[int]:
        """The answer as the conversation goes on: what ends it is the template's to write."""
        return self.ids[:-1] if self.ended else self.ids


class Talker(Generator):
    """Holds conversations with one loaded model under one routed method."""

    @torch.no_grad()
    def hold(self, first: Request, second: Request) -> Conversation:
        """Ask ``first`` with its images, then ``second`` both ways.

        All prompts carry the first question's name, so that what is drawn at random is the same.
        Raises CellError as `answer` does, and for a template that a second turn cannot follow.
        """
        images = self.prompter.images(first)
        inputs = self.prompter.inputs([first], [images])
        prompt, shared = inputs["input_ids"], [image_key(image) for image in images]
        one, kv = self._prefilled(first, first, shared, inputs)

        behind = self._behind(first, len(images), second)
        whole = torch.cat([prompt, prompt.new_tensor([one.said + behind])], dim=1)
        later = self._tokens(whole)
        new = whole.shape[1] - one.cache.get_seq_length()
        # The last token of an answer has not been fed, unless it was its end and is left out.
        kinds = [[ANSWER] * (new - len(behind)) + [QUESTION] * len(behind)]
        self.run.set_kinds(torch.tensor(kinds, dtype=torch.uint8))
        kept = self._generated(second, {**later, "past_key_values": one.cache})
        fed = kept.cache.get_seq_length() - prompt.shape[1]
        self.run.records([fed + 1])  # the cache holds what the decisions of both turns say

        fresh, kv_fresh = self._prefilled(first, second, shared, {**inputs, **later})
        return Conversation(
            first=self._reply(first, prompt, one, kv),
            kept=self._reply(second, whole, kept, kv),
            fresh=self._reply(second, whole, fresh, kv_fresh),
            n_question=len(behind),
        )

    def _reply(
        self, request: Request, prompt: torch.Tensor, found: Generated, kv: float | None
    ) -> Reply:
        text = self._text(found.ids, request.how.stops)
        return Reply(text, len(found.ids), int(prompt.shape[1]), kv)

    def _prefilled(
        self, first: Request, last: Request, shared: list[str], inputs: dict[str, Any]
    ) -> tuple[Generated, float | None]:
        """An answer to a whole prompt, whose last question is ``last``, and the cache kept."""
        self.sharing.expect(shared, inputs)
        self.run.set_samples([first.name], [last.text])
        found = self._generated(last, inputs)
        return found, self.run.records([len(found.ids)])[0].kv_ratio_vision

    def _generated(self, request: Request, inputs: dict[str, Any]) -> Generated:
        how, start = request.how, int(inputs["input_ids"].shape[1])
        self.check_length([request], [start], [1])
        watch, stop = NanWatch(), StopOnText(self.processor.tokenizer, how.stops, start)
        out = self.model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=how.max_new_tokens,
            eos_token_id=self.prompter.ends or None,
            pad_token_id=self.prompter.pad,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([stop] if how.stops else []),
            return_dict_in_generate=True,
        )
        row = out.sequences[0, start:].tolist()
        row = row[: self._length(row, stop.ended.get(0))]
        self._check([request], watch.first_bad(), [len(row)])
        self.check_length([request], [start], [len(row)])
        ended = row[-1] in self.prompter.ends or bool(stop.ended)
        return Generated(row, out.past_key_values, ended)

    def _tokens(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What goes with token ids [1, n] beside pictures."""
        family = self.prompter.family
        token = family.image_token(self.model.config.to_dict())
        more = family.token_inputs(ids, token)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}

    def _behind(self, first: Request, n_images: int, second: Request) -> list[int]:
        """Token ids of what follows the first answer, tokenized where it stands."""
        tokenizer = self.processor.tokenizer
        text = self.prompter.behind_answer(first.text, n_images, second.text)
        head = f"{self.prompter.prompt(first.text, n_images)} yes"
        before: list[int] = tokenizer(head, add_special_tokens=False)["input_ids"]
        whole: list[int] = tokenizer(head + text, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] == before:
            return whole[len(before) :]
        alone: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return alone  # the tokenizer merges across the join
