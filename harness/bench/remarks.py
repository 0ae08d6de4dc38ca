"""What must be said of a cell's answers: boxes that were converted, samples that are damaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.bench.answerboxes import BOX_TASKS, CONVERTED, UNKNOWN
from harness.store.response_log import Answer


def over_length(answers: Iterable[Answer]) -> int:
    """Answered samples that are longer than the model's context."""
    return sum(answer.over_length for answer in answers)


def truncated(answers: Iterable[Answer]) -> int:
    """Images from files that end too early, counted in every sample that shows them."""
    return sum(answer.truncated for answer in answers)


def remarks(
    answers: Mapping[tuple[str, str], Answer], context: int | None, framed: bool
) -> list[str]:
    """Notes for the report. ``answers`` by task and document; ``context`` in tokens;
    ``framed``: the frame of the model's boxes is known."""
    all_of_them, notes = answers.values(), []
    if any(answer.scored is not None for answer in all_of_them):
        notes.append(CONVERTED)
    elif not framed and any(BOX_TASKS.search(task) for task, _ in answers):
        notes.append(UNKNOWN)
    if over := over_length(all_of_them):
        notes.append(
            f"{over} of {len(answers)} samples longer than the model's context of {context} "
            "tokens, allowed"
        )
    if cut := truncated(all_of_them):
        notes.append(f"truncated images, their rest grey: {cut} in {len(answers)} samples")
    return notes
