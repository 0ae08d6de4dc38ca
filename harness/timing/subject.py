"""The model under test, and its methods, ready to take turns on one set of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from harness.engine import Run, model_info, routed
from harness.families.catalog import family_of
from harness.families.shapes import ModelShape

ROUTER_STD = 0.02  # of routers that are drawn at random: as the library draws its own weights


@dataclass
class Subject:
    """A method with everything it runs on.

    ``tensors``: parameter name -> the values its checkpoint gives a dense weight. They are
    exchanged by pointer, not by copying, so that taking turns costs nothing. ``attn``: another
    attention backend than the model's own. ``clip``: the tower's CLIP model, where it is read.
    """

    method: Any
    modules: nn.Module | None = None
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    attn: str = ""
    clip: Any = None

    @property
    def extra_bytes(self) -> int:
        """Memory that stands beside the dense weights while this method waits for its turn."""
        own = sum(p.nbytes for p in self.modules.parameters()) if self.modules is not None else 0
        return own + sum(t.nbytes for t in self.tensors.values())


@dataclass
class Bench:
    """The model on its device, and what it was built as."""

    model: Any
    shape: ModelShape
    processor: Any = None
    loaded: Any = None  # harness.model.session.Session, where it has files

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)


def build_random(
    config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, attn: str, seed: int
) -> Any:
    """A model of random weights, made on the device in its dtype: no copy on the host."""
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    family = family_of(config, "random weights")
    given = {key: value for key, value in config.items() if key != "model_type"}
    made = family.config_class()(**given)
    torch.manual_seed(seed)
    with device:
        model = family.model_class()._from_config(made, attn_implementation=attn, dtype=dtype)
    # Only the place: a change of dtype would also round the rotary tables.
    model = model.to(device).eval().requires_grad_(False)
    # A random model may say "end" at any moment: the answer's length is fixed elsewhere.
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def fresh(method: Any, model: Any, seed: int) -> Subject:
    """A method with newly drawn modules, so that a selection has something to rank."""
    modules = method.build_modules(model_info(model))
    if modules is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for value in modules.parameters():
                value.copy_(torch.randn(value.shape, generator=generator) * ROUTER_STD)
        modules = modules.to(device=model.device, dtype=model.dtype).eval().requires_grad_(False)
    return Subject(method, modules)


def trained(method: Any, bench: Bench, checkpoint: Path | None) -> Subject:
    """A method with its weights; the updates of dense weights are computed once."""
    if checkpoint is None:
        return Subject(method)
    weights = bench.loaded.weights(checkpoint, method)
    names = {*weights.deltas, *weights.full}
    with weights.applied(bench.model):
        parameters = dict(bench.model.named_parameters())
        tensors = {name: parameters[name].detach().clone() for name in sorted(names)}
    return Subject(weights.method, weights.modules, tensors, clip=weights.clip)


@contextmanager
def active(
    bench: Bench, subject: Subject, method: Any = None, record: bool = False
) -> Iterator[Run]:
    """The model under a subject's method; ``method`` may stand in for it (a watched copy)."""
    parameters = dict(bench.model.named_parameters()) if subject.tensors else {}
    before = {name: parameters[name].data for name in subject.tensors}
    usual = str(bench.model.config.text_config._attn_implementation)
    try:
        if subject.attn:
            bench.model.set_attn_implementation(subject.attn)
        for name, value in subject.tensors.items():
            parameters[name].data = value
        chosen = subject.method if method is None else method
        context = routed(bench.model, chosen, subject.modules, record, clip=subject.clip)
        with context as run:
            yield run
    finally:
        for name, value in before.items():
            parameters[name].data = value
        if subject.attn:
            bench.model.set_attn_implementation(usual)


def waiting_bytes(subjects: Sequence[Subject], own: Subject) -> int:
    """Memory of the other methods, which a method's own peak shall not contain."""
    return sum(s.extra_bytes for s in subjects if s is not own)
