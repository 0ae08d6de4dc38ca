"""Being asked to stop: Ctrl-C, a scheduler's SIGTERM and a closed terminal's SIGHUP are one thing.

Imports next to nothing, so that it is in force before anything heavy is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from harness.common.roots import INSTALLED

# How users call this program here, as messages name it and as a command that can be copied.
PROGRAM = "modsuite" if INSTALLED else "run_suite.py"
COMMAND = PROGRAM if INSTALLED else f"python {PROGRAM}"
EXIT_INTERRUPTED = 130
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_asked: list[int] = []  # signals that came since the last clean start


@contextmanager
def stoppable() -> Iterator[None]:
    """In here each of `SIGNALS` raises KeyboardInterrupt.

    A library that is interrupted may make an error of its own of it, as extension modules do
    while they are imported: it comes out as the KeyboardInterrupt it was.
    """
    before = catch(ask)
    _asked.clear()
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        if _asked:
            raise KeyboardInterrupt from None
        raise
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def heed() -> None:
    """Raise the KeyboardInterrupt of a signal that came where Python drops exceptions.

    In a finalizer, say: it is then printed as ignored, and who waits would wait on.
    """
    if _asked:
        raise KeyboardInterrupt


def interrupted(argv: Sequence[str]) -> int:
    """Say how to begin again, once in all processes of a run; returns the exit code."""
    import shlex

    from harness.common.ranks import claim

    rank = claim()
    if rank.leads:
        tell(f"{PROGRAM}: interrupted; resume with: {rank.command} {shlex.join(argv)}")
    return EXIT_INTERRUPTED


def tell(line: str) -> None:
    """One line on standard error, if anybody still reads it."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        silence(sys.stderr)


def put(line: object, end: str = "\n") -> None:
    """One line on standard output, if anybody still reads it."""
    try:
        print(line, end=end, flush=True)
    except BrokenPipeError:
        silence(sys.stdout)


def silence(stream: Any) -> None:
    """What is still written to a stream whose reader has gone goes nowhere."""
    with suppress(OSError, ValueError, AttributeError):  # it has no file below
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def catch(handler: Any) -> dict[int, Any]:
    """Set the handler of all signals but the ignored ones (`nohup`); returns what was there."""
    before: dict[int, Any] = {}
    for number in SIGNALS:
        was = signal.getsignal(number)
        if was is not signal.SIG_IGN:
            try:
                signal.signal(number, handler)
            except ValueError:  # not in the main thread: leave signals alone
                return {}
            before[number] = was
    return before


def ask(number: int, frame: FrameType | None) -> NoReturn:
    _asked.append(number)
    raise KeyboardInterrupt


def _in_child() -> None:
    """A forked worker that is asked to stop just ends; the lines are its parent's to say."""
    for number in SIGNALS:
        if signal.getsignal(number) is ask:
            signal.signal(number, signal.SIG_DFL)


os.register_at_fork(after_in_child=_in_child)
