"""From settings to what is going to be timed: all names resolved, nothing built yet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.families.shapes import ModelShape, config_for, shape_from_config
from harness.jobs.parts import Parts, Runtime
from harness.jobs.plan import (
    DENSE,
    check_methods,
    find_checkpoints,
    with_dense,
    with_trained_parameters,
)
from harness.options.settings import Settings
from harness.options.workload import Pictures, Workload, fewest, parse_workload, pictures
from harness.store.cells import ID_LENGTH, package_versions
from harness.timing.device import cores, cpu_name, free_host_bytes
from harness.timing.fit import require_fit
from harness.timing.ratios import FEWEST
from harness.timing.shape import random_config, random_name

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}
QUESTION = 16  # text tokens that a document's prompt has at least
BEST_ATTN = "sdpa"  # what `auto` takes everywhere


@dataclass(frozen=True)
class TimingPlan:
    """Methods (dense first) by workloads, and the conditions they are timed under.

    ``source`` is None for random weights; ``config`` is the complete config then.
    """

    settings: Settings
    methods: tuple[Any, ...]
    workloads: tuple[Workload, ...]
    model: str  # as tables call it
    shape: ModelShape
    config: Mapping[str, Any]
    source: Any
    runtime: Runtime
    device_name: str
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    trained: Mapping[str, Any] = field(default_factory=dict)  # method -> hashes of its weights
    data: Mapping[str, str] = field(default_factory=dict)  # bench -> what is read, where known
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
        }

    def cell_id(self, method: Any, work: Workload, attn: str, engine: str) -> str:
        """A hash over everything that can change a cell's times."""
        asked = self.settings
        return _digest(
            {
                "method": [method.name, method.params(), method.source_hash()],
                "engine": engine,
                "versions": package_versions(),
                "model": [self.model, self.weights, self.trained.get(method.name)],
                "workload": [work.spec, asked.data, asked.limit if work.bench else None],
                "device": [self.device_name, self.runtime.dtype, attn, asked.seed],
                "rounds": [asked.repeats, asked.warmup, asked.min_seconds, asked.max_seconds],
                "kind": "throughput",
            }
        )[:ID_LENGTH]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_timing_plan(settings: Settings, parts: Parts) -> TimingPlan:
    """Resolve names, sizes and the device. Raises UsageError with one line; builds nothing."""
    check_rounds(settings)
    methods = with_dense(parts.methods(settings.methods), parts)
    work = _workloads(settings)
    plan = (
        _random(settings, methods) if settings.random_weights else _real(settings, methods, parts)
    )
    plan = replace(plan, workloads=tuple(work), data=_data(settings, work, plan.source, parts))
    check_methods(plan.methods, plan.shape)
    return plan


def _data(settings: Settings, work: list[Workload], source: Any, parts: Parts) -> dict[str, str]:
    """Bench -> the data it is timed on. Raises UsageError for benches that there are not."""
    names = dict.fromkeys(one.bench for one in work if one.bench)
    if names and source is None:
        raise UsageError("--workload: documents need a processor: leave out --random-weights")
    return {name: parts.bench(name, settings.data, source).data for name in names}


def check_rounds(settings: Settings) -> None:
    """Refuse rounds and settings that no time can be had with. Raises UsageError, one line."""
    if settings.repeats < FEWEST:
        raise UsageError(
            f"--repeats: {settings.repeats} rounds are too few for a 95 % interval of a median "
            f"ratio; at least {FEWEST}, the protocol asks for {Settings().repeats}"
        )
    if settings.batch_size == "auto":
        raise UsageError("--batch-size: a time belongs to one batch size; give a number")
    if settings.random_weights and settings.bench:
        raise UsageError("--bench: documents need a processor: leave out --random-weights")
    if settings.random_weights and settings.checkpoint:
        raise UsageError("--checkpoint has no meaning with --random-weights")


def of_benches(settings: Settings) -> list[Workload]:
    """One workload a bench, at the run's answer length and batch size."""
    batch = int(settings.batch_size)
    return [Workload(bench=name, n_out=settings.n_out, batch=batch) for name in settings.bench]


def _workloads(settings: Settings) -> list[Workload]:
    found = [parse_workload(text) for text in settings.workload] + of_benches(settings)
    if found and (settings.n_text != Settings().n_text):
        raise UsageError("--n-text has no meaning beside --workload or --bench")
    return found or [Workload(settings.n_text, None, settings.n_out, int(settings.batch_size))]


def _random(settings: Settings, methods: list[Any]) -> TimingPlan:
    from harness.timing.subject import for_random_weights

    runtime, device_name = _runtime(settings, mini=False)
    name = random_name(settings.model, settings.layers, settings.width)
    config = random_config(config_for(settings.model), name, settings.layers, settings.width)
    changed = [for_random_weights(method) for method in methods]
    return TimingPlan(
        settings=settings,
        methods=tuple(method for method, _ in changed),
        workloads=(),
        model=name,
        shape=shape_from_config(config, name),
        config=config,
        source=None,
        runtime=runtime,
        device_name=device_name,
        notes=tuple(note for _, note in changed if note),
    )


def _real(settings: Settings, methods: list[Any], parts: Parts) -> TimingPlan:
    source = parts.source(settings.model)
    checkpoints = find_checkpoints(settings, methods, source, parts)
    methods = with_trained_parameters(methods, checkpoints, parts)
    runtime, device_name = _runtime(settings, mini=source.mini)
    return TimingPlan(
        settings=settings,
        methods=tuple(methods),
        workloads=(),
        model=source.model_id,
        shape=source.info,
        config=source.config,
        source=source,
        runtime=runtime,
        device_name=device_name,
        checkpoints=checkpoints,
        trained={name: parts.checkpoint_hashes(path) for name, path in checkpoints.items()},
    )


def _runtime(settings: Settings, mini: bool) -> tuple[Runtime, str]:
    from harness.model.loading import pick_attention, pick_device, pick_dtype

    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device, mini=mini)
    attn = pick_attention(settings.attn, device, dtype)
    runtime = Runtime(device.type, str(dtype).removeprefix("torch."), attn)
    return runtime, device_name(settings.device)


def device_name(wish: str) -> str:
    """The real name of the device behind a wish, with what makes its times another's."""
    import torch

    from harness.model.loading import pick_device

    device = pick_device(wish)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return cpu_name() + ("" if threads == cores() else f", {threads} in use")


def check_fit(plan: TimingPlan, workloads: Sequence[Workload]) -> None:
    """Refuse workloads that cannot fit the free memory. Raises UsageError, one line."""
    free = free_bytes(plan.settings.device, plan.runtime.device)
    for work in workloads:
        sized, pics = _sized(plan.shape, work)
        require_fit(
            plan.shape, sized, pics, plan.itemsize, plan.runtime.attn, free, plan.device_name
        )


def _sized(shape: ModelShape, work: Workload) -> tuple[Workload, Pictures]:
    """The prompt to predict for. Documents are not read yet: a short question on one image."""
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
    return bool(method.name == DENSE)
