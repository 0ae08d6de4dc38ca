"""The registry of methods. Importing it loads no torch; ``parse`` loads what it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from methods.base import Method, Role
from methods.files import PREFIX, load_file, told
from methods.nearest import nearest
from methods.params import MethodError, make


@dataclass(frozen=True)
class Entry:
    """One line of ``--list methods``."""

    target: str  # "module:Class"
    summary: str
    trained: bool = False  # needs --checkpoint (or shipped weights)
    role: Role = "method"  # as the class declares it; here since listing and reports load no class


REGISTRY: dict[str, Entry] = {
    "dense": Entry(
        "methods.dense:Dense", "the unchanged model, the reference of every table", role="reference"
    ),
    "mod": Entry(
        "methods.mod:MoD", "Mixture-of-Depths on vision tokens (Raposo et al. 2024)", trained=True
    ),
    "gamma": Entry(
        "methods.gamma:Gamma", "gamma-MoD: shared router, masked routing learning", trained=True
    ),
    "pmod": Entry(
        "methods.pmod:PMoD", "p-MoD: progressive ratio decay, TanhNorm, STRing", trained=True
    ),
    "fastv": Entry("methods.fastv:FastV", "drop image tokens by attention after layer k"),
    "llavolta": Entry("methods.llavolta:LLaVolta", "average-pool image tokens before layer k"),
    "divprune": Entry("methods.divprune:DivPrune", "keep image tokens that lie farthest apart"),
    "sparsevlm": Entry(
        "methods.sparsevlm:SparseVLM", "drop by attention of the text that matters, in stages"
    ),
    "cdpruner": Entry("methods.cdpruner:CDPruner", "keep a diverse set of relevant image tokens"),
    "mmtok": Entry("methods.mmtok:MMTok", "keep the image tokens that cover question and image"),
    "freevideollm": Entry(
        "methods.freevideollm:FreeVideoLLM", "video frames in three pooled and cropped streams"
    ),
    "fastervlm": Entry("methods.fastervlm:FasterVLM", "keep patches the class token looks at"),
    "mqt": Entry(
        "methods.mqt:MQT", "Matryoshka queries resample each crop to m tokens", trained=True
    ),
    "visionzip": Entry("methods.visionzip:VisionZip", "keep patches by attention, merge others"),
    "prumerge": Entry("methods.prumerge:PruMerge", "keep outliers of attention, merge neighbours"),
    "pyramiddrop": Entry("methods.pyramiddrop:PyramidDrop", "drop image tokens in three stages"),
    "scope": Entry("methods.scope:Scope", "keep patches that cover the image, by attention"),
    "vscan": Entry("methods.vscan:VScan", "keep patches by windows and image, merge, prune again"),
    "illava": Entry("methods.illava:ILLaVA", "merge the least attended, in the tower and after"),
    "random": Entry(
        "methods.random:RandomDrop", "control: keep random image tokens", role="control"
    ),
    "uniform": Entry(
        "methods.uniform:Uniform", "control: keep every so-manieth image token", role="control"
    ),
    "pool": Entry(
        "methods.pool:Pool",
        "control: 2-D average pooling before the language model",
        role="control",
    ),
    "downsample": Entry(
        "methods.downsample:Downsample",
        "control: the image shrunk ahead of its tower",
        role="control",
    ),
    "blind": Entry("methods.blind:Blind", "control: no image token at all", role="blind"),
    "plan": Entry("methods.plan:Planned", "one retention a layer, training-free (--analyse plan)"),
}


def of_role(role: Role) -> tuple[str, ...]:
    """The names of all methods with a role, in listing order."""
    return tuple(name for name, entry in REGISTRY.items() if entry.role == role)


(REFERENCE,) = of_role("reference")  # there is one of each
(BLIND,) = of_role("blind")
MATCHED = of_role("control")  # each at the budget of a method
CONTROLS = (*MATCHED, BLIND)
PROBE = "quarter"  # in no table and no listing: see ``methods.quarter``


def names() -> list[str]:
    """All method names, in listing order."""
    return list(REGISTRY)


def register_file(path: str) -> str:
    """Take up the method that a Python file defines, for this process; returns its name.

    Raises :class:`MethodError` with one line for a file that is missing, does not import, defines
    no method or several, or takes a name that another method has.
    """
    cls = load_file(path)
    target = f"{cls.__module__}:{cls.__name__}"
    entry = Entry(target, f"from {path}", bool(cls.trained), cls.role)
    if cls.name == PROBE or REGISTRY.setdefault(cls.name, entry).target != entry.target:
        raise MethodError(f"{path}: the name '{cls.name}' is taken, give the method another one")
    return cls.name


def load(name: str) -> type[Method]:
    """The class behind a name; :class:`MethodError` names the nearest one if there is none."""
    if name not in REGISTRY:
        close = nearest(name, REGISTRY, cutoff=0.0)
        raise MethodError(f"unknown method '{name}'; nearest is '{close}'")
    module, _, attribute = REGISTRY[name].target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def build(name: str, params: Mapping[str, Any] | None = None) -> Method:
    """A method from its name and named values (as a suite file gives them)."""
    cls = load(name)
    if not cls.__module__.startswith(PREFIX):
        return make(cls, params or {})
    with told(REGISTRY[name].summary.removeprefix("from ")):
        method = make(cls, params or {})
        _ = method.spec, method.label, method.params()  # what is written down of it later
    return method


def parse(text: str) -> Method:
    """One ``name[:key=value]...``; the name may be the path of a file that defines a method."""
    name, *parts = text.strip().split(":")
    if name.endswith(".py"):
        name = register_file(name)
    values: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not (equals and key and value):
            raise MethodError(f"{name}: '{part}' is not key=value")
        if key in values:
            raise MethodError(f"{name}: parameter '{key}' is given twice")
        values[key] = value
    return build(name, values)


def parse_list(text: str) -> list[Method]:
    """A comma list of methods; the same method with the same parameters twice is an error."""
    methods: list[Method] = []
    for part in text.split(","):
        method = parse(part)
        if method in methods:
            raise MethodError(f"method given twice with the same parameters: {method.spec}")
        methods.append(method)
    return methods
