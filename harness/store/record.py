"""What a method decided for one sample, recorded once; every ratio is read from here.

numpy only, so that reports and the cost ledger need no torch.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.common.jsonfile import parse_json

KINDS = ("system", "question", "image", "answer")
SYSTEM, QUESTION, IMAGE, ANSWER = range(4)
SKIPPED, DROPPED = -1, -2
# Kinds of ``scoring`` that count elsewhere than the router's own, or not at all.
PROJECTOR, UNKNOWN = "projector", "unknown"
NOTES = 2  # version of what ``scoring`` takes note of; older files say too little
ARRAYS = ("kinds", "route", "decode", "mod_layers")  # the fields that are stored as arrays
DAMAGED = (
    AttributeError, EOFError, IndexError, KeyError, MemoryError,
    OverflowError, RuntimeError, TypeError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What numpy, zipfile and json raise on a damaged file besides ValueError."""


@dataclass
class RoutingRecord:
    """One sample: L layers, n prompt tokens (padding removed), n_out decode steps.

    kinds       uint8 [n], index into ``KINDS``.
    route       int16 or int32 [L, n]: ``i`` itself = processed, another j = merged into the slot
                that token j stands for, -1 = skipped (residual only), -2 = dropped (gone).
    decode      bool [L, n_out]: generated token processed by that layer.
    mod_layers  bool [L]: layers on which the method may let tokens skip or leave.
    grid        image geometry: ``{"kind": "base"|"tile", "rows", "cols", "start", "newline",
                "crops"}``; ``start`` is an index into the n tokens; with ``newline`` each row has
                one more; ``crops`` is what the tower saw of it, ``saw`` the rows and columns of
                tokens that a tower made which was shown a smaller image. Where the original image
                is known also ``number``, ``image``, ``fit`` and ``box`` (see
                ``harness.families.framing``). ``mixed``: the method made its tokens of several
                grids, so none stands for a place.
    method      canonical ``name:key=value`` string.
    sample      the caller's name for the sample.
    scoring     what the method computed of its own, equal calls together: ``phase`` prompt or
                decode, ``kind`` (`harness.cost.ledger.scoring_flops` says what each costs),
                ``tokens`` of one call (pairs of them for product and distance), ``calls``, and
                widths where a kind needs them: ``in``, ``out``, ``width``, ``ffn``, the model's
                own by name. Kind unknown: something ran whose sizes nobody knows. None: a file of
                a version that took fewer notes, or none.
    tower       tokens that leave each tower layer, where a method merges patches there (a merged
                patch's token is dropped before layer 0); empty where it does not.
    evidence    boxes that bear the answer: left, top, right, bottom in pixels of the only image.
    """

    kinds: NDArray[np.uint8]
    route: NDArray[Any]
    decode: NDArray[np.bool_]
    mod_layers: NDArray[np.bool_]
    grid: list[dict[str, Any]] = field(default_factory=list)
    method: str = ""
    sample: str = ""
    scoring: list[dict[str, Any]] | None = field(default_factory=list)
    evidence: list[list[float]] = field(default_factory=list)
    tower: list[int] = field(default_factory=list)

    # --- sizes ------------------------------------------------------------------------------
    @property
    def layers(self) -> int:
        return int(self.route.shape[0])

    @property
    def n(self) -> int:
        return int(self.kinds.shape[0])

    @property
    def n_image(self) -> int:
        return int((self.kinds == IMAGE).sum())

    @property
    def n_images(self) -> int:
        """Images in the prompt; 1 where there are image tokens of an unknown geometry."""
        return sum(grid["kind"] == "base" for grid in self.grid) or int(self.n_image > 0)

    @property
    def images(self) -> list[NDArray[np.int64]]:
        """The tokens of each image, newlines included, in the prompt's order.

        [] where no token stands for a place in an image, because the method made them of several.
        """
        own = np.flatnonzero(self.kinds == IMAGE)
        if not own.size or any(grid.get("mixed") for grid in self.grid):
            return []
        starts: list[int] = []
        has_base, end = True, 0
        for grid in sorted(self.grid, key=lambda one: int(one["start"])):
            start = int(grid["start"])
            # Squares of one image stand side by side; each image has one of the whole.
            apart = bool((self.kinds[end:start] != IMAGE).any())
            if not starts or apart or (has_base and grid["kind"] == "base"):
                starts.append(start)
                has_base = False
            has_base = has_base or grid["kind"] == "base"
            end = start + int(grid["rows"]) * (int(grid["cols"]) + bool(grid["newline"]))
        return np.split(own, np.searchsorted(own, starts[1:]))

    @property
    def n_text(self) -> int:
        """Prompt tokens that are neither image nor (teacher-forced) answer."""
        return int(((self.kinds == SYSTEM) | (self.kinds == QUESTION)).sum())

    @property
    def n_answer(self) -> int:
        """Teacher-forced answer tokens inside the n tokens; 0 after ``generate``."""
        return int((self.kinds == ANSWER).sum())

    @property
    def n_out(self) -> int:
        """Tokens fed back one by one; the last generated token is never fed."""
        return int(self.decode.shape[1])

    # --- readouts ---------------------------------------------------------------------------
    @property
    def keep(self) -> NDArray[np.bool_]:
        """[L, n]: the token is processed by the layer in its own slot."""
        return np.asarray(self.route == np.arange(self.n)[None, :])

    def processed_per_layer(self, kind: int | None = None) -> NDArray[np.int64]:
        """[L] prompt tokens processed, all or of one kind."""
        chosen = np.ones(self.n, bool) if kind is None else self.kinds == kind
        return np.asarray(self.keep[:, chosen].sum(1), dtype=np.int64)

    def processed_by_kind(self) -> NDArray[np.int64]:
        """[L, 4] prompt tokens processed, by kind in the order of ``KINDS``.

        All kinds in one pass: float32 products of zeros and ones are exact below 2^24 tokens.
        """
        is_kind = self.kinds[:, None] == np.arange(len(KINDS))
        counts = self.keep.astype(np.float32) @ is_kind.astype(np.float32)
        return np.asarray(counts.astype(np.int64))

    @property
    def kv_tokens(self) -> NDArray[np.int64]:
        """[L] entries of the KV cache after the last step."""
        return self.processed_per_layer() + self.decode.sum(1).astype(np.int64)

    def kv_bytes(self, kv_heads: int, head_dim: int, itemsize: int) -> int:
        """Bytes of keys and values over all layers, decode included."""
        return int(self.kv_tokens.sum()) * 2 * kv_heads * head_dim * itemsize

    def _skip(self, layers: NDArray[np.bool_]) -> float:
        total = int(layers.sum()) * self.n
        return 1.0 - float(self.keep[layers].sum()) / total if total else 0.0

    @property
    def skip_mod_layers(self) -> float:
        """Share of prompt tokens not processed, over the layers the method acts on (0..1)."""
        return self._skip(self.mod_layers)

    @property
    def skip_all_layers(self) -> float:
        """Share of prompt tokens not processed, over all layers (0..1)."""
        return self._skip(np.ones(self.layers, bool))

    @property
    def kv_ratio_vision(self) -> float | None:
        """Layer mean of the kept share of image tokens; None without image tokens."""
        if not self.n_image:
            return None
        return float(self.processed_per_layer(IMAGE).mean() / self.n_image)

    @property
    def kv_ratio(self) -> float:
        """Layer mean of the kept share of all prompt tokens."""
        return float(self.processed_per_layer().mean() / self.n) if self.n else 1.0

    kv_ratio_all = kv_ratio

    # --- files ------------------------------------------------------------------------------
    def to_npz(self, file: str | Path | IO[bytes]) -> None:
        """The form for other programs, beside pictures: small arrays, every other field as JSON.

        ``keep`` (bit-packed, [L, n]) says nothing that ``route`` does not: it is for readers of
        the file that want the masks only. Raises TypeError for a field that neither form takes.
        """
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ARRAYS}
        sizes = {"n": self.n, "n_out": self.n_out, "notes": NOTES}
        np.savez_compressed(
            file,
            kinds=self.kinds,
            route=self.route,
            keep=np.packbits(self.keep, axis=1),
            decode=np.packbits(self.decode, axis=1),
            mod_layers=self.mod_layers,
            meta=np.array(json.dumps({**sizes, **rest}, sort_keys=True)),
        )

    @classmethod
    def from_npz(cls, file: str | Path | IO[bytes]) -> RoutingRecord:
        """Read what :meth:`to_npz` wrote; fields that an older version had not are empty, and its
        ``scoring`` is None.

        Raises ValueError for a damaged file, or one with a field that this version does not know,
        and OSError for one that cannot be read.
        """
        known = {f.name for f in fields(cls)} - {*ARRAYS}
        try:
            with np.load(file, allow_pickle=False) as data:
                kinds, route, decode, mod_layers = (data[name] for name in ARRAYS)
                meta = parse_json(str(data["meta"]))
            n_out = meta.pop("n_out")
            meta.pop("n", None)
            if meta.pop("notes", 0) != NOTES:
                meta["scoring"] = None
            if not known.issuperset(meta):
                raise ValueError(f"fields of a newer version: {', '.join(sorted({*meta} - known))}")
            decode = np.unpackbits(decode, axis=1)[:, :n_out].astype(bool)
            record = cls(kinds, route, decode, mod_layers, **meta)
            check_record(record, n_out)
        except DAMAGED as error:
            raise ValueError(f"not a routing record ({type(error).__name__})") from None
        return record


def check_record(record: RoutingRecord, n_out: int) -> None:
    """Refuse parts that do not fit together: whatever is read from them would be wrong."""
    route, kinds = record.route, record.kinds
    if route.ndim != 2 or not len(route) or route.dtype.kind != "i":
        raise ValueError("no routes")
    layers, n = route.shape
    fit = kinds.shape == (n,) and kinds.dtype == np.uint8 and record.decode.shape == (layers, n_out)
    fit = fit and record.mod_layers.shape == (layers,) and record.mod_layers.dtype == bool
    if not fit or (route >= n).any() or (route < DROPPED).any() or (kinds >= len(KINDS)).any():
        raise ValueError("parts that do not fit together")
    tables = (record.grid, [] if record.scoring is None else record.scoring)
    if not all(isinstance(t, list) and all(isinstance(row, dict) for row in t) for t in tables):
        raise ValueError("tables that are none")


def dense_record(
    n_text: int, n_image: int, layers: int, n_out: int = 0, prefix: int = 0
) -> RoutingRecord:
    """The record of an unrouted sample of this shape: prefix, image, rest of the text."""
    kinds = np.full(n_text + n_image, QUESTION, np.uint8)
    kinds[:prefix] = SYSTEM
    kinds[prefix : prefix + n_image] = IMAGE
    return RoutingRecord(
        kinds=kinds,
        route=np.tile(np.arange(kinds.size, dtype=route_dtype(kinds.size)), (layers, 1)),
        decode=np.ones((layers, n_out), bool),
        mod_layers=np.zeros(layers, bool),
        method="dense",
    )


def route_dtype(n: int) -> type[np.int16] | type[np.int32]:
    """int16 as long as every token index fits."""
    return np.int16 if n < np.iinfo(np.int16).max else np.int32
