"""What a layout says: whose folders it reads, what they become, and where each tensor goes.

A dense layout (`DenseLayout`) becomes a model folder. A method's layout (`MethodLayout`) is a dense
one with something more in it, which becomes a checkpoint of the method beside the model; it wraps
whichever dense layout the rest is. Torch-free at import.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.common.errors import UsageError
from harness.model.convert.released import Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from methods.base import Method, ModelInfo

MODEL, METHOD = "model", "method"


class Place(NamedTuple):
    """Where a released tensor goes: a part and the name there.

    ``part``: `MODEL`, a parameter of the dense model by its name in memory; `METHOD`, handed to
    `Target.method` under this name; None, left out on purpose.
    """

    part: str | None
    name: str = ""


LEFT_OUT = Place(None)
# From a released name to its place; None for a name that the layout has not.
Placing = Callable[[str], Place | None]


@dataclass(frozen=True)
class Source:
    """A released folder: its config as it stands and its weights.

    ``tower``: the folder of its vision tower, as the user gave it. ``sizes_only``: the tower's
    weights are not wanted.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: Weights
    tower: Path | None = None
    sizes_only: bool = False

    @property
    def names(self) -> set[str]:
        """Names of all its tensors."""
        return set(self.weights.shapes)

    def with_config(self, **changes: Any) -> Source:
        """The same under a changed config; None takes a field away."""
        config = {**self.config, **changes}
        return replace(self, config={k: v for k, v in config.items() if v is not None})

    def refuse(self, what: str) -> UsageError:
        """An error about it, to be raised."""
        return UsageError(f"{self.folder}: {what}")


@dataclass(frozen=True)
class Stream:
    """Weights that go into a target, and where."""

    weights: Weights
    place: Placing


@dataclass(frozen=True)
class Target:
    """What a source becomes.

    ``config``: the dense model's, as its family writes it. ``streams``: the source's weights, and
    those of a tower that lies elsewhere. ``rows``: parameters with a row a word, which may have
    more rows than the source, filled with the mean of the given ones: never the largest logit.
    ``join``: several released tensors as one parameter (its name, released name -> tensor); also
    run on shapes alone, so nothing in it may look at numbers. ``processor`` writes tokenizer and
    image processor into a folder. ``method``: the method and its modules from the tensors placed
    in `METHOD`. ``notes`` are lines for the user. ``only``: no model is
    written, but these parts of one (prefixes of names in memory) into the method's checkpoint.
    """

    config: dict[str, Any]
    streams: list[Stream]
    processor: Callable[[Path], None]
    rows: frozenset[str] = frozenset()
    join: Callable[[str, dict[str, Tensor]], Tensor] | None = None
    method: Callable[[dict[str, Tensor], ModelInfo], tuple[Method, nn.Module | None]] | None = None
    notes: list[str] = field(default_factory=list)
    only: tuple[str, ...] | None = None


class DenseLayout(ABC):
    """A published way to write a dense model down. Stateless."""

    name: ClassVar[str]  # in messages and in `converted.json`

    @abstractmethod
    def claims(self, source: Source) -> bool:
        """Whether a folder is of this layout, by its config (and the names of its tensors)."""

    @abstractmethod
    def target(self, source: Source) -> Target:
        """What it becomes. Raises UsageError for a config that is not understood."""


class MethodLayout(ABC):
    """What a method's code adds to a dense layout. Stateless."""

    name: ClassVar[str]

    @abstractmethod
    def claims(self, source: Source) -> bool:
        """Whether the method's weights are among the others."""

    @abstractmethod
    def dense(self, source: Source) -> Source:
        """The source with the config that a dense model of its kind has."""

    @abstractmethod
    def wrapped(self, source: Source, target: Target) -> Target:
        """The dense target with the method taken out of the streams and put beside it."""


def rerouted(target: Target, place: Callable[[str, Placing], Place | None]) -> list[Stream]:
    """A target's streams, the source's own (the first) under another placing.

    ``place`` gets a name and the dense placing.
    """
    first, *rest = target.streams
    return [Stream(first.weights, lambda name: place(name, first.place)), *rest]
