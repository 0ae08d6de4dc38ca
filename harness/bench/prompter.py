"""From a question and its images to a model's inputs, by the session's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.bench.answerboxes import reading
from harness.common.errors import CellError, one_line
from harness.common.protocol import CHECKPOINT
from harness.model.asking import CHATS
from harness.model.session import Session

if TYPE_CHECKING:
    from harness.bench.request import Request

# Where a processor has no chat template: the form LLaVA-1.5 was trained with.
PLAIN_TEMPLATE = "USER: {images}{text} ASSISTANT:"
# How tasks write where an image goes; LLaVA's own token.
MARK = "<image>"
HOLDER = "answerholder"  # stands for an answer while a template is rendered


class Prompter:
    """Asks one loaded model. ``ends``: its end tokens; ``pad``: its padding token."""

    def __init__(self, session: Session) -> None:
        self.session, self.model, self.processor = session, session.model, session.processor
        self.family, self.protocol = session.family, session.protocol
        config, tokenizer = self.model.generation_config, self.processor.tokenizer
        ends = config.eos_token_id if config.eos_token_id is not None else tokenizer.eos_token_id
        self.ends = [ends] if isinstance(ends, int) else list(ends or [])
        self.pad = tokenizer.pad_token_id
        self.boxes = reading(self.protocol.boxes, self.family.boxes_in_frame)

    def inputs_of(self, request: Request) -> dict[str, Any]:
        """The tensors of one request alone, without padding."""
        return self.inputs([request], [self.images(request)])

    def images(self, request: Request) -> list[Any]:
        """The images of a request, in RGB. Raises CellError for what is no image."""
        from PIL.Image import Image

        try:
            found = request.load_images() or []
        except (OSError, SyntaxError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CellError(
                f"sample {request.name}: its images cannot be read: {one_line(error, 200)}"
            ) from error
        if not all(isinstance(image, Image) for image in found):
            kind = type(next(v for v in found if not isinstance(v, Image))).__name__
            raise CellError(f"sample {request.name} has media of type {kind}; only images work")
        return [image.convert("RGB") for image in found]

    def inputs(self, batch: Sequence[Request], images: list[list[Any]]) -> dict[str, Any]:
        """Tensors on the model's device: left-padded ids [B, n], mask, pixels in prompt order.

        Raises CellError for images that the processor cannot cut up.
        """
        try:
            return self._inputs(batch, images)
        except ValueError as error:
            names = ", ".join(request.name for request in batch)
            raise CellError(f"sample {names}: {one_line(error, 200)}") from error

    def _inputs(self, batch: Sequence[Request], images: list[list[Any]]) -> dict[str, Any]:
        pairs = zip(batch, images, strict=True)
        prompts = [self.prompt(request.text, len(row)) for request, row in pairs]
        flat = [image for row in images for image in row]
        tokenizer = self.processor.tokenizer
        begins = tokenizer.bos_token and prompts[0].startswith(tokenizer.bos_token)
        inputs = self.processor(
            text=prompts,
            images=(images if self.family.nested else flat) if flat else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=not begins,
        )
        names = ("input_ids", "attention_mask", *self.family.per_token, *self.family.images)
        # Without its per-token entries a model may count positions another way, and not say so.
        token = self.family.image_token(self.model.config.to_dict())
        made = {**self.family.token_inputs(inputs["input_ids"], token), **inputs}
        tensors = {name: made[name].to(self.model.device) for name in names if name in made}
        if "pixel_values" in tensors:
            tensors["pixel_values"] = tensors["pixel_values"].to(self.model.dtype)
        return tensors

    def continuations(self, text: str, n_images: int, given: Sequence[str]) -> list[list[int]]:
        """Tokens of given answers behind a question, as they stand there.

        They are what follows the prompt's own tokens; where a tokenizer joins the two at the seam,
        an answer's tokens are those that it has alone. Raises CellError for one that has none.
        """
        tokenizer, prompt = self.processor.tokenizer, self.prompt(text, n_images)
        begins = tokenizer.bos_token and prompt.startswith(tokenizer.bos_token)
        texts = [prompt, *(prompt + one for one in given)]
        before, *whole = tokenizer(texts, add_special_tokens=not begins)["input_ids"]
        size, found = len(before), []
        for one, ids in zip(given, whole, strict=True):
            if ids[:size] != before or len(ids) == size:
                ids = [*before, *tokenizer(one, add_special_tokens=False)["input_ids"]]
            if len(ids) == size:
                raise CellError(f"the given answer '{one}' has no tokens")
            if self.processor.image_token in one:
                raise CellError(f"the given answer '{one}' holds the image token")
            found.append(ids[size:])
        return found

    @property
    def has_template(self) -> bool:
        """Whether the protocol or the checkpoint says how a question is put to it."""
        if self.protocol.template != CHECKPOINT:
            return True
        mine = getattr(self.processor, "chat_template", None)
        return bool(mine or self.processor.tokenizer.chat_template)

    def prompt(self, text: str, n_images: int) -> str:
        """The chat prompt of one question, images first, in the protocol's conversation.

        A text that already says where its images go, once each, keeps them there.
        """
        text, ahead = self._placed(text, n_images)
        if not self.has_template:
            images = f"{self.processor.image_token}\n" * ahead
            return PLAIN_TEMPLATE.format(images=images, text=text)
        return self._rendered([self._turn("user", text, ahead)])

    def behind_answer(self, first: str, n_images: int, second: str) -> str:
        """What the template writes behind the first answer of a conversation of two questions.

        ``first`` and ``second``: their texts; the images belong to the first. Raises CellError
        where the template writes the first turn otherwise once it is over: nothing can then be
        appended to what was asked.
        """
        second = second.replace(MARK, "").replace(self.processor.image_token, "").strip()
        if not self.has_template:
            end = self.processor.tokenizer.eos_token or ""
            return end + PLAIN_TEMPLATE.format(images="", text=second)
        turns = [
            self._turn("user", *self._placed(first, n_images)),
            self._turn("assistant", HOLDER),
            self._turn("user", second),
        ]
        before, found, behind = self._rendered(turns).partition(HOLDER)
        begun = self.prompt(first, n_images)
        if not found or not before.startswith(begun) or before[len(begun) :].strip():
            raise CellError(
                "the model's chat template writes a turn that is over in another way than it was "
                "asked: a second question cannot follow on the kept cache"
            )
        return behind

    def _placed(self, text: str, n_images: int) -> tuple[str, int]:
        """A question with the model's own image token, and how many images go ahead of it."""
        token = self.processor.image_token
        text = text.replace(MARK, token)
        if text.count(token) == n_images:
            return text, 0
        return text.replace(token, "").strip(), n_images

    def _turn(self, role: str, text: str, ahead: int = 0) -> dict[str, Any]:
        """One message, in the form that the template takes."""
        token = self.processor.image_token
        content: Any = [{"type": "image"}] * ahead + self._parts(text, token)
        if self._chat is None and not getattr(self.processor, "chat_template", None):
            content = f"{token}\n" * ahead + text
        return {"role": role, "content": content}

    @property
    def _chat(self) -> str | None:
        """The protocol's own template, in place of the checkpoint's."""
        return CHATS.get(self.protocol.template)

    def _rendered(self, turns: list[dict[str, Any]]) -> str:
        renderer, chat = self.processor, self._chat
        if chat is None and not getattr(self.processor, "chat_template", None):
            renderer = self.processor.tokenizer
        return str(
            renderer.apply_chat_template(
                turns, chat_template=chat, add_generation_prompt=True, tokenize=False
            )
        )

    @staticmethod
    def _parts(text: str, token: str) -> list[dict[str, str]]:
        """What a template gets of a text: images at their places, where it writes them there.

        Templates of models whose token is LLaVA's put all images first: those stay in the text.
        """
        if token == MARK:
            return [{"type": "text", "text": text}]
        parts: list[dict[str, str]] = []
        for number, piece in enumerate(text.split(token)):
            parts += [{"type": "image"}] if number else []
            parts += [{"type": "text", "text": piece}] if piece else []
        return parts
