"""The architectures of the mini models: how each is kept, fed with images and trained.

An architecture is one module with a class that has what `Parts` names, and a line in `REGISTRY`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.families.catalog import MINIS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from harness.minimodel.packing import PackedScenes, Packer, Probe
    from harness.minimodel.recipe import Recipe
    from harness.minimodel.scenes import Scenes
    from harness.minimodel.tower import DenseHeads

REGISTRY = {  # a config's `model_type` -> "module:Class", imported when asked for
    "llava": "harness.minimodel.llava_parts:LlavaParts",
    "qwen2_5_vl": "harness.minimodel.qwen_parts:QwenParts",
}


class Job(Protocol):
    """Carries out a recipe: reads `data` and `work`, writes the folder `out`."""

    def __call__(
        self, recipe: Recipe, *, data: Path, work: Path, out: Path, decoder: Path | None
    ) -> None: ...


class Shared(NamedTuple):
    """The decoder that a model has from another one: what ships is what it adds to that."""

    base: str  # the other model's folder below `assets/`
    there: str  # how the decoder's tensors begin in the other's file,
    here: str  # in this model's file,
    memory: str  # and in memory


class Parts(Protocol):
    """One architecture. `images` of a batch are whatever its own packer makes of them."""

    what: ClassVar[str]  # the card's description
    origin: ClassVar[str]  # the card's words on what its weights started from
    mark: ClassVar[str]  # the image's token in a prompt
    ranked: ClassVar[bool]  # whether ARank can choose a method's layers before it is tuned
    folder: ClassVar[str]  # of its recipes, below `recipes/`
    recipes: ClassVar[tuple[str, ...]]  # in the order of training
    drawn: ClassVar[Mapping[str, Any]]  # how its scenes are: arguments of `minidata.train.write`
    ships: ClassVar[Mapping[str, str]]  # recipe -> what follows the model's name in `assets/`
    shared: ClassVar[Shared | None]

    def jobs(self) -> Mapping[str, Job]:
        """The stages before tuning."""

    def load(self, folder: Path) -> Any:
        """The model in float32."""

    def processor(self, model: Any, tokenizer: PreTrainedTokenizerFast) -> Any:
        """What `AutoProcessor` gives for it."""

    def images(
        self, recipe: Recipe, scenes: Scenes, model: Any, work: Path, heads: Path
    ) -> tuple[Any, DenseHeads | None]:
        """What tuning sees of the images, row by row, and the tower with its dense heads (from
        the folder `heads`) where it is tuned along."""

    def packer(
        self, recipe: Recipe, model: Any, dense: DenseHeads | None, data: PackedScenes
    ) -> Packer:
        """The collator of the training data, with dense labels where `dense` is tuned along."""

    def probes(self, packer: Packer, held: PackedScenes, count: int) -> Sequence[Probe]:
        """Batches of the first `count` held-out scenes, without a limit of text."""

    def see(
        self, model: Any, dense: DenseHeads | None, images: dict[str, Tensor], reads: bool
    ) -> tuple[Any, dict[str, Tensor] | None]:
        """The encoder's output as the model takes it (with crops if the method `reads` the tower),
        and the dense losses of a tower that is tuned."""


def parts_of(model_type: str) -> Parts:
    """The parts of a model by its config's `model_type`. Raises UsageError for another."""
    if model_type not in REGISTRY:
        raise UsageError(unknown("architecture", model_type, REGISTRY))
    found: Parts = pkgutil.resolve_name(REGISTRY[model_type])()
    return found


def name_of(model_type: str) -> str:
    """The name of the mini model of an architecture."""
    return next(name for name, mini in MINIS.items() if mini.kind == model_type)
