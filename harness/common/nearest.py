"""One line for a name that nothing has."""

from __future__ import annotations

from collections.abc import Iterable

from methods.nearest import nearest as nearest


def unknown(kind: str, name: str, choices: Iterable[str], hint: str = "") -> str:
    """One line for an unknown name: what it was, the nearest valid one, else all of them."""
    valid = list(choices)
    close = nearest(name, valid)
    if close is not None:
        text = f"unknown {kind} '{name}': did you mean '{close}'?"
    else:
        text = f"unknown {kind} '{name}': choose from {', '.join(valid)}"
    return f"{text} ({hint})" if hint else text
