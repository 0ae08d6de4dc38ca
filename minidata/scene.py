"""Plain records shared by the four picture families, the split rule and the prompts."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

PHRASE = "\nAnswer the question using a single word or phrase."
WORD = "\nAnswer the question with a single word."
LETTER = "\nAnswer with the option's letter from the given choices directly."
TEST_BUCKETS = 10
"""One composition in this many belongs to the test split."""


@dataclass
class Box:
    """One named region.  `box` is x0, y0, x1, y1 in pixels; `chars` the x extents of letters."""

    kind: str
    label: str
    box: list[int]
    attrs: dict[str, Any] = field(default_factory=dict)
    chars: list[list[float]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """JSON form stored with the data; `chars` only where there are letters."""
        out: dict[str, Any] = {
            "kind": self.kind,
            "label": self.label,
            "box": self.box,
            "attrs": self.attrs,
        }
        if self.chars:
            out["chars"] = self.chars
        return out


@dataclass
class Question:
    """One question about a picture.

    `evidence` lists indices into the scene's boxes that must be seen to answer; `template` names
    the question form, used for balance statistics.
    """

    bench: str
    template: str
    question: str
    answer: str
    choices: list[str] = field(default_factory=list)
    evidence: list[int] = field(default_factory=list)

    @property
    def prompt(self) -> str:
        """The text upstream's doc_to_text gives for this document (pinned by a test)."""
        if self.bench == "scienceqa":
            lines = [f"{chr(ord('A') + i)}. {c}" for i, c in enumerate(self.choices)]
            return self.question + "\n" + "\n".join(lines) + LETTER
        if self.bench == "textvqa":
            return self.question.capitalize() + PHRASE
        return self.question + (WORD if self.bench == "chartqa" else PHRASE)


def scene_id(family: str, key: Any) -> str:
    """Content hash (16 hex digits) of a composition: what is shown, not where to the pixel."""
    text = json.dumps([family, key], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_test(identifier: str) -> bool:
    """Whether a composition belongs to the test split.  Holds for every seed and generator run."""
    return int(identifier, 16) % TEST_BUCKETS == 0
