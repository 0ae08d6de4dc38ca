"""Token-sparsity methods on multimodal LLMs: the command line's harness from Python.

>>> import modsuite as ms
>>> model = ms.load("tiny-llava")
>>> with ms.routed(model, "fastv:kv=0.33") as run:
...     text = model.ask(image, "What colour is the cup?")
>>> run.record.kv_ratio_vision
>>> table = ms.compare(model, ["fastv", "pmod"], bench="gqa", limit=50)
>>> table.accuracy, table.averages, table.comparisons

Importing this takes no torch; what needs it brings it when first called. A method file of one's own
takes its words from here as well: ``class Mine(ms.Method)``, ``ms.Drop``, ``ms.Tokens``, ...
Everything wrong with names, values or files raises :class:`Error`, one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.common.threads import prepare
from modsuite import hook
from modsuite.errors import Error

if TYPE_CHECKING:
    from modsuite.comparison import Comparison, compare
    from modsuite.ledger import costs
    from modsuite.listing import check, families, methods, parse
    from modsuite.model import Model, Routed, load, routed

# Where each name lives; looked up when it is first asked for.
_PLACES = {
    "modsuite.comparison": ("Comparison", "compare"),
    "modsuite.ledger": ("costs",),
    "modsuite.listing": ("check", "families", "methods", "parse"),
    "modsuite.model": ("Model", "Routed", "load", "routed"),
    # What a method file is written with (see `methods.vocabulary` for shapes and units).
    "methods.base": (
        *("ANSWER", "IMAGE", "QUESTION", "SYSTEM", "Decision", "Drop", "Merge", "Method"),
        *("MethodError", "ModelInfo", "Positions", "Ranking", "Route", "Tokens"),
        *("keep_best", "param", "top_k_mask"),
    ),
    "methods.scored": ("Scored",),
}
_HOMES = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "Comparison", "Error", "Model", "Routed", "check", "compare", "costs", "families", "load",
    "methods", "parse", "routed",
]  # fmt: skip

prepare()
hook.install()


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'modsuite' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
