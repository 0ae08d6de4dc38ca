"""Lets `torchvision` be imported beside a CPU torch, whoever imports it and whenever.

A user's own script imports transformers' processors, and with them torchvision, before it calls
anything here; see `harness.common.torchvision_ops` for what goes wrong then.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing itself: it declares what is missing, once, and steps aside."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            from harness.common.torchvision_ops import declare_missing_ops

            declare_missing_ops()
        return None


def install() -> None:
    """Before the first import of torchvision; nothing where it is there already."""
    known = any(isinstance(finder, _BeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not known:
        sys.meta_path.insert(0, _BeforeTorchvision())
