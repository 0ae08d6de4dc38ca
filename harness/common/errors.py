"""Errors the command line turns into one clear line and an exit code.

Torch-free. Exit codes follow the command-line contract: 0 every cell done, 2 bad usage (nothing
written), 3 some cells failed, 130 interrupted.
"""

from __future__ import annotations

from harness.common.stops import EXIT_INTERRUPTED as EXIT_INTERRUPTED

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_CELLS_FAILED = 3


class HarnessError(Exception):
    """Base of every error whose message is meant for the user. The message is one line."""

    exit_code = EXIT_CELLS_FAILED


class UsageError(HarnessError):
    """A wrong flag, name, value, file or directory, found before anything was written."""

    exit_code = EXIT_USAGE


class CellError(HarnessError):
    """One cell cannot be computed; the message becomes its `error` column, the others go on."""


class StoreError(HarnessError):
    """The run directory cannot be written (full disk, lost permission) while a run is going on."""


class SaidElsewhere(HarnessError):
    """Another process of the run ended it and says why: nothing is left to say here."""


def is_text(text: str) -> bool:
    """Whether a word can be a name or be written to a file: no NUL, no half of a character."""
    return "\0" not in text and text.encode(errors="ignore").decode() == text


def one_line(error: BaseException | str, limit: int = 300) -> str:
    """`error` as a single line of at most `limit` printable characters, never empty.

    The line of a user's method file that an error came out of stands before it, its notes behind.
    """
    notes = getattr(error, "__notes__", ())
    if isinstance(error, BaseException) and not _speaks_for_itself(error):
        from methods.files import blamed

        error = blamed(error) or error
    name = type(error).__name__ if isinstance(error, BaseException) else ""
    try:
        text = str(error)
    except Exception:  # an exception of somebody's own, whose text is as broken as its code
        text = ""
    text = " ".join(text.split())
    if isinstance(error, BaseException) and not _speaks_for_itself(error):
        text = f"{name}: {text}" if text else name
    text = ", ".join([text or name or "unknown error", *map(str, notes)])
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _speaks_for_itself(error: BaseException) -> bool:
    """Whether the message was written for the user: ours, and the methods' own errors."""
    return isinstance(error, HarnessError) or str(type(error).__module__).split(".")[0] in (
        "harness",
        "methods",
        "reports",
        "minidata",
    )
