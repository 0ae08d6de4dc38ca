"""One document to answer, and how long and how its task wants the answer generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.common.errors import CellError

# For tasks that set no limit (textvqa, vizwiz, seedbench, ...). Their answers are a few words; a
# model that has not ended by then is not going to match one.
MAX_NEW_TOKENS = 128


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
    asks_box: bool = False  # the answer is a box in shares of the image

    @property
    def name(self) -> str:
        """Stable name of the sample: methods that draw at random seed by it."""
        return f"{self.task}/{self.doc_id}"
