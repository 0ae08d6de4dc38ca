"""What the host knows about a batch: token kinds, counts, sample names, image geometry."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from harness.common.errors import UsageError
from harness.engine.masks import allowed_from
from harness.engine.model import EngineError, Parts
from harness.families import framing
from methods.base import ANSWER, IMAGE, QUESTION, SYSTEM, Crop, Method, on_device


def kinds_from_ids(ids: Tensor, image_token: int, valid: Tensor, answers: Tensor | None) -> Tensor:
    """uint8 [B, n]: system text, image, question; ``answers`` [B, n] bool marks answer tokens.

    System text is what stands before the first image; a row without image is all question.
    """
    image = (ids == image_token) & valid
    seen = image.long().cumsum(dim=1) > 0
    has_image = image.any(dim=1, keepdim=True)
    kinds = torch.where(seen | ~has_image, QUESTION, SYSTEM)
    if answers is not None:
        kinds = kinds.masked_fill(answers & ~image, ANSWER)
    return kinds.masked_fill(image, IMAGE).to(torch.uint8)


def isolated(allowed: Tensor) -> Tensor:
    """[B, n] bool: columns of a block mask that nobody sees and that see nobody: padding."""
    own = torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    others = allowed[:, 0] & ~own
    return ~(others.any(dim=1) | others.any(dim=2))


def layout(
    embeds: Tensor, mask: Any, position_ids: Tensor | None, cache: Any, plain: Any, kind: str
) -> tuple[Tensor | None, Tensor]:
    """(packed mask or None, valid [B, n]) from whatever kind of mask the caller gave."""
    shape = embeds.shape[:2]
    if mask is None:
        valid = torch.ones(shape, dtype=torch.bool, device=embeds.device)
        known = cache is None and position_ids is not None
        packed = known and bool((position_ids.diff(dim=-1) != 1).any())  # type: ignore[union-attr]
        return (allowed_from(plain) if packed and plain is not None else None), valid
    if mask.dim() == 2:
        return None, mask[:, -shape[1] :].to(embeds.device).bool()
    if mask.dim() != 4 or kind == "flash":
        raise EngineError("attention masks are 2-D, or 4-D under sdpa and eager")
    base = allowed_from(mask)
    return base, ~isolated(base).expand(shape)


class Growing:
    """Tells the prompt from the answer when ``generate`` runs without a cache.

    Each call then passes all there is so far: the prompt, and one token more than the last time.
    """

    def __init__(self) -> None:
        self._last: tuple[Tensor, int] | None = None  # prompt ids, and the length of the last call

    def begins(self, ids: Tensor, growing: bool) -> int:
        """The column of ``ids`` [B, n] at which generated tokens begin; n where there are none."""
        n = ids.shape[1]
        if growing and self._last is not None:
            before, last = self._last
            if n == last + 1 and torch.equal(ids[:, : before.shape[1]], before):
                self._last = (before, n)
                return int(before.shape[1])
        self._last = (ids, n) if growing else None
        return n


class Samples:
    """One batch as it was handed to the model. Lengths are read from the device once."""

    def __init__(self, parts: Parts, kinds: Tensor, valid: Tensor, ids: Tensor | None) -> None:
        self.parts, self.kinds, self.valid, self.ids = parts, kinds, valid, ids
        columns = torch.arange(kinds.shape[1], device=kinds.device)
        image = kinds == IMAGE
        last_image = (columns * image).amax(dim=1)
        head = ((columns <= last_image[:, None]) & valid).sum(dim=1) * image.any(dim=1)
        first = (~valid).long().cumprod(dim=1).sum(dim=1)
        table = torch.stack([valid.sum(dim=1), image.sum(dim=1), head, first]).tolist()
        self.counts, self.image_counts, self.head_counts, self.first = table
        self.names: list[str] | None = None
        self.features: Any = None  # output of get_image_features, if it is known
        self.extents: Any = None
        self._grids: list[list[dict[str, Any]]] | None = None
        self._origins: Tensor | None = None
        self.questions: list[str] | None = None  # set_samples
        self.tokenizer: Any = None
        self.clip: Any = None

    def identities(self) -> list[str]:
        """One stable name per row: the caller's, or a hash of the row's unpadded prompt ids."""
        if self.names is None:
            if self.ids is None:
                raise EngineError("sample names are needed here: call run.set_samples first")
            # Without a cache the columns go on with generated tokens; ids end with the prompt.
            real = self.valid[:, : self.ids.shape[1]]
            prompts = [ids[keep].tolist() for ids, keep in zip(self.ids, real, strict=True)]
            self.names = [hashlib.sha256(str(ids).encode()).hexdigest() for ids in prompts]
        if len(self.names) != len(self.counts):
            raise EngineError(f"{len(self.names)} sample names for {len(self.counts)} rows")
        return self.names

    def crops(self) -> list[Crop]:
        """What was captured while the tower ran, one entry a crop, in prompt order."""
        crops = getattr(self.features, "crops", None)
        if crops is None:
            raise EngineError("the vision tower was not read for these features")
        self._enough(len(crops), "crops")
        return crops

    def _enough(self, known: int, what: str) -> None:
        """Every row must have its own: ``generate`` repeats rows, not what was kept of images."""
        wanted = sum(grid["crops"] for row in self.grids() for grid in row)
        if known < wanted:
            raise _repeated(known, wanted, what)

    def merge(self, method: Method) -> Any:
        """What the tower merged for a method that asks for it (``TowerMerge``), or None."""
        found = getattr(self.features, "merge", None)
        wanted = bool(method.merge_layers(self.parts.info))
        shrunk = getattr(self.features, "saw", None) is not None
        other = wanted != (found is not None) or method.shrinks != shrunk
        if any(self.image_counts) and other:
            raise EngineError("the vision tower was run for another method than this")
        if not any(self.image_counts):
            return None
        if found is not None and found.owner is not None:
            self._enough(len(found.owner), "crops")
        return found

    # --- geometry ---------------------------------------------------------------------------
    def spans(self) -> list[list[tuple[int, int]]]:
        """Per row, (first column, length) of each image's tokens."""
        rows: list[list[tuple[int, int]]] = []
        for row in self.grids():
            starts = sorted({(g["image_start"], g["image_length"]) for g in row})
            rows.append(starts)
        return rows

    def grids(self) -> list[list[dict[str, Any]]]:
        """Per row, one dict a patch grid; ``start`` and ``image_start`` are original columns."""
        if self._grids is None:
            self._grids = self._find_grids()
        return self._grids

    def origins(self) -> Tensor:
        """[B, n] long: crop * P + patch behind each column, -1 where there is none."""
        if self._origins is None:
            table = [[-1] * self.kinds.shape[1] for _ in self.counts]
            first = 0
            for line, row in zip(table, self.grids(), strict=True):
                for grid in row:
                    self.parts.family.origins(self.parts.model.config, grid, first, line)
                    first += grid["crops"]
            self._origins = on_device(table, self.kinds.device)
        return self._origins

    def _find_grids(self) -> list[list[dict[str, Any]]]:
        images = [[kind == IMAGE for kind in row] for row in self.kinds.tolist()]
        places = [[i for i, own in enumerate(row) if own] for row in images]
        lengths, sizes = self._image_lengths(framing.runs(images))
        saw = getattr(self.features, "saw", None)
        if saw and len(saw) < len(lengths):
            raise _repeated(len(saw), len(lengths), "images")
        result: list[list[dict[str, Any]]] = []
        image = 0
        for columns in places:
            row: list[dict[str, Any]] = []
            offset = 0
            while offset < len(columns):
                length, size = lengths[image], sizes[image]
                run = columns[offset : offset + length]
                if len(run) != length or run[-1] - run[0] != length - 1:
                    raise EngineError("an image's tokens are not contiguous in its prompt")
                grids = self._grids_of(run[0], length, size)
                if saw and saw[image] is not None:
                    grids = [grid | {"saw": saw[image]} for grid in grids]
                row += grids
                offset, image = offset + length, image + 1
            result.append(row)
        return result

    def _grids_of(self, start: int, length: int, size: Any) -> list[dict[str, Any]]:
        try:
            return self.parts.family.grids(self.parts.model.config, start, length, size)
        except UsageError as error:
            raise EngineError(str(error)) from None

    def _image_lengths(self, runs: list[int]) -> tuple[list[int], list[Any]]:
        pooled = getattr(self.features, "pooler_output", None)
        if pooled is not None:
            lengths = self.parts.family.image_lengths(pooled, runs)
            if sum(lengths) == sum(runs):
                sizes = self.extents
                sizes = sizes.tolist() if sizes is not None else []
                if 0 < len(sizes) < len(lengths):
                    raise _repeated(len(sizes), len(lengths), "images")
                return lengths, sizes + [None] * (len(lengths) - len(sizes))
        # Features unknown (embeddings given by the caller): every contiguous run is one image.
        return runs, [None] * len(runs)


def _repeated(known: int, wanted: int, what: str) -> EngineError:
    return EngineError(
        f"this method reads the images themselves: {known} {what} were read and the batch's rows "
        f"have {wanted}; beam search and several answers to a prompt repeat rows without their "
        "images: generate with num_beams=1 and num_return_sequences=1"
    )
