"""One progress display: silences the bars, logs and prints of the libraries while a cell runs."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


class Bar(tqdm):  # type: ignore[type-arg]
    """The one bar that stays visible inside :func:`quiet`."""


@contextmanager
def quiet(verbose: bool = False) -> Iterator[None]:
    """Mute loguru, every tqdm bar but :class:`Bar`, dataset bars, warnings and printed tables.

    lmms-eval and its tasks log and print their own progress and result tables; the report shows
    the results. Errors are raised, never only logged, so nothing is lost. ``verbose`` mutes none.
    """
    if verbose:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_no_loguru())
        stack.enter_context(_no_bars())
        stack.enter_context(_no_library_logs())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield


@contextmanager
def audible(stdout: Any) -> Iterator[None]:
    """Give standard output back for a moment, for the caller's own display."""
    with contextlib.redirect_stdout(stdout or sys.__stdout__):
        yield


@contextmanager
def _no_loguru() -> Iterator[None]:
    from loguru import logger

    logger.disable("")  # every module: task files are loaded under names of their own
    try:
        yield
    finally:
        logger.enable("")


@contextmanager
def _no_bars() -> Iterator[None]:
    """Library code passes ``disable`` itself, so the constructor is the place to overrule it."""
    import datasets

    original = tqdm.__init__
    shown = datasets.are_progress_bars_disabled()

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kwargs["disable"] = kwargs.get("disable", False) if isinstance(self, Bar) else True
        original(self, *args, **kwargs)

    tqdm.__init__ = init  # type: ignore[method-assign]
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        tqdm.__init__ = original  # type: ignore[method-assign]
        if not shown:
            datasets.enable_progress_bars()


@contextmanager
def _no_library_logs() -> Iterator[None]:
    import datasets
    import transformers

    loggers = (datasets.logging, transformers.logging)
    levels = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.set_verbosity(level)
