"""JSON that others wrote: whatever is wrong with it is a ValueError. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value in ``text``. Raises ValueError, also for one nested deeper than Python can go."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> Any:
    """The value in a file. Raises OSError and, like :func:`parse_json`, ValueError."""
    return parse_json(path.read_text(encoding="utf-8"))
