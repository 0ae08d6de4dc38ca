"""`--cluster SPEC`: where the shares of a run are computed. Torch-free.

local:4                                          four tasks on this machine
slurm:partition=gpu:gpus=1:time=4h:16            an array of sixteen, each with one GPU
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown

KINDS = ("local", "slurm")
TASKS = 8  # where the spec does not say
UNITS = {"min": 1, "h": 60, "d": 24 * 60}
TIME = re.compile(r"([1-9]\d{0,5})(min|h|d)?", re.ASCII)
MEMORY = re.compile(r"([1-9]\d{0,5})(?:GB?)?", re.ASCII | re.IGNORECASE)
NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)


def _number(text: str) -> int:
    if not NUMBER.fullmatch(text):
        raise UsageError(f"a whole number of at least 1, not '{text}'")
    return int(text)


def _minutes(text: str) -> int:
    found = TIME.fullmatch(text)
    if not found:
        raise UsageError(f"minutes, or 90min, 4h, 2d, not '{text}'")
    return int(found[1]) * UNITS[found[2] or "min"]


def _gigabytes(text: str) -> int:
    found = MEMORY.fullmatch(text)
    if not found:
        raise UsageError(f"gigabytes (64 or 64GB), not '{text}'")
    return int(found[1])


# Key -> what submitit calls it, and what makes the value of its text.
KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "partition": ("slurm_partition", str),
    "account": ("slurm_account", str),
    "qos": ("slurm_qos", str),
    "constraint": ("slurm_constraint", str),
    "gpus": ("gpus_per_node", _number),
    "cpus": ("cpus_per_task", _number),
    "mem": ("mem_gb", _gigabytes),
    "time": ("timeout_min", _minutes),
    "parallel": ("slurm_array_parallelism", _number),
}


@dataclass(frozen=True)
class ClusterSpec:
    """``tasks``: how many shares. ``wishes``: key -> text, as it was written."""

    kind: str
    tasks: int = TASKS
    wishes: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The canonical text; parsing it gives the same again."""
        return ":".join([self.kind, *(f"{k}={v}" for k, v in self.wishes.items()), str(self.tasks)])

    @property
    def parameters(self) -> dict[str, Any]:
        """What submitit's executor is asked for."""
        return {KEYS[key][0]: KEYS[key][1](text) for key, text in self.wishes.items()}


def parse_cluster(text: str) -> ClusterSpec:
    """The spec of a text. Raises UsageError, one line."""
    kind, *parts = (part.strip() for part in text.split(":"))
    if kind not in KINDS:
        raise UsageError(unknown("kind of cluster", kind, KINDS))
    tasks = TASKS
    if parts and "=" not in parts[-1]:
        try:
            tasks = _number(parts.pop())
        except UsageError as error:
            raise UsageError(f"'{text}' ends with the number of tasks: {error}") from None
    elif kind == "local":
        raise UsageError(f"'{text}' does not say how many tasks: {text.rstrip(':')}:2")
    wishes: dict[str, str] = {}
    for part in parts:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if kind == "local":
            raise UsageError(f"'{part}' has no meaning with local: it is local:N")
        if key not in KEYS:
            raise UsageError(unknown("key", key, KEYS, f"in '{text}'"))
        if not (equals and value):
            raise UsageError(f"'{part}' in '{text}' is not key=value")
        if key in wishes:
            raise UsageError(f"{key} stands twice in '{text}'")
        try:
            KEYS[key][1](value)
        except UsageError as error:
            raise UsageError(f"{key} is {error}") from None
        wishes[key] = value
    if kind == "slurm" and "time" not in wishes:
        raise UsageError(f"'{text}' does not say for how long: add time=4h")
    return ClusterSpec(kind, tasks, wishes)
