"""The question as methods read it: its text without instructions, and its word embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from methods.base import QUESTION, Tokens, on_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

# What benches of LLaVA's family add to a question.
INSTRUCTIONS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)
DEFAULT = "What do you see in this image?"  # where a prompt has no question


def stripped(text: str) -> str:
    """A question without its instruction sentences and image places."""
    for part in (*INSTRUCTIONS, "<image>"):
        text = text.replace(part, "")
    return text.strip() or DEFAULT


def question_words(
    seq: Tokens, read: Callable[[str], str] = stripped
) -> tuple[Tensor, Tensor, list[int]]:
    """Input embeddings [B, t, d] of each row's question, which are real [B, t], how many at most.

    ``read`` makes the text that is looked up. Where the question or the tokenizer is not known
    (timing on synthetic prompts, predicted costs) the prompt's own tokens behind its last image
    stand in.
    """
    import torch

    texts = seq.questions
    words = seq.words([read(text) for text in texts]) if texts is not None else None
    if words is not None:
        there, lengths = [[True] * len(w) for w in words], [len(w) for w in words]
        width = max(lengths)
        mask = on_device([t + [False] * (width - len(t)) for t in there], seq.hidden.device)
        return torch.nn.utils.rnn.pad_sequence(words, batch_first=True), mask, lengths
    first, mask, lengths = behind_image(seq)
    spread = first.unsqueeze(-1).expand(-1, -1, seq.hidden.shape[2])
    return seq.hidden.gather(1, spread), mask, lengths


def behind_image(seq: Tokens) -> tuple[Tensor, Tensor, list[int]]:
    """Columns [B, t] of the text behind each row's last image, which are real, how many at most."""
    import torch

    columns = torch.arange(seq.hidden.shape[1], device=seq.hidden.device)
    behind = columns > (columns * seq.image).amax(dim=1, keepdim=True)
    mask = (seq.kinds == QUESTION) & seq.valid & behind
    lengths = [c - h for c, h in zip(seq.counts, seq.head_counts, strict=True)]
    first = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : max(lengths)]
    return first, mask.gather(1, first), lengths
