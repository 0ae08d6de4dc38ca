"""A model at its published size without any weights: would its first user meet a surprise?

On the ``meta`` device, in seconds: the library builds it from the config, the engine finds its
parts, every method says whether it fits and hangs its hooks, the counters agree on its parts, and
the memory predicted is that of the parameters really there. What only files can show (names of
tensors, tokenizer, templates) is not seen.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import methods
from harness.common.torchvision_ops import declare_missing_ops
from harness.cost.modules import decoder_like
from harness.cost.referees import referees_for
from harness.engine import EngineError, routed
from harness.engine.model import check_method, find_parts
from harness.families.catalog import config_for, family_of, shape_of
from harness.families.tiny import Clip
from harness.options.workload import Workload, pictures
from harness.timing.fit import need, weight_count
from harness.timing.shape import random_config
from methods.base import MethodError

ITEMSIZE = 2  # bfloat16


@dataclass(frozen=True)
class DryRun:
    """What was found. Counts are numbers, memory in bytes, FLOPs of one image."""

    model: str
    family: str
    parameters: int
    predicted: int  # parameters by the closed form that memory is predicted from
    memory: float  # predicted for the default workload of its ordinary image, bfloat16, batch 1
    vision_flops: float  # of the family's example image, by the closed form
    difference: float  # the largest among the three counters, relative
    works: tuple[str, ...]
    refused: tuple[str, ...]
    seconds: float

    @property
    def off(self) -> float:
        """Relative error of the predicted parameters."""
        return self.predicted / self.parameters - 1


def dry_run(name: str, specs: Sequence[str] | None = None) -> DryRun:
    """See above. Raises UsageError for a name whose sizes are not known or that does not load."""
    declare_missing_ops()
    started = time.perf_counter()
    config, shape = config_for(name), shape_of(name)
    family = family_of(config, name, sizes_only=True)
    full = random_config(config, name, None, None)
    made = family.config_class()(**{k: v for k, v in full.items() if k != "model_type"})
    with torch.device("meta"):
        model = family.model_class()._from_config(
            made, attn_implementation="sdpa", dtype=torch.bfloat16
        )
    parts = find_parts(model)
    counters = referees_for(shape, decoder_like(parts.layers[0], parts.config))
    works: list[str] = []
    refused: list[str] = []
    for spec in specs or methods.names():
        (works if _hangs(model, spec) else refused).append(spec)
    image = pictures(shape, None)
    work = Workload(n_text=58, n_out=32, batch=1)
    found = counters.examine()
    return DryRun(
        model=name,
        family=family.kind,
        parameters=sum(one.numel() for one in model.parameters()),
        predicted=weight_count(shape),
        memory=need(shape, work, image, ITEMSIZE, "sdpa").total,
        vision_flops=next(f.closed_form for f in found if f.scope == "vision"),
        difference=max(one.difference for one in found),
        works=tuple(works),
        refused=tuple(refused),
        seconds=time.perf_counter() - started,
    )


def _hangs(model: torch.nn.Module, spec: str) -> bool:
    """Whether a method fits, builds its modules and hangs its hooks on the model."""
    method = methods.parse(spec)
    try:
        parts = find_parts(model)
        check_method(parts, method)
        with torch.device("meta"):
            modules = method.build_modules(parts.info)
        clip = Clip(model) if method.reads_clip else None
        with routed(model, method, modules, clip=clip):
            return True
    except (MethodError, EngineError):
        return False
