"""One document to answer, and how long and how its task wants the answer generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.common.errors import CellError

# For tasks that set no limit (textvqa, vizwiz, seedbench, ...). Their answers are a few words; a
# model that has not ended by then is not going to match one.
MAX_NEW_TOKENS = 128
DRAWN = ("temperature", "top_p", "top_k")  # what a task may say of sampling


@dataclass(frozen=True)
class GenerationKwargs:
    """What a task says about generating."""

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    sampling: tuple[tuple[str, float], ...] = ()  # of DRAWN; empty = greedy

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
        given = {k: float(kwargs[k]) for k in DRAWN if kwargs.get(k) is not None}
        # A temperature of 0 beside do_sample, or one above it beside do_sample: false, is greedy.
        wants = bool(kwargs.get("do_sample", given.get("temperature", 0) > 0))
        wants = wants and given.get("temperature", 1) > 0
        note = ""
        sampling: tuple[tuple[str, float], ...] = ()
        if wants and not sample:
            note = "the task asks for sampling; answered greedily"
        elif wants:
            sampling = tuple({"temperature": 1.0, **given}.items())
            said = ", ".join(f"{name} {value:g}" for name, value in sampling)
            note = f"sampled as the task asks: {said}"
        return cls(int(limit), stops, sampling), note


@dataclass
class Request:
    """One document to answer; ``images`` are loaded when its batch comes up.

    ``position`` numbers the requests of a cell, ``places`` are lmms-eval's requests that its answer
    serves. ``repeat``: which time a document is asked, where answers are drawn.
    """

    position: int
    task: str
    doc_id: str
    text: str
    how: GenerationKwargs
    load_images: Any = field(repr=False)
    load_boxes: Any = field(repr=False, default=list)
    asks_box: bool = False  # the answer is a box in shares of the image
    places: tuple[int, ...] = ()
    repeat: int = 0

    @property
    def name(self) -> str:
        """Stable name of the sample: methods that draw at random seed by it."""
        return f"{self.task}/{self.doc_id}"

    @property
    def draw(self) -> str:
        """What a sampled answer is seeded by: neither its batch nor what ran before it."""
        return f"{self.name}/{self.repeat}"

    def row(self) -> list[Any]:
        """What is asked, all that shapes the answer and is known without the images (JSON)."""
        how = self.how
        return [self.task, self.doc_id, self.text, how.max_new_tokens, how.stops, how.sampling]
