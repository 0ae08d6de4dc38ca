"""Command lines of tests: a base of flags, some of them said otherwise."""

from __future__ import annotations

from collections.abc import Sequence


def said_once(base: Sequence[str], more: Sequence[str]) -> list[str]:
    """`base` and `more`; a flag with a value that `more` says again leaves `base`."""
    kept: list[str] = []
    words = iter(base)
    for word in words:
        if word.startswith("--") and word in more and word != "--checkpoint":
            next(words)  # its value
        else:
            kept.append(word)
    return [*kept, *more]
