"""One row of LLaVA conversation data: what a good one is, and why a bad one is left out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE = "<image>"
SPEAKERS = ("human", "gpt")
MISSING, UNREADABLE = "image file missing", "image file unreadable"


class BadRow(ValueError):
    """A row that cannot be trained on; the message is the reason it is counted under."""


@dataclass(frozen=True)
class Conversation:
    """`images` are paths relative to the image folder, one for each `<image>` of the human's texts;
    `turns` are (human, gpt) texts."""

    id: str
    images: tuple[str, ...]
    turns: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "images": self.images, "turns": self.turns}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Conversation:
        return cls(raw["id"], tuple(raw["images"]), tuple((h, g) for h, g in raw["turns"]))


def normalise(raw: Any, template: str) -> Conversation:
    """The row behind one entry of the data file. Raises BadRow.

    Text is made valid UTF-8 (a lone surrogate becomes `?`). A single image of a turn moves to the
    front of its text, as LLaVA's own preparation does; several keep their places.
    """
    if not isinstance(raw, dict):
        raise BadRow("not an object")
    turns = _turns(raw.get("conversations"))
    images = _images(raw.get("image"))
    if any(IMAGE in answer for _, answer in turns):
        raise BadRow("an image placeholder in an answer")
    if sum(text.count(IMAGE) for text, _ in turns) != len(images):
        raise BadRow("number of <image> does not match the images")
    if template == "plain" and (len(turns) != 1 or len(images) != 1):
        raise BadRow("template plain takes one image and one caption")
    return Conversation(
        _clean(str(raw.get("id", ""))), images, tuple((_front(h), g) for h, g in turns)
    )


def row_id(raw: Any, number: int) -> str:
    """How a report names an entry: its id, else its number in the file (from 0)."""
    name = raw.get("id") if isinstance(raw, dict) else None
    return _clean(str(name)) if name not in (None, "") else f"row {number}"


def check_images(row: Conversation, folder: Path | None) -> list[tuple[int, int]]:
    """(height, width) in pixels of each image, from the file headers. Raises BadRow."""
    from PIL import Image

    sizes = []
    for name in row.images:
        if folder is None:
            raise BadRow("an image, but no image folder was given")
        path = folder / name
        if not path.is_file():
            raise BadRow(MISSING)
        try:
            with Image.open(path) as image:
                sizes.append((image.height, image.width))
        except Exception as error:  # the library raises whatever its format plug-ins raise
            raise BadRow(UNREADABLE) from error
    return sizes


def _turns(conversations: Any) -> list[tuple[str, str]]:
    if not isinstance(conversations, list) or not conversations:
        raise BadRow("no conversations")
    texts = []
    for number, entry in enumerate(conversations):
        if not isinstance(entry, dict) or not isinstance(entry.get("value"), str):
            raise BadRow("a message without text")
        if entry.get("from") not in SPEAKERS:
            raise BadRow("unknown role")
        if entry["from"] != SPEAKERS[number % 2]:
            raise BadRow("wrong turn order")
        texts.append(_clean(entry["value"]).strip())
    if len(texts) % 2:
        raise BadRow("wrong turn order")
    turns = list(zip(texts[::2], texts[1::2], strict=True))
    if not all(answer for _, answer in turns):
        raise BadRow("empty answer")
    return turns


def _images(image: Any) -> tuple[str, ...]:
    if image is None:
        return ()
    names = image if isinstance(image, list) else [image]
    if not all(isinstance(name, str) and name for name in names):
        raise BadRow("an image entry that is not a file name")
    return tuple(_clean(name) for name in names)


def _front(text: str) -> str:
    if text.count(IMAGE) != 1:
        return text
    rest = text.replace(IMAGE, "").strip()
    return f"{IMAGE}\n{rest}" if rest else IMAGE


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
