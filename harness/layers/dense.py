"""The model under analysis: dense with its weights, and documents as prompts with answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.bench.prompter import Prompter
from harness.bench.request import Request
from harness.engine import routed
from harness.engine.samples import kinds_from_ids
from harness.model.features import Sharing, image_key, shared_features
from harness.model.session import Session
from methods.dense import Dense

IGNORED = -100


@dataclass(frozen=True)
class Document:
    """One document as the evaluation loop asks it; `answer` are the target's token ids."""

    bench: str
    doc_id: str
    image_id: str
    request: Request
    target: str = ""
    answer: tuple[int, ...] = ()


class DenseModel:
    """One loaded model with dense's weights."""

    def __init__(self, loaded: Any, checkpoint: Path | None) -> None:
        self.loaded, self.checkpoint = loaded, checkpoint
        self.model = loaded.model
        self.layers = int(loaded.info.layers)
        self.device = self.model.device.type

    @contextmanager
    def asked(self, method: Any) -> Iterator[Asker]:
        """The model under a training-free method, ready for teacher-forced passes."""
        with ExitStack() as stack:
            sharing = stack.enter_context(self._weights())
            run = stack.enter_context(routed(self.model, method, record=False))
            yield Asker(self.loaded, sharing, run)

    @contextmanager
    def plain(self) -> Iterator[Asker]:
        """The model as it stands in transformers, to be watched."""
        with self._weights() as sharing:
            yield Asker(self.loaded, sharing)

    @contextmanager
    def _weights(self) -> Iterator[Sharing]:
        """Dense's tuned weights in place while open, and the vision features behind them."""
        with ExitStack() as stack:
            tuned = stack.enter_context(self.loaded.tuned(Dense(), self.checkpoint))
            cache = self.loaded.features if self.loaded.shares(tuned) else None
            yield stack.enter_context(shared_features(self.model, cache))


class Asker:
    """Turns documents into the tensors of a forward call."""

    def __init__(self, session: Session, sharing: Sharing, run: Any = None) -> None:
        self.prompter, self.sharing, self.run = Prompter(session), sharing, run
        self.model, self.processor = session.model, session.processor

    def images(self, request: Request) -> list[Any]:
        """The document's images as the evaluation loop sees them."""
        return self.prompter.images(request)

    def inputs(self, documents: Sequence[Document]) -> dict[str, Any]:
        """Left-padded prompts [B, n] with mask and pixels, on the device."""
        images = [self.images(d.request) for d in documents]
        inputs = self.prompter.inputs([d.request for d in documents], images)
        self.sharing.expect([image_key(image) for row in images for image in row], inputs)
        return inputs

    def answer_ids(self, request: Request, target: str) -> tuple[int, ...]:
        """Ids of the target behind its prompt, and the end token.

        The target is tokenized together with the prompt's text, so that the join is the one a
        generated answer has.
        """
        tokenizer = self.processor.tokenizer
        prompt = self.prompter.prompt(request.text, len(self.images(request)))
        gap = "" if prompt[-1:].isspace() else " "
        head = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = tokenizer(prompt + gap + target, add_special_tokens=False)["input_ids"]
        if whole[: len(head)] == head:
            ids = whole[len(head) :]
        else:  # the tokenizer merges across the join
            ids = tokenizer(target, add_special_tokens=False)["input_ids"]
        return (*ids, *self.prompter.ends[:1])

    @torch.inference_mode()
    def nll(self, documents: Sequence[Document]) -> list[float]:
        """Negative log-likelihood of each target given its prompt, summed over tokens, in nats.

        Teacher-forced, one forward call for all documents given; softmax in float32.
        """
        inputs = self.inputs(documents)
        device = inputs["input_ids"].device
        heads = [
            ids[mask.bool()]
            for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        tails = [torch.tensor(d.answer, dtype=torch.long, device=device) for d in documents]
        pad = self.prompter.pad
        ids = _left([torch.cat(pair) for pair in zip(heads, tails, strict=True)], pad)
        labels = _left(
            [
                torch.cat([torch.full_like(h, IGNORED), t])
                for h, t in zip(heads, tails, strict=True)
            ],
            IGNORED,
        )
        mask = _left([torch.ones(len(h) + len(t), device=device).long()
                      for h, t in zip(heads, tails, strict=True)], 0)  # fmt: skip
        run = self.run
        run.set_samples([d.request.name for d in documents])
        token = run.parts.image_token
        run.set_kinds(kinds_from_ids(ids, token, mask.bool(), labels != IGNORED))
        keep = max(map(len, tails)) + 1
        logits = self.model(
            **inputs | {"input_ids": ids, "attention_mask": mask},
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
            logits_to_keep=keep,
        ).logits
        losses = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), labels[:, 1 - keep :], reduction="none",
            ignore_index=IGNORED,
        )  # fmt: skip
        return losses.double().sum(dim=1).tolist()


def _left(rows: list[torch.Tensor], fill: int) -> torch.Tensor:
    """[B, n] of rows of unequal length, filled on the left."""
    return torch.nn.utils.rnn.pad_sequence(
        rows, batch_first=True, padding_value=fill, padding_side="left"
    )


def in_batches(documents: Sequence[Document], size: int) -> Iterator[Sequence[Document]]:
    """Slices of `size` documents in order."""
    for start in range(0, len(documents), size):
        yield documents[start : start + size]
