"""What is kept of an answer: its text, its record, and what a picture of it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from harness.bench.answerboxes import in_image
from harness.bench.pictures import words
from harness.bench.prompter import Prompter
from harness.bench.request import Request
from harness.store.packing import pack
from harness.store.response_log import Answer, ResponseLog

OnImage = Callable[[str, Any], None]  # image id, PIL image of a pictured sample


class Keeper:
    """Makes answers of outputs. ``pictured(position)`` chooses those that are shown."""

    def __init__(
        self, prompter: Prompter, pictured: Callable[[int], bool], on_image: OnImage | None
    ) -> None:
        self.prompter, self.pictured, self.on_image = prompter, pictured, on_image

    def keep(self, request: Request, output: Any) -> Answer:
        """The answer as the log holds it."""
        if len(output.images) == 1:
            output.record.evidence = request.load_boxes()
        return Answer(
            text=output.text,
            n_out=output.n_out,
            image_id=output.image_id,
            packed=pack(output.record),
            picture=self._picture(output) if self.pictured(request.position) else None,
            over_length=output.over_length,
            truncated=output.truncated,
            scored=self._scored(request, output),
            told=output.told,
        )

    def _scored(self, request: Request, output: Any) -> str | None:
        """The answer as the task's scoring shall read it, where that is not as it was given."""
        if not request.asks_box or len(output.images) != 1:
            return None
        processor = self.prompter.processor.image_processor
        image = (output.shown or output.images)[0]  # a box in pixels is of what the model saw
        return in_image(output.text, image, processor, self.prompter.boxes)

    def _picture(self, output: Any) -> dict[str, Any]:
        """What a picture of a sample shows besides its routing; the images go to ``on_image``."""
        ids = output.image_id.split("+") if output.images else []
        names = [name for name in ids if name]
        if self.on_image is not None:
            for name, image in zip(names, output.images, strict=True):
                self.on_image(name, image)
        kinds = output.record.kinds
        return {"images": names, "words": words(self.prompter.processor.tokenizer,
                                                output.prompt_ids, kinds)}  # fmt: skip

    def show(self, log: ResponseLog, elsewhere: Iterable[Request]) -> None:
        """The images of pictured samples that were answered before, or by another process."""
        if self.on_image is None:
            return
        for request in filter(lambda r: self.pictured(r.position), elsewhere):
            picture = log.answer(request.position).picture
            images = self.prompter.images(request) if picture else ()
            for name, image in zip(picture["images"] if picture else (), images, strict=True):
                self.on_image(name, image)
