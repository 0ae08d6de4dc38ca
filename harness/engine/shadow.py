"""Shadows a method of one object, so that a model is changed without touching its class."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def shadowed(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Shadow a method on this one object; whatever the object held before comes back."""
    had = name in owner.__dict__
    before = owner.__dict__.get(name)
    object.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if had:
            object.__setattr__(owner, name, before)
        else:
            object.__delattr__(owner, name)
