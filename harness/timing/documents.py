"""The documents of a bench as the evaluation loop asks them. Loads lmms-eval."""

from __future__ import annotations

import contextlib
from typing import Any

from harness.bench.benches import Bench, resolve_bench
from harness.bench.prompter import Prompter
from harness.bench.request import Request
from harness.common.conditions import BAD_ROWS
from harness.common.torchvision_ops import declare_missing_ops


class _Enough(Exception):
    """The requests are known: lmms-eval need not go on."""


def requests_of(
    loaded: Any, name: str | Bench, data: str, limit: int | None, seed: int
) -> list[Request]:
    """The first ``limit`` requests of a bench (None: all), images loaded when asked for.

    Bad rows of own data, which were allowed or refused before, are left out.

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

    bench = name
    if isinstance(bench, str):
        bench = resolve_bench(bench, data, mini_model=loaded.mini, allow=(BAD_ROWS,))
    bench.require(limit)
    if loaded.protocol.ocr:
        bench = bench.with_ocr()
    model = Collector(Prompter(loaded), None, seed=seed)
    with quiet(), contextlib.suppress(_Enough):
        run_lmms_eval(model, bench, limit, seed)
    return model.found
