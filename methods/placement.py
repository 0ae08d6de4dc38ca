"""Which layers route: named presets or an explicit list, for any depth."""

from __future__ import annotations

from functools import lru_cache

from methods.base import MethodError

PRESETS = (
    "default", "all", "odd", "even", "2-per-3", "first-half", "second-half",
    "first-last-dense", "last-two-thirds", "first-five-dense",
)  # fmt: skip


@lru_cache(maxsize=256)
def parse_layers(method: str, text: str, depth: int) -> tuple[bool, ...]:
    """Per layer: does it route? ``text`` is a preset or a list like ``3+7+11`` (0-based).

    ``default`` leaves layers 0, 1, 2 and L-1 dense (gamma-MoD's rule). ``odd`` is every second
    block. ``2-per-3`` routes two layers after each dense one. The other presets are those of the
    gamma-MoD release. Layer 0 may route.
    """
    last = depth - 1
    rules = {
        "default": lambda i: 2 < i < last,
        "all": lambda i: True,
        "odd": lambda i: i % 2 == 1,
        "even": lambda i: i % 2 == 0,
        "2-per-3": lambda i: i % 3 != 0,
        "first-half": lambda i: i < depth // 2,
        "second-half": lambda i: depth // 2 <= i < last,
        "first-last-dense": lambda i: 0 < i < last,
        "last-two-thirds": lambda i: depth // 3 + 2 <= i < last,
        "first-five-dense": lambda i: 4 < i < last,
    }
    if text in rules:
        return tuple(rules[text](i) for i in range(depth))
    chosen = _numbers(method, text)
    if chosen and max(chosen) >= depth:
        raise MethodError(f"{method}: layer {max(chosen)} does not exist: the model has {depth}")
    return tuple(i in chosen for i in range(depth))


def check_layers(method: str, text: str) -> None:
    """Raise :class:`MethodError` unless ``text`` is a preset or a list of layer numbers."""
    if text not in PRESETS:
        _numbers(method, text)


def _numbers(method: str, text: str) -> set[int]:
    parts = text.split("+")
    if not all(part.isdecimal() for part in parts):
        names = ", ".join(PRESETS)
        raise MethodError(f"{method}: layers={text} is not a list like 3+7+11 nor one of {names}")
    return {int(part) for part in parts}
