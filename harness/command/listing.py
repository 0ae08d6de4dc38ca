"""`--list`: what there is, one line each, or one method whole. The lines need no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.options.settings import LIST_KINDS


def lines(kind: str) -> list[str]:
    """The lines of `--list kind`; kind is methods, benches, models or suites."""
    known = {"methods": _methods, "benches": _benches, "models": _models, "suites": _suites}
    return _columns(known[kind]())


def about_method(name: str) -> list[str]:
    """The lines of `--list METHOD`: parameters, needs, its file's own page.

    Raises UsageError for a name that is no method.
    """
    import dataclasses
    import sys

    import methods
    from methods.params import to_text

    if name not in methods.REGISTRY:
        raise UsageError("--list: " + unknown("list", name, [*LIST_KINDS, *methods.names()]))
    kind = methods.load(name)
    rows = [
        (f.name, str(f.type), to_text(f.default), f.metadata.get("meaning", ""))
        for f in dataclasses.fields(kind)
    ]
    head = ("parameter", "type", "default", "meaning")
    table = _columns([head, *rows]) if rows else ["no parameters"]
    plain = kind()
    needs = {
        f"weights of its own: --checkpoint {name}=PATH_OR_ID": kind.trained,
        "a tower with a class token": plain.needs_class_token,
        f"at least {kind.least_images} images in a prompt": kind.least_images > 1,
        f"the tower's CLIP model: --checkpoint {name}=PATH_OR_ID": plain.reads_clip,
    }
    asked = [f"needs {what}" for what, is_so in needs.items() if is_so]
    page = (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()
    return [f"{name}: {methods.REGISTRY[name].summary}", "", *table, *asked, "", *page]


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
    from harness.families.catalog import SIZES_ONLY

    for name, summary in SIZES_ONLY.items():
        yield name, f"{summary}; --costs-only"


def _suites() -> Iterable[tuple[str, ...]]:
    from harness.options.suites import describe, suite_names

    for name in suite_names():
        yield name, describe(name)


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = ((t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in table)
    return ["  ".join(texts).rstrip() for texts in padded]
