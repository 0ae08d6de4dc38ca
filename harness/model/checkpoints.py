"""Weights of trained methods: a folder with ``method.json`` and ``model.safetensors``.

Tensor names
  router.<name>              the method's own modules (state dict of ``build_modules``)
  delta.<parameter>.A / .B   low-rank update of a dense weight, W + B @ A, A [r, in], B [out, r]
  <parameter>                a full tensor that replaces the dense one
Updates are in place while a method is active and taken back bit for bit afterwards, so one loaded
model serves every method in turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError
from harness.common.jsonfile import read_json
from harness.families.catalog import FAMILIES
from harness.model.tensorfiles import read_weights, write_weights, write_whole
from methods import build
from methods.base import Method, MethodError, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

DENSE, CLIP = "dense", "clip"
META = "method.json"


class CheckpointError(ValueError):
    """A checkpoint does not fit or cannot be read; the message is one line for the user."""


@dataclass
class Loaded:
    """A checkpoint in memory, ready to be put under a model."""

    method: Method  # the user's parameters where given, the checkpoint's elsewhere
    modules: nn.Module | None  # None for a method without modules of its own
    deltas: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    full: dict[str, Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    clip: Any = None  # methods.base.Clip, where the folder is a CLIP model

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The dense weights updated in place while open, restored bit for bit on exit."""
        import torch

        parameters = dict(model.named_parameters())
        saved: dict[str, Tensor] = {}
        try:
            with torch.no_grad():
                for name, value in self._updates(parameters):
                    # Kept on the host: only one set of weights stays on the device.
                    saved[name] = parameters[name].detach().to("cpu", copy=True)
                    parameters[name].copy_(value)
            yield
        finally:
            with torch.no_grad():
                for name, value in saved.items():
                    parameters[name].copy_(value)

    def _updates(self, parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.full.items():
            yield name, value.to(parameters[name].device)
        for name, (a, b) in self.deltas.items():
            old = parameters[name]
            yield name, old.float() + b.to(old.device).float() @ a.to(old.device).float()


def read_meta(path: str | Path) -> dict[str, Any]:
    """``method.json`` of a checkpoint folder; a CLIP model stands for itself."""
    from harness.model.clip import is_clip

    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint folder {folder}")
    if not (folder / META).exists() and is_clip(folder):
        return {"method": CLIP}
    try:
        meta = read_json(folder / META)
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {META}: it is not a method checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / META} cannot be read: {error}") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("method"), str):
        raise CheckpointError(f"{folder / META} names no method")
    return meta


def resolve_method(path: str | Path, method: Method) -> Method:
    """The method with the checkpoint's parameters wherever the user left the default.

    Reads ``method.json`` only. A checkpoint of another method is an error, with one exception:
    weights of `dense` are what a training-free method works on, and leave its parameters alone.
    A method that reads CLIP takes a CLIP model instead.
    """
    meta = read_meta(path)
    if method.reads_clip != (meta["method"] == CLIP):
        raise CheckpointError(
            f"{method.spec} needs the CLIP model of the vision tower, {path} is none"
            if method.reads_clip
            else f"{path} is a CLIP model, which {method.spec} does not read"
        )
    if method.reads_clip:
        return method
    if meta["method"] == DENSE and not method.trained:
        return method
    if meta["method"] != method.name:
        raise CheckpointError(f"{path} was trained for '{meta['method']}', not '{method.name}'")
    values = dict(meta.get("params") or {})
    for entry in fields(method):
        if getattr(method, entry.name) != entry.default:
            values[entry.name] = getattr(method, entry.name)
    try:
        return build(method.name, values)
    except MethodError as error:
        raise CheckpointError(f"{path}: {error}") from None


def load_checkpoint(
    path: str | Path,
    model: nn.Module,
    method: Method,
    base: str | None = None,
    read: dict[Path, Any] | None = None,
) -> Loaded:
    """Read and check a checkpoint for ``method`` on ``model``; nothing is applied yet.

    ``base``: sha256 of the dense weights in use; compared with the one the checkpoint names.
    ``read``: folder -> what its files held, taken from there and added to (`model.session`).
    """
    from harness.engine.model import model_info

    read = {} if read is None else read
    folder = Path(path).resolve()

    method = resolve_method(path, method)
    meta, info = read_meta(path), model_info(model)
    if method.reads_clip:
        from harness.model.clip import load_clip

        method.fits(info)
        if folder not in read:
            read[folder] = load_clip(path, model)
        return Loaded(method, None, meta=meta, clip=read[folder])
    _check_model(path, meta, info, base)
    method.fits(info)
    if folder not in read:
        try:
            read[folder] = read_weights(Path(path))
        except UsageError as error:
            raise CheckpointError(str(error)) from None
    tensors = read[folder]
    routers = {k[7:]: v for k, v in tensors.items() if k.startswith("router.")}
    parameters = dict(model.named_parameters())
    first = next(iter(parameters.values()))
    wanted = method.build_modules(info)
    if wanted is not None:
        _fill(path, wanted, routers, method, info)
        wanted = wanted.to(first.device, first.dtype).eval()
    elif routers:
        raise CheckpointError(f"{path} has a router, which {method.name} does not")
    loaded = Loaded(method, wanted, meta=meta)
    for name, value in tensors.items():
        if name.startswith("router."):
            continue
        if name.startswith("delta."):
            _take_delta(path, name, tensors, parameters, loaded)
        else:
            target = _in_memory(name, parameters)
            _fits(path, name, target, tuple(value.shape), parameters)
            loaded.full[target] = value
    return loaded


def save_checkpoint(
    path: str | Path,
    method: Method,
    modules: nn.Module | None,
    info: ModelInfo,
    deltas: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    full: Mapping[str, Tensor] | None = None,
    base: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder; each file appears whole or not at all.

    Weights over `tensorfiles.SHARD` are split over files with an index, as in model folders.
    """
    routers = modules.state_dict() if modules is not None else {}
    tensors = {f"router.{k}": v for k, v in routers.items()}
    for name, (a, b) in (deltas or {}).items():
        tensors |= {f"delta.{name}.A": a, f"delta.{name}.B": b}
    tensors |= dict(full or {})
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, tensors)
    describe(folder, method, info, base, training)


def describe(
    folder: Path,
    method: Method,
    info: ModelInfo,
    base: str | None = None,
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write ``method.json``, which makes a folder of weights a checkpoint of ``method``."""
    meta = {
        "method": method.name,
        "params": method.params(),
        "model": {"layers": info.layers, "width": info.width},
        "base": base,
        "training": dict(training or {}),
    }
    write_whole(folder / META, (json.dumps(meta, indent=2, sort_keys=True) + "\n").encode())


def _check_model(path: str | Path, meta: dict[str, Any], info: ModelInfo, base: str | None) -> None:
    said = meta.get("model") or {}
    for key, have in (("layers", info.layers), ("width", info.width)):
        if key in said and said[key] != have:
            raise CheckpointError(
                f"{path} was trained on a model with {said[key]} {key}, this one has {have}"
                if key == "layers"
                else f"{path} was trained on a model of width {said[key]}, this one has {have}"
            )
    if base is not None and meta.get("base") not in (None, base):
        raise CheckpointError(f"{path} was trained from other dense weights than the loaded ones")


def _fill(
    path: str | Path, modules: nn.Module, found: dict[str, Tensor], method: Method, info: ModelInfo
) -> None:
    """Load router tensors into fresh modules; nothing may be missing, left over or misshapen."""
    wanted = modules.state_dict()
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        what = f"lacks router.{missing[0]}" if missing else f"has router.{extra[0]} too many"
        raise CheckpointError(
            f"{path} {what}: weights of another depth, or of other parameters than "
            f"'{method.spec}' on {info.layers} layers"
        )
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise CheckpointError(
                f"{path}: router.{name} has shape {list(found[name].shape)}, this model of width "
                f"{info.width} needs {list(value.shape)}"
            )
    modules.load_state_dict(found)


def _take_delta(
    path: str | Path,
    name: str,
    tensors: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
    loaded: Loaded,
) -> None:
    stem, _, part = name.rpartition(".")
    if part not in ("A", "B") or not {f"{stem}.A", f"{stem}.B"} <= tensors.keys():
        raise CheckpointError(f"{path}: {name} has no partner, .A and .B belong together")
    a, b = tensors[f"{stem}.A"], tensors[f"{stem}.B"]
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
        raise CheckpointError(f"{path}: the ranks of {stem}.A and .B differ")
    target = _in_memory(stem.removeprefix("delta."), parameters)
    _fits(path, name, target, (b.shape[0], a.shape[1]), parameters)
    loaded.deltas[target] = (a, b)


def _in_memory(name: str, parameters: Mapping[str, Tensor]) -> str:
    if name not in parameters:
        for old, new in (pair for family in FAMILIES.values() for pair in family.renamed):
            if name.startswith(old):
                return new + name.removeprefix(old)
    return name


def _fits(
    path: str | Path,
    name: str,
    target: str,
    shape: tuple[int, ...],
    parameters: Mapping[str, Tensor],
) -> None:
    if target not in parameters:
        raise CheckpointError(f"{path}: {name} names no parameter of this model")
    if tuple(parameters[target].shape) != shape:
        raise CheckpointError(
            f"{path}: {name} fits a weight of shape {list(shape)}, this model's has "
            f"{list(parameters[target].shape)}"
        )
