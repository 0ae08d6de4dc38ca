"""`--list`: what there is, one line each, or one method whole. The lines need no torch."""

from __future__ import annotations

from collections.abc import Iterable

from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown
from harness.common.roots import DATA
from harness.options.settings import LIST_KINDS
from harness.options.specs import refuse_other_file


def lines(kind: str) -> list[str]:
    """The lines of `--list kind`; kind is one of `LIST_KINDS`."""
    known = {
        "methods": _methods, "benches": _benches, "models": _models, "suites": _suites,
        "protocols": _protocols,
    }  # fmt: skip
    return _columns(known[kind]())


def about_method(name: str) -> list[str]:
    """The lines of `--list METHOD`: its parameters, what it needs, its file's own page.

    The name may be the path of a file that defines a method. Raises UsageError for one that is no
    method.
    """
    import methods
    from methods.files import told
    from methods.params import MethodError

    if name.endswith(".py"):
        try:
            known = methods.register_file(name)
            with told(name):
                return _about(known)
        except MethodError as error:
            raise UsageError(f"--list: {one_line(error)}") from None
    if name not in methods.REGISTRY:
        refuse_other_file(name, "--list")
        raise UsageError("--list: " + unknown("list", name, [*LIST_KINDS, *methods.names()]))
    return _about(name)


def _about(name: str) -> list[str]:
    import methods
    from methods.describe import acts, images, needs, page, parameters

    kind = methods.load(name)
    rows = [(p.name, p.type, p.default, p.meaning) for p in parameters(kind)]
    head = ("parameter", "type", "default", "meaning")
    table = _columns([head, *rows]) if rows else ["no parameters"]
    where = f"acts {acts(kind)} (by default)"
    asked = [f"needs {what}" for what in needs(kind)]
    several = [f"several images in a prompt: {said}" for said in [images(kind)] if said]
    head_line = f"{name}: {methods.REGISTRY[name].summary}"
    return [head_line, "", *table, where, *several, *asked, "", *page(kind)]


def _methods() -> Iterable[tuple[str, ...]]:
    import methods

    for name, entry in methods.REGISTRY.items():
        yield name, "trained" if entry.trained else "", entry.summary


def _benches() -> Iterable[tuple[str, ...]]:
    from harness.bench.catalog import BENCHES

    for name, spec in BENCHES.items():
        data = ("mini" if spec.drawn else "mini, hub") if spec.mini else "hub"
        yield name, data, spec.summary


def _models() -> Iterable[tuple[str, ...]]:
    from harness.model.catalog import MODELS

    for name, entry in MODELS.items():
        absent = entry.mini and not (DATA / entry.source).is_dir()
        yield name, entry.summary + ("; not here: make checkpoints" if absent else "")
    from harness.families.catalog import FAMILIES, KNOWN, SIZES_ONLY

    for name, summary in SIZES_ONLY.items():
        runs = KNOWN[name]["model_type"] in FAMILIES
        yield name, f"{summary}; {'sizes by name, weights by folder' if runs else 'sizes only'}"


def _suites() -> Iterable[tuple[str, ...]]:
    from harness.options.suites import describe, suite_names

    for name in suite_names():
        yield name, describe(name)


def _protocols() -> Iterable[tuple[str, ...]]:
    from harness.common.protocol import PROTOCOLS, Protocol

    for name, (one, summary) in PROTOCOLS.items():
        told = "default" if one == Protocol() else ""
        yield name, told, summary


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = ((t.ljust(w) for t, w in zip(row, widths, strict=True)) for row in table)
    return ["  ".join(texts).rstrip() for texts in padded]
