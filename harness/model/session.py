"""A loaded model with everything a run needs of it, opened once: each file is read once.

Answers, analyses, timing and the conformance of weights all take the model, its processor, shared
vision features and the methods' weights from here. Torch-free until something is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.protocol import LMMS_EVAL, Protocol

if TYPE_CHECKING:
    from harness.families.family import Family
    from harness.families.shapes import ModelShape
    from harness.model.checkpoints import Loaded
    from harness.model.features import FeatureCache
    from harness.model.source import ModelSource


@dataclass
class Session:
    """A model ready to generate, and what it was loaded from and as.

    ``model`` and ``processor`` are the plain transformers objects. ``features`` holds vision
    features that methods share; None switches sharing off. Weights of methods are kept once read:
    on the host, as large as their files.
    """

    model: Any
    processor: Any
    source: ModelSource
    device_name: str
    dtype: str
    attn: str
    info: ModelShape
    features: FeatureCache | None = None
    notes: list[str] = field(default_factory=list)
    protocol: Protocol = LMMS_EVAL  # how it is asked
    _read: dict[Path, Any] = field(default_factory=dict, repr=False)

    @property
    def family(self) -> Family:
        """What is known of models of its type."""
        from harness.families.catalog import family_of

        return family_of(self.model.config, self.model_id)

    @property
    def model_id(self) -> str:
        return self.source.model_id

    @property
    def revision(self) -> str | None:
        return self.source.revision

    @property
    def weight_hashes(self) -> dict[str, str]:
        return self.source.weight_hashes

    @property
    def config(self) -> dict[str, Any]:
        """The model's config as JSON has it, without the places it came from."""
        found: dict[str, Any] = json.loads(self.model.config.to_json_string(use_diff=False))
        for part in (found, *found.values()):
            if isinstance(part, dict):
                part.pop("_name_or_path", None)
        return found

    @property
    def image_processor(self) -> dict[str, Any]:
        """Settings of the image processor: they decide how many tokens an image has."""
        found: dict[str, Any] = json.loads(self.processor.image_processor.to_json_string())
        return {name: value for name, value in found.items() if "name_or_path" not in name}

    @property
    def mini(self) -> bool:
        return self.source.mini

    def asked_by(self, protocol: Protocol) -> Session:
        """The same model and weights, asked by another protocol; this session stays as it is.

        A processor that makes other pixels of an image gets features of its own to share. Raises
        UsageError for what the model cannot be asked by.
        """
        from harness.model.asking import check_protocol, processor_for
        from harness.model.features import FeatureCache

        if self.protocol != LMMS_EVAL:
            raise ValueError(f"asked by {self.protocol} already")
        check_protocol(protocol, self.family, self.model_id)
        processor = processor_for(self.processor, protocol, self.family, self.model_id)
        features = self.features
        if processor is not self.processor and features is not None:
            features = FeatureCache(features.max_bytes)
        return replace(self, protocol=protocol, processor=processor, features=features)

    def weights(self, checkpoint: Path | str, method: Any) -> Loaded:
        """A checkpoint for ``method`` on this model, checked; nothing is applied yet.

        Raises CheckpointError and MethodError, one line each.
        """
        from harness.model.checkpoints import load_checkpoint
        from harness.model.offload import require_in_memory

        require_in_memory(self.model, method.label)
        hashes = list(self.weight_hashes.values())
        base = hashes[0] if len(hashes) == 1 else None  # a sharded model has no single hash
        return load_checkpoint(checkpoint, self.model, method, base, self._read)

    @contextmanager
    def tuned(self, method: Any, checkpoint: Path | str | None) -> Iterator[Loaded]:
        """The dense weights as the checkpoint updates them while open; None changes nothing."""
        from harness.model.checkpoints import Loaded

        if checkpoint is None:
            yield Loaded(method, None)
            return
        weights = self.weights(checkpoint, method)
        with weights.applied(self.model):
            yield weights

    def shares(self, weights: Loaded) -> bool:
        """Whether vision features under these weights are those of the dense model."""
        changed = (*weights.deltas, *weights.full)
        names = self.family.tensors
        return not any(name.startswith((*names["tower"], *names["projector"])) for name in changed)

    @contextmanager
    def under(
        self, method: Any, checkpoint: Path | str | None = None, share: bool = True
    ) -> Iterator[tuple[Any, Any]]:
        """The model under a method with its weights: the engine's run, and the shared features."""
        from harness.engine import routed
        from harness.model.features import shared_features

        with ExitStack() as stack:
            weights = stack.enter_context(self.tuned(method, checkpoint))
            method = weights.method
            # Methods that read the tower, show it smaller images or leave it out must not meet
            # stored features.
            share = share and self.shares(weights)
            share = share and method.needs_images and not method.reads_tower
            share = share and not method.shrinks
            cache = self.features if share else None
            sharing = stack.enter_context(shared_features(self.model, cache))
            words = self.processor.tokenizer
            context = routed(
                self.model, method, weights.modules, tokenizer=words, clip=weights.clip
            )
            yield stack.enter_context(context), sharing

    def check(self, method: Any, checkpoint: Path | None) -> None:
        """Do parameters and weights fit this model? Raises UsageError."""
        from harness.common.errors import UsageError, one_line
        from harness.engine.model import check_method, find_parts
        from harness.model.checkpoints import CheckpointError
        from methods.base import MethodError

        try:
            check_method(find_parts(self.model), method)
            if checkpoint is not None:
                self.weights(checkpoint, method)
        except MethodError as error:
            raise UsageError(f"--methods: {one_line(error)}") from None
        except CheckpointError as error:
            raise UsageError(f"--checkpoint: {one_line(error)}") from None
