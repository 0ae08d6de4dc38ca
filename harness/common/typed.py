"""A frozen dataclass from the mapping in a YAML file, every value of its field's type. Torch-free.

The types are those the fields are annotated with; pydantic checks them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from harness.common.errors import UsageError, one_line
from harness.common.nearest import unknown

T = TypeVar("T")


def make(kind: type[T], values: Any, shown: str) -> T:
    """A `kind` from the mapping `values`. Text that is a number counts as one (YAML's 1e-3).

    `shown`: how messages call what the values are of. Raises UsageError, one line: no mapping, an
    unknown or missing key, a value of another type, a number that is not finite.
    """
    known = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise UsageError(f"{shown}: '{values}' is not a mapping")
    for key in values:
        if key not in known:
            raise UsageError(f"{shown}: {unknown('key', str(key), known)}")
    hints = get_type_hints(kind)
    for key, value in values.items():  # pydantic would take 1 for true, and true for 1
        if hints[key] in (bool, int, float) and isinstance(value, bool) != (hints[key] is bool):
            raise UsageError(f"{shown}: {key}: {value!r} is no {hints[key].__name__}")
    try:
        made: T = TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            raise UsageError(f"{shown} lacks '{key}'") from None
        said = one_line(f"{first['input']!r}: {first['msg']}", 160)
        raise UsageError(f"{shown}: {key}: {said}") from None
    for key in known:
        value = getattr(made, key)
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{shown}: {key}: {value} is not a finite number")
    return made
