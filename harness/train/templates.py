"""Conversations as text and as token ids with labels on the answers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from harness.common.errors import UsageError
from harness.model.convert.chats import VICUNA as VICUNA
from harness.train.rows import IMAGE, Conversation

IGNORE = -100
Piece = tuple[str, bool]  # text, and whether the loss is on it


@dataclass
class Encoded:
    """`ids` and `labels` (IGNORE where there is no loss) of one row, images expanded; `images` of
    the row's images are inside, the others were cut off."""

    ids: list[int]
    labels: list[int]
    images: int

    @property
    def answered(self) -> bool:
        return any(label != IGNORE for label in self.labels)


def pieces(row: Conversation, template: str, processor: Any) -> list[Piece]:
    """The row's text, cut where the loss begins and ends; each image is one `<image>`.

    `vicuna_v1` and `plain` are LLaVA's: `</s>` (the tokenizer's end token) ends an answer, a
    newline a caption, and the human's text of a caption pair is not used.
    """
    if template == "plain":
        return [(IMAGE, False), (row.turns[0][1] + "\n", True)]
    if template == "model":
        return _by_chat_template(row, processor)
    end, parts = processor.tokenizer.eos_token, [(VICUNA + " ", False)]
    for human, answer in row.turns:
        parts += [(f"USER: {human} ASSISTANT: ", False), (answer + end, True)]
    return parts


def encode(
    parts: Sequence[Piece], tokenizer: Any, image_id: int, image_tokens: Sequence[int], limit: int
) -> Encoded:
    """Token ids and labels, at most `limit` of them.

    `image_tokens` says how many tokens each image becomes. A token has a label if any of its
    characters lies in an answer, by the tokenizer's offsets: whatever it merges, an answer is
    learnt whole. The end cuts off answers, but no image in its middle.
    """
    if not tokenizer.is_fast:
        raise UsageError(f"{type(tokenizer).__name__} gives no offsets: a fast tokenizer is needed")
    text, spans = "", []
    for part, answer in parts:
        if answer:
            spans.append((len(text), len(text) + len(part)))
        text += part
    started = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    coded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not started)
    ids: list[int] = []
    labels: list[int] = []
    seen = at = 0
    for token, (start, stop) in zip(coded["input_ids"], coded["offset_mapping"], strict=True):
        if token == image_id:
            count = image_tokens[seen]
            if len(ids) + count > limit:
                break
            ids += [image_id] * count
            labels += [IGNORE] * count
            seen += 1
            continue
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        learnt = at < len(spans) and start < stop and stop > spans[at][0]
        ids.append(token)
        labels.append(token if learnt else IGNORE)
    return Encoded(ids[:limit], labels[:limit], seen)


def prompt_of(row: Conversation, template: str, processor: Any) -> list[Piece]:
    """What stands before the first answer."""
    parts = pieces(row, template, processor)
    return parts[: next(i for i, (_, answer) in enumerate(parts) if answer)]


def _by_chat_template(row: Conversation, processor: Any) -> list[Piece]:
    """The processor's own template, rendered turn by turn so that the cuts are its own.

    A template that closes an answer with no special token (llava-hf's 1.5 writes a space) gets the
    tokenizer's end token there: the model could not learn to stop otherwise.
    """
    messages: list[dict[str, Any]] = []
    parts: list[Piece] = []
    done = ""
    for human, answer in row.turns:
        messages.append({"role": "user", "content": _content(human)})
        prompt = _render(processor, messages, True)
        messages.append(
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        )
        whole = _render(processor, messages, False)
        if not (prompt.startswith(done) and whole.startswith(prompt)):
            raise UsageError(
                "the model's chat template rewrites earlier turns, so answers cannot be told "
                "apart: use template vicuna_v1"
            )
        parts.append((prompt[len(done) :], False))
        parts += _ended(whole[len(prompt) :], processor.tokenizer)
        done = whole
    return parts


def _ended(text: str, tokenizer: Any) -> list[Piece]:
    """An answer as rendered, its end token included, and what the template writes after it."""
    kept = text.rstrip()
    ends = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    if any(kept.endswith(end) for end in ends if end != IMAGE):
        tail = text[len(kept) :]
        return [(kept, True), (tail, False)] if tail else [(kept, True)]
    return [(kept + tokenizer.eos_token, True)]


def _content(human: str) -> list[dict[str, str]]:
    content = []
    for number, text in enumerate(human.split(IMAGE)):
        if number:
            content.append({"type": "image"})
        if text.strip():
            content.append({"type": "text", "text": text.strip()})
    return content


def _render(processor: Any, messages: list[dict[str, Any]], prompt: bool) -> str:
    try:
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # whatever the template's own code raises
        raise UsageError(f"the model's chat template cannot be used: {error}") from None
