"""What a model folder may ask of its reader and is never given: code of its own, above all.

Everything is told from the JSON files, before the library sees the folder. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.jsonfile import read_json

ADAPTER = "adapter_config.json"
CODE = "custom_generate"  # a folder with a generate() of the model's own
# Key, at any depth of a config -> what it asks for and what to do instead.
REFUSED = {
    "auto_map": "code of its own, which is never run: use a model that the library knows by itself",
    "quantization_config": "quantised weights; use the floating-point ones",
    "transformers_weights": "weight files under other names; use model.safetensors or its index",
}


def refuse_foreign(folder: Path) -> None:
    """Raise UsageError, one line, where loading a folder would need more than it is trusted with.

    That is code (`auto_map` in any config, `custom_generate`), an adapter (loaded on top without
    being asked), quantised weights, and weights under names that were not checked.
    """
    for name, what in ((ADAPTER, "an adapter; merge it first"), (CODE, REFUSED["auto_map"])):
        if (folder / name).exists():
            raise UsageError(f"{folder / name}: the model asks for {what}")
    for path in sorted(folder.glob("*config.json")):
        try:
            content = read_json(path)
        except (OSError, ValueError):
            raise UsageError(f"{path}: not readable as JSON") from None
        refuse_keys(content, str(path))


def refuse_keys(config: Any, name: str) -> None:
    """`refuse_foreign` for a config in dict form; ``name`` is what the line calls it."""
    for key, value in _entries(config):
        if value and key in REFUSED:
            raise UsageError(f"{name}: '{key}' asks for {REFUSED[key]}")


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values of nested dicts and lists."""
    rest = [config]
    while rest:
        here = rest.pop()
        if isinstance(here, Mapping):
            yield from here.items()
            rest += here.values()
        elif isinstance(here, list):
            rest += here
