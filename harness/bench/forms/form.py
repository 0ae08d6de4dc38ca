"""What a question form says: from lmms-eval's requests to ours, to answers, to what is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from harness.bench.request import Request

if TYPE_CHECKING:
    from harness.bench.generation import Generator, Output
    from harness.bench.lmms import RoutedModel
    from harness.store.response_log import Answer


class Form(ABC):
    """One form. ``output_types``: of the tasks that ask in it."""

    output_types: ClassVar[tuple[str, ...]]

    @abstractmethod
    def requests(self, lm: RoutedModel, asked: Sequence[Any]) -> list[Request]:
        """One request a question, numbered from 0; ``places`` say which of ``asked`` it answers."""

    @abstractmethod
    def answer(self, generator: Generator, batch: Sequence[Any]) -> list[Output]:
        """The answers to requests of equal settings, in their order."""

    @abstractmethod
    def told(self, request: Any, answer: Answer) -> list[Any]:
        """What the task's scoring is handed, one entry a place of the request."""

    def count(self, answer: Answer) -> Mapping[str, int]:
        """Numbers of one answer that ``remarks`` wants the sums of."""
        return Counter()

    def remarks(self, total: Mapping[str, int]) -> list[str]:
        """What a report must say of a cell in this form."""
        return []
