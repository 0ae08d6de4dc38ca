"""What must be said of a cell's answers: boxes that were converted, samples that are damaged."""

from __future__ import annotations

from dataclasses import dataclass

from harness.bench.answerboxes import CONVERTED, CONVERTED_PIXELS, UNKNOWN
from harness.common.protocol import PIXELS
from harness.store.response_log import Answer


@dataclass
class Tally:
    """Counts over a cell's answers, each added once.

    ``over_length``: samples longer than the model's context. ``truncated``: images from files that
    end too early, counted in every sample that shows them.
    """

    n: int = 0
    over_length: int = 0
    truncated: int = 0
    converted: bool = False  # a box was
    boxes: bool = False  # a task asks for them

    def add(self, answer: Answer, asks_box: bool) -> None:
        """Count one answer."""
        self.n += 1
        self.over_length += answer.over_length
        self.truncated += answer.truncated
        self.converted = self.converted or answer.scored is not None
        self.boxes = self.boxes or asks_box

    def remarks(self, context: int | None, read: str) -> list[str]:
        """Notes for the report. ``context`` in tokens; ``read``: see `answerboxes.reading`."""
        notes = []
        if self.converted:
            notes.append(CONVERTED_PIXELS if read == PIXELS else CONVERTED)
        elif not read and self.boxes:
            notes.append(UNKNOWN)
        if self.over_length:
            notes.append(
                f"{self.over_length} of {self.n} samples longer than the model's context of "
                f"{context} tokens, allowed"
            )
        if self.truncated:
            notes.append(f"truncated images, their rest grey: {self.truncated} in {self.n} samples")
        return notes
