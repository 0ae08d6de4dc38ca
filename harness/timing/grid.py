"""What is going to be timed, and whether it fits; nothing is built yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.families.shapes import ModelShape
from harness.options.load import Load
from harness.options.runtime import Runtime
from harness.options.settings import Settings
from harness.options.workload import Pictures, Workload, fewest, image_choices, pictures
from harness.store.cells import ID_LENGTH, package_versions
from harness.timing.device import cores, cpu_name, free_host_bytes
from harness.timing.fit import require_fit

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
QUESTION = 16  # text tokens that a document's prompt has at least
BEST_ATTN = "sdpa"  # what `auto` takes everywhere


@dataclass(frozen=True)
class TimingGrid:
    """Methods (dense first) by workloads, and the conditions they are timed under.

    ``source`` is None for random weights; ``config`` is the complete config then.
    """

    settings: Settings
    methods: tuple[Any, ...]
    workloads: tuple[Workload | Load, ...]
    model: str  # as tables call it
    shape: ModelShape
    config: Mapping[str, Any]
    source: Any
    runtime: Runtime
    device_name: str
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)  # method -> hashes of its weights
    data: Mapping[str, str] = field(default_factory=dict)  # bench -> what is read, where known
    content: Mapping[str, str] = field(default_factory=dict)  # own data -> hash of its documents
    notes: tuple[str, ...] = ()

    @property
    def itemsize(self) -> int:
        """Bytes of one number in the run's dtype."""
        return ITEMSIZE[self.runtime.dtype]

    @property
    def mini(self) -> bool:
        """Whether numbers come from the shipped mini model."""
        return bool(self.source is not None and self.source.mini)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """What the weights are: hashes of files, or the seed they are drawn from."""
        if self.source is None:
            return {"random": self.settings.seed, "config": _digest(dict(self.config))}
        return {"revision": self.source.revision, "files": self.source.file_hashes}

    @property
    def recorded(self) -> dict[str, Any]:
        """The settings a run directory belongs to, with every ``auto`` resolved."""
        return {
            **self.settings.recorded(),
            "methods": [method.spec for method in self.methods],
            "workload": [work.spec for work in self.workloads],
            "device": self.runtime.device,
            "dtype": self.runtime.dtype,
            "attn": self.runtime.attn,
            "threads": self.runtime.threads,
        }

    def protocol(self, work: Workload | Load) -> str:
        """How the documents of a workload are asked; empty where it asks none."""
        return str(self.settings.asking) if work.bench else ""

    def cell_id(self, method: Any, work: Workload | Load, attn: str, engine: str) -> str:
        """A hash over everything that can change a cell's times."""
        asked = self.settings
        return _digest(
            {
                "method": [method.name, method.params(), method.source_hash()],
                "engine": engine,
                "versions": package_versions(),
                "model": [self.model, self.weights, self.trained.get(method.name)],
                "workload": [
                    work.spec,
                    asked.data,
                    asked.limit if work.bench else None,
                    *filter(None, [self.content.get(work.bench)]),
                ],
                "protocol": self.protocol(work),
                "device": [self.device_name, self.runtime.dtype, attn, asked.seed],
                "rounds": [asked.repeats, asked.warmup, asked.min_seconds, asked.max_seconds],
                "kind": "throughput",
            }
        )[:ID_LENGTH]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def device_name(wish: str) -> str:
    """The real name of the device behind a wish, with what makes its times another's."""
    import torch

    from harness.model.loading import pick_device

    device = pick_device(wish)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return cpu_name() + ("" if threads == cores() else f", {threads} in use")


def check_fit(grid: TimingGrid, workloads: Sequence[Workload | Load]) -> None:
    """Refuse workloads that cannot fit the free memory. Raises UsageError, one line."""
    free = free_bytes(grid.settings.device, grid.runtime.device)
    for work in workloads:
        sized, pics = _sized(grid.shape, work)
        attn, device = grid.runtime.attn, grid.device_name
        asked = "--concurrency" if isinstance(work, Load) else "--workload"
        require_fit(grid.shape, sized, pics, grid.itemsize, attn, free, device, flag=asked)


def _sized(shape: ModelShape, work: Workload | Load) -> tuple[Workload, Pictures]:
    """The prompt to predict for. Documents are not read yet: a short question on one image.

    Under load, every request as long as any, on the images that make the most tokens.
    """
    if isinstance(work, Load):
        drawn = work.middle.n_image is None and not work.bench
        work = work.largest
        if drawn:
            return work, max(image_choices(shape), key=lambda one: one.tokens)
    if work.bench:
        return replace(work, n_text=QUESTION), fewest(shape)
    return work, pictures(shape, work.n_image)


def free_bytes(wish: str, kind: str) -> int | None:
    """Memory that can be had on the device; None when nobody knows."""
    if kind == "cuda":
        import torch

        from harness.model.loading import pick_device

        return int(torch.cuda.mem_get_info(pick_device(wish))[0])
    return free_host_bytes()


def is_dense(method: Any) -> bool:
    """Whether a method is the reference."""
    return bool(method.role == "reference")
