"""The documents of a bench as the evaluation loop asks them. Loads lmms-eval."""

from __future__ import annotations

import contextlib
from typing import Any

from harness.bench.benches import resolve_bench
from harness.bench.prompter import Prompter
from harness.bench.request import Request
from harness.common.torchvision_ops import declare_missing_ops


class _Enough(Exception):
    """The requests are known: lmms-eval need not go on."""


def requests_of(loaded: Any, name: str, data: str, limit: int, seed: int) -> list[Request]:
    """The first ``limit`` requests of a bench, images loaded when asked for.

    Raises UsageError and CellError, one line, as an evaluation would.
    """
    declare_missing_ops()
    from harness.bench.lmms import RoutedModel
    from harness.bench.quiet import quiet
    from harness.bench.upstream import run_lmms_eval

    class Collector(RoutedModel):
        """Notes what it is asked and answers nothing."""

        found: list[Request] = []  # noqa: RUF012

        def ask(self, form: Any, asked: list[Any]) -> list[Any]:
            self.found = form.requests(self, asked)
            raise _Enough

    bench = resolve_bench(name, data, mini_model=loaded.mini)
    bench.require(limit)
    model = Collector(Prompter(loaded), None, seed=seed)
    with quiet(), contextlib.suppress(_Enough):
        run_lmms_eval(model, bench, limit, seed)
    return model.found
