"""What there is to say of a method: its parameters in words, what it needs, its file's own page.

`--list METHOD` and the pages of `docs/` are made of this. Torch-free.
"""

from __future__ import annotations

import dataclasses
import sys
import typing
from dataclasses import dataclass
from typing import Any, Literal

from methods.base import Method, ModelInfo
from methods.budget import Budgeted
from methods.params import field_types, to_text

# The model of most papers, for what a method asks for: LLaVA-1.5-7B.
LLAVA = ModelInfo(32, 4096, 32, 32, 128, 24, 1024, 24, 576)


@dataclass(frozen=True)
class Parameter:
    """One parameter as a user reads of it."""

    name: str
    type: str  # in words; of a choice all there are
    default: str
    meaning: str  # empty where somebody's own method file gives none


def parameters(kind: type[Method]) -> list[Parameter]:
    """The parameters of a method, in order."""
    types = field_types(kind)
    return [
        Parameter(
            field.name,
            _in_words(types[field.name]),
            to_text(field.default),
            field.metadata.get("meaning", ""),
        )
        for field in dataclasses.fields(kind)
    ]


def acts(kind: type[Method]) -> str:
    """Where it decides, with its default parameters: by the numbers it asks for, and its hooks."""
    hooks = ("merge_patches", "before", "layer", "decode")
    own = {hook for hook in hooks if getattr(kind, hook) != getattr(Method, hook)}
    n, asked = LLAVA.image_tokens, kind().request(LLAVA, LLAVA.image_tokens)
    if asked is None:  # the images decide how many stay: the hooks alone tell
        early, later = "before" in own, "layer" in own
    else:
        early, later = asked[0] < n, len(set(asked)) > 1
    tower = "merge_patches" in own
    places = {
        "on the image ahead of the vision tower": kind.shrinks,
        "in the vision tower": tower,
        "before the language model": early
        and not (tower or kind.shrinks),  # else that is the tower's doing
        "in the decoder's layers": later,
        "on generated tokens": "decode" in own,
    }
    return ", ".join(place for place, is_so in places.items() if is_so) or "nowhere"


def needs(kind: type[Method]) -> list[str]:
    """What a method with its default parameters needs of a model and of the user."""
    plain = kind()
    asked = {
        f"weights of its own: --checkpoint {kind.name}=PATH_OR_ID": kind.trained,
        "a tower with a class token": plain.needs_class_token and not plain.reads_received,
        "images in one piece, without any-resolution tiles": kind.shrinks,
        f"at least {kind.least_images} images in a prompt, or one in several crops": (
            kind.least_images > 1
        ),
        f"the tower's CLIP model: --checkpoint {kind.name}=PATH_OR_ID": plain.reads_clip,
    }
    return [what for what, is_so in asked.items() if is_so]


def images(kind: type[Method]) -> str:
    """What becomes of several images in one prompt; empty where no token leaves, or all do."""
    if kind.role in ("reference", "blind"):
        return ""
    if kind.mixes:
        return "all become one set of tokens"
    if kind.apart:
        return "each keeps its own amount, whatever the others hold"
    once = "; `tokens=` counts once an image" if issubclass(kind, Budgeted) else ""
    return f"their tokens compete for one amount, so one may keep more than another{once}"


def page(kind: type[Method]) -> list[str]:
    """The lines that a method's file begins with: paper, rule, and what differs here."""
    return (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()


def _in_words(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if type(None) in args:
        return "|".join([*(_in_words(a) for a in args if a is not type(None)), "none"])
    if origin is Literal:
        return "|".join(args)
    if origin is tuple:
        return f"{_in_words(args[0])}+..."
    return str(getattr(kind, "__name__", kind))
