"""Method parameters as text: typed by the dataclass fields, checked with one-line errors."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from methods.nearest import nearest

T = TypeVar("T")


def param(default: T, meaning: str) -> T:
    """A method's parameter: its default, and in one line what it means to a user."""
    return dataclasses.field(default=default, metadata={"meaning": meaning})


class MethodError(ValueError):
    """A method or one of its parameters is wrong; the message is one line for the user."""


def to_text(value: Any) -> str:
    """One parameter value as the command line writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "+".join(to_text(v) for v in value)
    return "none" if value is None else str(value)


def cut(text: str, limit: int = 120) -> str:
    """A user's word as a message shows it: what is wrong with it must fit behind it."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def from_text(name: str, key: str, kind: Any, text: Any) -> Any:
    """Convert one value (text, or a YAML scalar/list) to the type of the dataclass field."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    words = to_text(text).strip()
    try:
        if type(None) in args:
            if words.lower() == "none":
                return None
            return from_text(name, key, next(a for a in args if a is not type(None)), text)
        if origin is tuple:
            return tuple(_finite(args[0](part)) for part in words.split("+"))
        if origin is Literal:
            if words not in args:
                raise MethodError(f"{name}: {key}={cut(words)} is not one of {', '.join(args)}")
            return words
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[words.lower()]
        return _finite(kind(words))
    except (KeyError, ValueError) as error:
        if isinstance(error, MethodError):
            raise
        raise MethodError(f"{name}: {key}={cut(words)} is not {_wanted(kind)}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(value)
    return value


def _wanted(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return "a list of numbers joined by +"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "valid")


def make(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build a method (a dataclass with a ``name``) from named values, checking each."""
    name = str(getattr(cls, "name", cls.__name__))
    kinds = field_types(cls)
    converted = {}
    for key, text in values.items():
        if key not in kinds:
            close = nearest(key, kinds)
            hint = f"; nearest is '{close}'" if close else ""
            has = f"it has {', '.join(kinds)}" if kinds else "it takes none"
            raise MethodError(f"{name}: unknown parameter '{key}'{hint} ({has})")
        converted[key] = from_text(name, key, kinds[key], text)
    return cls(**converted)


def field_types(cls: type) -> dict[str, Any]:
    """The type of each parameter, in order."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}
