"""Vision features computed once per distinct image and shared by all methods of a run.

The tower and the projector do the same work for every method that only acts behind them, on every
question about the same image. Features are computed image by image, so they do not depend on
which images happened to share a batch.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.families.catalog import family_of
from harness.families.family import Family

Tensors = tuple[torch.Tensor, ...]

# Requests for more than the projected features: the tower has to run for those.
WANTS_MORE = ("output_hidden_states", "output_attentions")


def image_key(image: Any) -> str:
    """Content hash of a PIL image: mode, size and pixels."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Least-recently-used store of projected image features, bounded in bytes.

    Values are tensors [N, d] as the model's ``get_image_features`` gives them for one image: after
    the projector and, for LLaVA-NeXT, after unpadding and packing with newline embeddings; of
    another form or several where a family says so (`Family.stored`).
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._store: OrderedDict[tuple[Any, ...], Tensors] = OrderedDict()

    def __len__(self) -> int:
        return len(self._store)

    def get(self, key: tuple[Any, ...]) -> Tensors | None:
        """The features under this key, now the most recently used ones."""
        found = self._store.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._store.move_to_end(key)
        return found

    def put(self, key: tuple[Any, ...], value: Tensors) -> None:
        """Keep features; the least recently used ones leave until the bound holds."""
        size = _bytes(value)
        if size > self.max_bytes or key in self._store:
            return
        self._store[key] = value
        self.bytes += size
        while self.bytes > self.max_bytes:
            _, old = self._store.popitem(last=False)
            self.bytes -= _bytes(old)

    def clear(self) -> None:
        """Forget everything, to give the memory back."""
        self._store.clear()
        self.bytes = 0


def _bytes(value: Tensors) -> int:
    return sum(one.numel() * one.element_size() for one in value)


class Sharing:
    """The images of the batch that is about to be generated, in prompt order."""

    def __init__(self, model: Any = None) -> None:
        self._model = model  # None: nothing is shared
        self.keys: list[str] | None = None
        self.inputs: dict[str, Any] = {}

    def expect(self, keys: Sequence[str] | None, inputs: Mapping[str, Any] | None = None) -> None:
        """Announce the content keys of the next batch's images; None: nothing is shared.

        ``inputs``: the batch, whose prompts tell some families which crops are which image's.
        """
        self.keys, self.inputs = list(keys) if keys is not None else None, {}
        if keys and inputs is not None and self._model is not None:
            config, name = self._model.config, type(self._model).__name__
            family = family_of(config, name)
            token = family.image_token(family.completed(config.to_dict(), name))
            self.inputs = family.counted(inputs, token)


@contextmanager
def shared_features(model: Any, cache: FeatureCache | None) -> Iterator[Sharing]:
    """Let ``model`` take image features from ``cache`` while the context is open.

    Shadows ``get_image_features`` on this model object only, and takes the shadow away on exit.
    This seam exists in every transformers 5 release; the newer ``mm_encoder_outputs`` argument of
    ``generate`` is fed from the same function, so both ways end here.
    """
    if cache is None:
        yield Sharing()
        return
    sharing = Sharing(model)
    family = family_of(model.config, type(model).__name__)
    inner = family.inner(model)
    before = inner.__dict__.get("get_image_features")
    original = inner.get_image_features
    signature = inspect.signature(original)

    @functools.wraps(original)  # generate looks at the signature
    def features(*args: Any, **kwargs: Any) -> Any:
        given = dict(signature.bind(*args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        more = any(given.get(name) for name in WANTS_MORE) or given.get("return_dict") is False
        if sharing.keys is None or more:
            return original(**given)
        return _gather(original, cache, sharing, family, given)

    inner.get_image_features = features
    try:
        yield sharing
    finally:
        del inner.get_image_features
        if before is not None:
            inner.get_image_features = before


def _gather(
    compute: Any, cache: FeatureCache, sharing: Sharing, family: Family, given: dict[str, Any]
) -> Any:
    """An output object with the features of all images, each computed alone."""
    keys, images = sharing.keys or [], {**sharing.inputs, **given}
    count = family.image_count(images)
    if count != len(keys):
        raise RuntimeError(f"{count} images where {len(keys)} were announced")
    others = {name: value for name, value in given.items() if name not in family.images}
    options = tuple(sorted((name, str(value)) for name, value in others.items()))
    found = []
    for i, name in enumerate(keys):
        key = name + family.context(images, i)
        value = cache.get((key, options))
        if value is None:
            value = family.stored(compute(**family.one_image(images, i), **others))
            cache.put((key, options), value)
        found.append(value)
    return family.restored(found)
