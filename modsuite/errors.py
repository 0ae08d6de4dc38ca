"""Errors of the Python interface: the command line's one-liners, in Python's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

_FLAG = re.compile(r"--([a-z][a-z-]*)")


class Error(ValueError):
    """A wrong name, value, file or model; the message is one line."""


def in_python(message: str) -> str:
    """A message of the command line with its flags as argument names."""
    return _FLAG.sub(lambda found: found[1].replace("-", "_"), message)


@contextmanager
def spoken() -> Iterator[None]:
    """What the harness refuses is raised as :class:`Error`; faults stay what they are."""
    from harness.common.errors import HarnessError, one_line
    from methods.params import MethodError

    try:
        yield
    except (HarnessError, MethodError) as error:
        raise Error(in_python(one_line(error, 1000))) from None
