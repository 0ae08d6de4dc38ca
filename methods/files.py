"""Methods in files of the user's own, and one line for whatever their code raises. Torch-free."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from methods.base import Method
from methods.params import MethodError, cut

PREFIX = "method_file_"  # of the modules that such files become
SHOWN: dict[str, str] = {}  # resolved path of a file -> as the user wrote it


def load_file(path: str) -> type[Method]:
    """The one method that a Python file defines. The file is run once a process.

    Raises :class:`MethodError` with one line for a file that is missing, does not import, or
    defines no method or several. A KeyboardInterrupt passes: it may be the user's.
    """
    try:
        file = Path(path).expanduser().resolve()
        there = file.is_file()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a home of nobody
        there = False
    if not there:
        raise MethodError(f"{cut(path)}: no such file")
    SHOWN[str(file)] = path
    name = f"{PREFIX}{file.stem}_{abs(hash(file))}"
    with told(path):
        module = sys.modules.get(name) or _import(file, name)
        found = [
            cls
            for cls in vars(module).values()
            if inspect.isclass(cls)
            and issubclass(cls, Method)
            and cls.__module__ == name
            and cls.name
        ]
        found = sorted(set(found), key=lambda cls: cls.__name__)
        names = ", ".join(str(cls.name) for cls in found) or "none"
        if len(found) != 1:
            raise MethodError(
                f"{path}: one class of methods.base.Method with a name expected: {names}"
            )
        if not isinstance(found[0].name, str) or set(found[0].name) & set(",:= "):
            raise MethodError(f"{path}: '{names}' cannot be the name of a method")
        if found[0].role != "method":
            known = "the reference and the controls are those of --list methods"
            raise MethodError(f"{path}: role '{found[0].role}', 'method' expected: {known}")
    return found[0]


def _import(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


@contextmanager
def told(path: str) -> Iterator[None]:
    """Whatever the code of a method file raises in here, as a :class:`MethodError` of one line.

    `SystemExit` and other exceptions that no `except Exception` sees are among it: a file that
    ends the process would end a run without a word.
    """
    try:
        yield
    except (MethodError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise MethodError(blamed(error) or f"{path}: {said(error)}") from error


def blamed(error: BaseException) -> str | None:
    """File, line and reason of an error that came out of a method file; None for other errors."""
    place = None
    if isinstance(error, SyntaxError) and error.filename in SHOWN:
        place = error.filename, error.lineno
    trace = error.__traceback__
    while trace is not None:  # the innermost line of the file is where it went wrong
        if trace.tb_frame.f_code.co_filename in SHOWN:
            place = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    return None if place is None else f"{SHOWN[place[0]]}, line {place[1]}: {said(error)}"


def said(error: BaseException) -> str:
    """Type and first line of an error, whatever its own `__str__` does."""
    try:
        first = (str(error).splitlines() or [""])[0]
    except Exception:
        first = ""
    if isinstance(error, SyntaxError):
        first = str(error.msg)  # without its file and line, which are said already
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
