"""What differs between the mini models: how they are kept, fed with images and trained.

An architecture is one module with a class that has what `Parts` names, and a line in `parts_of`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerFast

from harness.common.errors import UsageError
from harness.minimodel.packing import PackedScenes, Packer
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.tower import DenseHeads


class Parts(Protocol):
    """One architecture. `images` of a batch are whatever its own packer makes of them."""

    name: ClassVar[str]  # of the mini model
    what: ClassVar[str]  # the card's description
    mark: ClassVar[str]  # the image's token in a prompt

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

    def probes(self, packer: Packer, data: PackedScenes) -> Sequence[Packer]:
        """Collators of the held-out data, without a limit of text."""

    def see(
        self, model: Any, dense: DenseHeads | None, images: dict[str, Tensor], reads: bool
    ) -> tuple[Any, dict[str, Tensor] | None]:
        """The encoder's output as the model takes it (with crops if the method `reads` the tower),
        and the dense losses of a tower that is tuned."""


def parts_of(model_type: str) -> Parts:
    """The parts of a model by its config's `model_type`. Raises UsageError for another."""
    if model_type == "llava":
        from harness.minimodel.llava_parts import LlavaParts

        return LlavaParts()
    if model_type == "qwen2_5_vl":
        from harness.minimodel.qwen_parts import QwenParts

        return QwenParts()
    raise UsageError(f"a {model_type} model cannot be tuned here: expected llava or qwen2_5_vl")
