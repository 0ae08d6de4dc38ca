"""Methods and benches as papers write them, from ``references.yaml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from harness.common.yamlfile import read_mapping
from reports.cell import Series

REFERENCES = Path(__file__).with_name("references.yaml")
LONG = 10
"""Letters from which on a bench of the user's own is cut in a table with many columns."""


@cache
def references() -> dict[str, Any]:
    """``lmms-eval``, and under ``methods`` and ``benches`` what is known of each.

    An entry with ``like`` has what the named one says and it does not.
    """
    found = read_mapping(REFERENCES, REFERENCES.name)
    benches = found["benches"]
    for name, entry in benches.items():
        benches[name] = {**benches.get(entry.pop("like", ""), {}), **entry}
    return found


def method(name: str) -> str:
    """As its paper writes it; a method of the user's own as the user does."""
    return str(references()["methods"].get(name, {}).get("name", name))


def bench(name: str) -> str:
    return str(references()["benches"].get(name, {}).get("name", name))


def shorts(benches: list[str]) -> list[str]:
    """A short name a bench, no two alike."""
    known = references()["benches"]
    found = []
    for name in benches:
        own = str(known.get(name, {}).get("short", bench(name)))
        found.append(own if len(own) < LONG else f"{own[: LONG - 2]}…")
    if len(set(found)) < len(found):
        found = [f"B{number}" if found.count(one) > 1 else one for number, one in enumerate(found)]
    return found


def parameters(series: Series) -> list[str]:
    """``key=value`` of what is not at its default."""
    own = series.label.removesuffix(f" ({series.model})").removeprefix(series.method)
    return own.split()
