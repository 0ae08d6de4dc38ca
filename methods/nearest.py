"""The nearest valid name for a mistyped one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The choice that looks most like `name` (case ignored), or None when nothing is close."""
    by_lower = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=cutoff)
    if found:
        return by_lower[found[0]]
    starts = [c for low, c in by_lower.items() if name and low.startswith(name.lower())]
    return min(starts, key=len) if starts else None
