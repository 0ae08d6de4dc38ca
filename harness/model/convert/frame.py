"""Converting a released folder: what it is, whether everything is there, and writing it over.

Everything is compared before anything is written, by names and shapes: the layout's map against an
instantiated model of the target's config (on the `meta` device). Then the source is read a file at
a time. The result lies under another name until it is whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.families.catalog import REGISTRY, info_of, shape_from_config
from harness.model.checkpoints import describe, save_checkpoint
from harness.model.convert.layout import METHOD, MODEL, Source, Target
from harness.model.convert.registry import target_of
from harness.model.convert.released import Weights, listed
from harness.model.convert.writer import Writer
from harness.model.quiet import quiet_library
from harness.model.weights import file_hash, weight_files

if TYPE_CHECKING:
    from torch import Tensor

    from methods.base import ModelInfo

Tell = Callable[[str], None]
NO_METHOD = ""


@dataclass(frozen=True)
class Converted:
    """What was made: the layout's name, the method beside the model, lines for the user."""

    layout: str
    method: str  # `NO_METHOD` for a dense model alone
    whole: bool  # False: a checkpoint only, of a method on a model that lies elsewhere
    notes: list[str]
    left_out: list[str]  # released names that go nowhere, on purpose


@dataclass
class Plan:
    """Released names by where they go. ``made``: parameter -> the names that it is made of."""

    made: dict[str, list[str]]
    method: dict[str, str]  # released name -> the method's
    left_out: list[str]


def source_of(folder: Path, tower: Path | None = None) -> Source:
    """The released files in a folder. Raises UsageError where there are none, or an adapter's."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder}: no readable config.json ({one_line(error, 120)})") from None
    if not isinstance(config, dict):
        raise UsageError(f"{folder}: config.json is no mapping")
    if config.get("quantization_config"):
        raise UsageError(f"{folder}: quantised weights; give the floating-point ones")
    return Source(folder, config, Weights(folder), tower)


def convert_into(source: Source, out: Path, tell: Tell) -> Converted:
    """Write into the existing folder ``out`` what ``source`` becomes.

    Raises UsageError, one line, for whatever is not understood, missing, extra or misshapen.
    """
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    with quiet_library():
        layout, target = target_of(source)
        config, model, shapes, same = _model(source, target)
        plan = _plan(source, target, shapes, same)
        tell(f"{source.folder}: {layout}, {len(plan.made)} parameters")
        method, modules, info = None, None, None
        if target.method is not None:
            info = _info(source, target)
            method, modules = target.method(_of_method(target, plan), info)
        writer = Writer(out)
        _write(source, target, plan, shapes, writer)
        training = {"converted": source.folder.name, "layout": layout}
        if target.only is not None:
            assert method is not None and info is not None
            for name, value in (modules.state_dict() if modules is not None else {}).items():
                writer.add(f"router.{name}", value)
            writer.close()
            describe(out, method, info, None, training)
        else:
            writer.close()
            config.architectures = [model]
            config.dtype = writer.dtype
            config.save_pretrained(out)
            target.processor(out)
            _generation(source).save_pretrained(out)
            if method is not None and info is not None:
                files = weight_files(out)
                base = file_hash(files[0]) if len(files) == 1 else None
                save_checkpoint(
                    out / method.name, method, modules, info, base=base, training=training
                )
    return Converted(
        layout=layout,
        method=method.name if method is not None else NO_METHOD,
        whole=target.only is None,
        notes=target.notes,
        left_out=sorted(plan.left_out),
    )


def _model(
    source: Source, target: Target
) -> tuple[Any, str, dict[str, tuple[int, ...]], dict[str, str]]:
    """(config, class name, parameter -> shape, tied parameter -> the one it is)."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    said = target.config
    family = REGISTRY.get(said["model_type"])
    try:
        if family is None:  # a family that this harness does not run, and the library does
            fields = {key: value for key, value in said.items() if key != "model_type"}
            config = AutoConfig.for_model(said["model_type"], **fields)
            make: Any = AutoModelForImageTextToText.from_config
        else:
            family.completed(said, str(source.folder))
            fields = {key: value for key, value in said.items() if key != "model_type"}
            config = family.config_class()(**fields)
            make = family.model_class()._from_config
        with torch.device("meta"):
            model = make(config)
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise source.refuse(f"no model of its sizes can be made: {one_line(error, 200)}") from None
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    same = dict(getattr(model, "all_tied_weights_keys", None) or {})
    return config, type(model).__name__, shapes, same


def _plan(
    source: Source, target: Target, shapes: dict[str, tuple[int, ...]], same: dict[str, str]
) -> Plan:
    """Where everything goes. Raises UsageError naming the first few of what does not fit."""
    plan, strange = Plan({}, {}, []), []
    released: dict[str, tuple[int, ...]] = {}
    for stream in target.streams:
        for name, shape in stream.weights.shapes.items():
            place = stream.place(name)
            if place is None or (place.part == MODEL and place.name not in shapes):
                strange.append(name)
            elif place.part == MODEL:
                plan.made.setdefault(place.name, []).append(name)
                released[name] = shape
            elif place.part == METHOD:
                plan.method[name] = place.name
            else:
                plan.left_out.append(name)
    if strange:
        raise source.refuse(f"{len(strange)} tensors that its layout has not: {listed(strange)}")
    _nothing_missing(source, target, plan, shapes, same)
    misshapen = []
    for name, parts in plan.made.items():
        if len(parts) > 1 and target.join is None:
            raise source.refuse(f"{listed(parts)} are the same parameter twice")
        shape = _joined_shape(source, target, name, {one: released[one] for one in parts})
        wanted = shapes[name]
        taller = name in target.rows and shape[1:] == wanted[1:] and 0 < shape[0] <= wanted[0]
        if shape != wanted and not taller:
            misshapen.append(f"{parts[0]} is {list(shape)} and should be {list(wanted)}")
    if misshapen:
        raise source.refuse(
            f"{len(misshapen)} tensors of other shapes than its config says: {listed(misshapen)}"
        )
    return plan


def _nothing_missing(
    source: Source,
    target: Target,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    same: dict[str, str],
) -> None:
    def wanted(name: str) -> bool:
        return target.only is None or name.startswith(target.only)

    missing = [n for n in shapes if n not in plan.made and n not in same and wanted(n)]
    if missing:
        raise source.refuse(
            f"{len(missing)} parameters are in no tensor of it, by their names here: "
            f"{listed(missing)}"
        )


def _joined_shape(
    source: Source, target: Target, name: str, parts: dict[str, tuple[int, ...]]
) -> tuple[int, ...]:
    if target.join is None:
        return next(iter(parts.values()))
    import torch

    empty = {one: torch.empty(shape, device="meta") for one, shape in parts.items()}
    try:
        return tuple(target.join(name, empty).shape)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise source.refuse(
            f"{listed(parts)} do not fit together: {one_line(error, 120)}"
        ) from None


def _of_method(target: Target, plan: Plan) -> dict[str, Tensor]:
    """The method's tensors, under the names that the layout gave them."""
    own = target.streams[0].weights.tensors(plan.method)
    return {plan.method[name]: value.clone() for name, value in own}


def _write(
    source: Source,
    target: Target,
    plan: Plan,
    shapes: dict[str, tuple[int, ...]],
    writer: Writer,
) -> None:
    """Write the dense parameters; parts of one are held until the last of them is read."""
    owner = {one: name for name, parts in plan.made.items() for one in parts}
    waiting: dict[str, dict[str, Tensor]] = {}
    for stream in target.streams:
        for one, value in stream.weights.tensors(owner):
            name = owner[one]
            if not value.is_floating_point():
                raise source.refuse(f"{one} is of whole numbers ({value.dtype})")
            parts = waiting.setdefault(name, {})
            parts[one] = value
            if len(parts) == len(plan.made[name]):
                del waiting[name]
                whole = target.join(name, parts) if target.join else value
                rows = shapes[name][0] if name in target.rows else None
                writer.add(name, whole if rows is None else _with_rows(whole, rows))


def _with_rows(value: Tensor, rows: int) -> Tensor:
    """[n, d] with mean rows behind it up to ``rows``.

    The logit of a mean row is the mean of the others and never the largest; a row of zeros would
    win wherever all others are below zero.
    """
    import torch

    short = rows - len(value)
    if not short:
        return value
    mean = value.mean(dim=0, keepdim=True, dtype=torch.float32).to(value.dtype)
    return torch.cat([value, mean.expand(short, -1)])


def _info(source: Source, target: Target) -> ModelInfo:
    """What the method may ask of the model; it needs a family of this harness."""
    return info_of(shape_from_config(target.config, str(source.folder)))


def _generation(source: Source) -> Any:
    """Greedy answers that end at the source's end token."""
    from transformers import GenerationConfig

    known = ("bos_token_id", "eos_token_id", "pad_token_id")
    return GenerationConfig(**{key: source.config[key] for key in known if key in source.config})
