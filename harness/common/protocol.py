"""How questions are put: the conversation, the square made of an image, OCR tokens, boxes.

Torch-free. A protocol is its four parts; the named ones are those that papers, makers and lmms-eval
itself ask by (`docs/protocols.md`). `str()` is the same for the same parts however they were asked
for, and is what cells, tables and reports show; `Protocol.parse` reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown

CHECKPOINT = "checkpoint"
TEMPLATES = (CHECKPOINT, "vicuna_v1", "mistral_instruct", "qwen_1_5")
# As the processor says; the centre cut out; padded to a square; as the code that a checkpoint comes
# from: padded where its family makes one square of an image, in its own tiles elsewhere.
PROCESSOR, CROP, PAD, ORIGINAL = "processor", "crop", "pad", "original"
ASPECTS = (CROP, PAD)  # what can be asked for by itself
# In what boxes are answered and read: as the model's family is known to; shares of the image;
# shares of the square that the tower sees; pixels of the image as the processor resized it.
FAMILY, IMAGE01, FRAME01, PIXELS = "family", "image01", "frame01", "pixels"
BOXES = (IMAGE01, FRAME01, PIXELS)


@dataclass(frozen=True)
class Protocol:
    """One way of asking. The defaults are lmms-eval's: what the checkpoint itself says."""

    template: str = CHECKPOINT
    image_aspect: str = PROCESSOR
    ocr: bool = False
    boxes: str = FAMILY

    def __str__(self) -> str:
        """The named protocol that differs least, and by what: `llava-1.5+aspect=crop`."""
        others = {name: self._unlike(one) for name, (one, _) in PROTOCOLS.items()}
        name = min(others, key=lambda name: len(others[name]))  # the first of equals
        return "+".join([name, *others[name]])

    def _unlike(self, other: Protocol) -> list[str]:
        """The parts that another one has not, as `parse` reads them."""
        return [
            f"{word}={_said(getattr(self, part))}"
            for word, part in WORDS.items()
            if getattr(self, part) != getattr(other, part)
        ]

    def having(self, parts: Mapping[str, Any]) -> Protocol:
        """This one with other parts."""
        return replace(self, **parts)

    @classmethod
    def parse(cls, text: str) -> Protocol:
        """A name, or a name with parts as `str` writes them. Raises UsageError."""
        name, *parts = text.split("+")
        if name not in PROTOCOLS:
            raise UsageError(unknown("protocol", name, PROTOCOLS))
        found, seen = PROTOCOLS[name][0], set[str]()
        for part in parts:
            word, equals, value = part.partition("=")
            if word in seen:
                raise UsageError(f"'{word}' stands twice in the protocol '{text}'")
            seen.add(word)
            if not equals or word not in WORDS:
                raise UsageError(unknown("part", part, [f"{word}=..." for word in WORDS]))
            if value not in KNOWN[word]:
                raise UsageError(unknown(word, value, KNOWN[word]))
            found = found.having({WORDS[word]: value == "yes" if word == "ocr" else value})
        return found


# How a part is called in the text of a protocol, and what it may be.
WORDS = {"template": "template", "aspect": "image_aspect", "ocr": "ocr", "boxes": "boxes"}
KNOWN = {
    "template": TEMPLATES,
    "aspect": (PROCESSOR, *ASPECTS, ORIGINAL),
    "ocr": ("yes", "no"),
    "boxes": (FAMILY, *BOXES),
}


def _said(value: Any) -> str:
    return value if isinstance(value, str) else "yes" if value else "no"


LMMS_EVAL = Protocol()
PROTOCOLS: dict[str, tuple[Protocol, str]] = {
    "lmms-eval": (LMMS_EVAL, "the checkpoint's template and image processor, as --model llava_hf"),
    "llava-1.5": (
        Protocol("vicuna_v1", PAD, True, FRAME01),
        "LLaVA-1.5's scripts: system sentence, padded square, TextVQA with reference OCR tokens",
    ),
    "lmms-eval-llava": (
        Protocol("vicuna_v1", ORIGINAL, False, IMAGE01),
        "lmms-eval's --model llava: system sentence, padded square or tiles, no OCR tokens",
    ),
    "qwen-vl": (
        Protocol(boxes=PIXELS),
        "the checkpoint's template and processor, boxes in pixels of the resized image, as JSON",
    ),
}
"""Name -> the protocol, and a line for `--list protocols`."""


def asked_for(
    name: str | None, template: str | None, aspect: str | None, ocr: bool, boxes: str | None
) -> Protocol:
    """A named protocol, with the parts that were asked for by themselves."""
    given = {"template": template, "image_aspect": aspect, "ocr": ocr or None, "boxes": boxes}
    base = Protocol.parse(name) if name else LMMS_EVAL
    return base.having({part: value for part, value in given.items() if value is not None})
