"""`--list`: what there is, one line each. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.errors import UsageError
from harness.nearest import unknown


def lines(kind: str) -> list[str]:
    """The lines of `--list kind`; kind is methods, benches, models or suites."""
    known = {"methods": _methods, "benches": _benches, "models": _models, "suites": _suites}
    return _columns(known[kind]())


def check_known_methods(specs: Sequence[str], flag: str) -> None:
    """Refuse unknown method names before anything heavy is imported."""
    import methods

    for spec in specs:
        name = spec.partition(":")[0].strip()
        if name.endswith(".py"):  # a file of the user's own, read when it is parsed
            continue
        if name not in methods.names():
            raise UsageError(f"{flag}: " + unknown("method", name, methods.names()))


def _methods() -> Iterable[tuple[str, ...]]:
    import methods

    for name, entry in methods.REGISTRY.items():
        yield name, "trained" if entry.trained else "", entry.summary


def _benches() -> Iterable[tuple[str, ...]]:
    from harness.bench.catalog import BENCHES

    for name, spec in BENCHES.items():
        yield name, "mini, hub" if spec.mini else "hub", spec.summary


def _models() -> Iterable[tuple[str, ...]]:
    from harness.model.catalog import MODELS

    for name, entry in MODELS.items():
        yield name, entry.summary
    from harness.cost.shapes import SIZES_ONLY

    for name, summary in SIZES_ONLY.items():
        yield name, f"{summary}; --costs-only"


def _suites() -> Iterable[tuple[str, ...]]:
    from harness.suites import describe, suite_names

    for name in suite_names():
        yield name, describe(name)


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = ((t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in table)
    return ["  ".join(texts).rstrip() for texts in padded]
