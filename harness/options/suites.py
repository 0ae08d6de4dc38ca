"""YAML suites: a whole study declared in a file, with the same keys as the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.yamlfile import read_mapping
from harness.options.option import flag
from harness.options.settings import SETTING, SUITES, add_checkpoint
from harness.options.validators import place

DESCRIPTION = "description"
STUDY = "study"


def suite_names() -> list[str]:
    """The suites that ship, by file name without extension."""
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def suite_path(text: str) -> Path:
    """The file behind `--suite`: a path as it stands, or the name of a shipped suite."""
    path = Path(place(text))
    if path.is_file():
        return path
    shipped = SUITES / f"{text}.yaml"
    if shipped.is_file():
        return shipped
    raise UsageError(unknown("suite", path.stem, suite_names(), f"no file {text}"))


def describe(name: str) -> str:
    """The one-line description inside a shipped suite."""
    return str(read_mapping(SUITES / f"{name}.yaml").get(DESCRIPTION, ""))


def load_suite(path: Path) -> dict[str, Any]:
    """Settings values declared in a suite file, validated. Raises UsageError, one line."""
    values: dict[str, Any] = {}
    for key, value in read_mapping(path).items():
        name = str(key).replace("-", "_")
        if name == DESCRIPTION:
            continue
        option = SETTING.get(name)
        if option is None:
            keys = [flag(k)[2:] for k, one in SETTING.items() if one.in_suites]
            raise UsageError(f"{path}: " + unknown("key", str(key), [*keys, DESCRIPTION]))
        if not option.in_suites:
            raise UsageError(f"{path}: {flag(name)} belongs on the command line, not in a suite")
        if name == STUDY:
            values[name] = str(path)  # `harness.study` reads it
        elif name == "checkpoint":
            values[name] = _checkpoints(value, path)
        elif option.check is None:
            values[name] = _switch(name, value, path)
        else:
            values[name] = option.convert(_text(name, value, path), f"{path}: {key}")
    return values


def _text(name: str, value: Any, path: Path) -> str:
    """A YAML scalar, or list of scalars, as the flag would have been written."""
    if isinstance(value, list):
        if not SETTING[name].is_list:
            raise UsageError(f"{path}: {flag(name)[2:]} takes one value, not a list")
        return ",".join(_text(name, item, path) for item in value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UsageError(f"{path}: {flag(name)[2:]} takes a plain value")
    return str(value)


def _switch(name: str, value: Any, path: Path) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{path}: {flag(name)[2:]} is true or false, not '{value}'")
    return value


def _checkpoints(value: Any, path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    if isinstance(value, dict):
        value = [f"{name}={_text('checkpoint', to, path)}" for name, to in value.items()]
    if not isinstance(value, list):
        raise UsageError(f"{path}: checkpoint is a list of method=PATH, or method: PATH lines")
    for item in value:
        add_checkpoint(found, _text("checkpoint", item, path))
    return found
