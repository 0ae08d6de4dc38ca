"""A model found on disk: everything the key of a result needs, without loading it. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.families.catalog import family_of, shape_from_config
from harness.families.family import Family
from harness.families.shapes import ModelShape
from harness.model.weights import INDEX, setting_hashes, weight_hashes

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ModelSource:
    """A model found on disk: everything the key of a result needs, without loading it.

    ``revision`` is the commit of a hub snapshot, None for a plain folder. Hashes are computed
    when first asked for.
    """

    model_id: str
    folder: Path
    config: dict[str, Any]
    revision: str | None = None
    mini: bool = False

    @property
    def family(self) -> Family:
        """What is known of models of its type."""
        return family_of(self.config, self.model_id)

    @property
    def info(self) -> ModelShape:
        """Sizes of decoder, tower and projector."""
        return shape_from_config(self.config, self.model_id)

    @cached_property
    def weight_hashes(self) -> dict[str, str]:
        """Path below the folder -> sha256 of the weight files."""
        return weight_hashes(self.folder)

    @cached_property
    def setting_hashes(self) -> dict[str, str]:
        """Path below the folder -> sha256 of all other files that loading reads."""
        return setting_hashes(self.folder)

    @property
    def file_hashes(self) -> dict[str, str]:
        """Everything a loaded model and its processor are made of."""
        return {**self.weight_hashes, **self.setting_hashes}

    @property
    def processor_hash(self) -> str:
        """sha256 over what turns a document into inputs: tokenizer, image processor, templates."""
        inputs = {k: v for k, v in self.setting_hashes.items() if k not in ("config.json", INDEX)}
        return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
