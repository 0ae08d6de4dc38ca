"""What a method is: a frozen dataclass of typed parameters with a few hooks.

The words it answers with stand in ``methods.vocabulary``; a method file takes all it needs from
here. This module imports no torch at run time, so listing and parsing methods stays fast.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from methods.crop import Crop as Crop
from methods.params import MethodError as MethodError
from methods.params import param as param
from methods.params import to_text
from methods.sources import with_imports
from methods.vocabulary import ANSWER as ANSWER
from methods.vocabulary import IMAGE as IMAGE
from methods.vocabulary import NUMBERING as NUMBERING
from methods.vocabulary import QUESTION as QUESTION
from methods.vocabulary import SYSTEM as SYSTEM
from methods.vocabulary import Clip as Clip
from methods.vocabulary import Decision as Decision
from methods.vocabulary import Drop as Drop
from methods.vocabulary import Merge as Merge
from methods.vocabulary import ModelInfo as ModelInfo
from methods.vocabulary import Positions as Positions
from methods.vocabulary import Ranking as Ranking
from methods.vocabulary import Route as Route
from methods.vocabulary import Scope as Scope
from methods.vocabulary import Seen as Seen
from methods.vocabulary import Tokens as Tokens
from methods.vocabulary import Work as Work
from methods.vocabulary import keep_best as keep_best
from methods.vocabulary import on_device as on_device
from methods.vocabulary import top_k_mask as top_k_mask

if TYPE_CHECKING:
    from torch import nn

# What a row of a table is there for: to be judged, to be compared with (the unchanged model), to
# spend what a method spends, or to show what answers are worth without any image. A probe is in no
# table: its answers sort documents.
Role = Literal["method", "reference", "control", "blind", "probe"]


@dataclass(frozen=True)
class Method:
    """Base of all methods: a frozen dataclass whose fields are the user's parameters."""

    name: ClassVar[str] = ""
    role: ClassVar[Role] = "method"
    trained: ClassVar[bool] = False  # brings weights that must be loaded or trained
    needs_images: ClassVar[bool] = True  # False: the vision tower is never run
    least_images: ClassVar[int] = 1  # more: the method is for videos, images being frames
    routes_text: ClassVar[bool] = False  # text tokens may be skipped too
    reorders: ClassVar[bool] = False  # survivors need not stand in the order of the prompt
    apart: ClassVar[bool] = False  # each image of a prompt keeps its own amount: none compete
    mixes: ClassVar[bool] = False  # its tokens are made of several images: none has its place
    coarse: ClassVar[bool] = False  # meets a budget as near as a grid of tokens allows
    pixels: ClassVar[float] = 1.0  # share of an image's pixels that the processor is given
    shrinks: ClassVar[bool] = False  # the tower sees smaller images, see ``shrink``
    plans_layers: ClassVar[bool] = False  # training may choose its parameter `layers` by ARank
    # Parameters under which nothing is dropped and fresh modules scale nothing: logits then
    # equal the plain model's bit for bit. None where a method has no such setting.
    neutral: ClassVar[dict[str, Any] | None] = None

    # --- parameters -------------------------------------------------------------------------
    def params(self) -> dict[str, Any]:
        """All parameters, JSON-able, in field order."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    def _changed(self) -> list[tuple[str, str]]:
        pairs = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                pairs.append((field.name, to_text(value)))
        return pairs

    @property
    def label(self) -> str:
        """Short name for tables: the name and the parameters that differ from the defaults."""
        return " ".join([self.name, *(f"{k}={v}" for k, v in self._changed())])

    @property
    def spec(self) -> str:
        """Canonical ``name:key=value`` string; parsing it gives the same method."""
        return ":".join([self.name, *(f"{k}={v}" for k, v in self._changed())])

    @classmethod
    def source_hash(cls) -> str:
        """sha256 over the files that define this method: its classes' own and all they import."""
        own = [Path(inspect.getfile(c)) for c in cls.__mro__ if issubclass(c, Method)]
        digest = hashlib.sha256()
        for path in sorted(with_imports(own), key=lambda path: path.name):
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def require(self, ok: bool, message: str) -> None:
        """Raise a one-line :class:`MethodError` unless ``ok``."""
        if not ok:
            raise MethodError(f"{self.name}: {message}")

    @property
    def numbering(self) -> Positions | None:
        """How it numbers the tokens it keeps: by their ``original`` position ids, or anew.

        By its parameter ``positions``, else the original ones; a method that numbers anew without
        such a parameter says so here. None: it drops no token, or all of them.
        """
        return getattr(self, "positions", "original")

    @property
    def one_turn(self) -> str:
        """Why a later question cannot follow on its kept cache; empty where it can.

        Later text is routed as ``decode`` says, of the kind QUESTION.
        """
        return ""

    @property
    def reads_tower(self) -> bool:
        """Whether the tower must run for every prompt: to read ``Tokens.crops``, or to merge."""
        return self.reads_clip

    @property
    def reads_joined(self) -> bool:
        """Whether a token that joins several patches will do: the method reads of the tower its
        class token's attention and what the projector reads, and nothing else."""
        return False

    @property
    def reads_received(self) -> bool:
        """Whether the attention that patches receive (``Crop.received``) stands in for the class
        token's where a tower has none."""
        return False

    @property
    def reads_clip(self) -> bool:
        """Whether the method reads ``Tokens.clip``: it then runs with a CLIP checkpoint only."""
        return False

    @property
    def needs_class_token(self) -> bool:
        """Whether the method reads the vision tower's class token, which not every tower has."""
        return self.reads_clip

    # --- behaviour --------------------------------------------------------------------------
    def fits(self, info: ModelInfo) -> None:
        """Raise :class:`MethodError` if the method cannot run on this model; see ``check``."""
        readable = not info.unread or (self.reads_joined and info.joins > 1)
        self.require(readable or not self.reads_tower, info.unread)
        self.require(
            info.class_tokens > 0 or not self.needs_class_token or self.reads_received,
            "reads the class token of the vision tower, and this model's tower has none"
            + (": relevance=words needs none" if self.reads_clip else ""),
        )
        depth = info.tower_layers
        for layer in self.taps(info) if depth else ():
            self.require(
                -depth <= layer < depth,
                f"tower layer {layer} does not exist: the tower has {depth}",
            )
        self.check(info)

    def check(self, info: ModelInfo) -> None:
        """Raise :class:`MethodError` if the parameters do not fit this model."""

    def mod_layers(self, info: ModelInfo) -> Sequence[bool]:
        """Per layer: does the method let tokens skip or leave there? (the Skip denominator)"""
        return [False] * info.layers

    def request(self, info: ModelInfo, n: int) -> Sequence[int] | None:
        """[L] image tokens that each layer is asked to process of one image of ``n`` tokens.

        One square crop alone in its prompt, as LLaVA-1.5 has it. None: the images decide.
        """
        return None

    def taps(self, info: ModelInfo) -> tuple[int, ...]:
        """CLIP layers whose queries and keys ``Tokens.crops`` shall hold (-2: the last but one)."""
        return ()

    def merge_layers(self, info: ModelInfo) -> tuple[int, ...]:
        """CLIP layers behind whose self-attention ``merge_patches`` is asked, ascending."""
        return ()

    def build_modules(self, info: ModelInfo) -> nn.Module | None:
        """Fresh parameters of the method, or None."""
        return None

    def shrink(self, rows: int, cols: int) -> tuple[list[int], list[int]] | None:
        """The smaller grid that the tower sees of an image of ``rows`` x ``cols`` tokens.

        As the rows and the columns, ascending, in which its tokens stand; each of the image's other
        tokens repeats the nearest of them, and leaves in ``before``. None: the image as it is.
        """
        return None

    def merge_patches(self, layer: int, seen: Seen) -> Merge | None:
        """Behind the self-attention of a tower layer: which patches of a crop merge.

        ``assign`` [C, p] counts patches of the crop; ``counts`` is one number for all crops. The
        class token, if there is one, never merges. The tokens of patches that merged leave before
        ``before``.
        """
        return None

    def drawn(self, info: ModelInfo, draw: random.Random) -> Method:
        """The method as one training step runs it, where training draws a parameter anew."""
        return self

    def training_counts(self, info: ModelInfo, n_text: int, n_image: int) -> Sequence[int] | None:
        """[L] tokens that each layer processes of a training sample with one image of ``n_image``.

        In closed form, for estimates of a training that has not run. None: there is none.
        """
        return None

    def module_parameters(self, info: ModelInfo) -> int | None:
        """How many numbers ``build_modules`` makes, without making them. None: not declared."""
        return None if self.trained else 0

    def for_random_weights(self) -> tuple[Method, str]:
        """The method as it can be timed without its weights, and a note where that differs."""
        return self, ""

    def before(self, seq: Tokens) -> Drop | Merge | None:
        """Once per prompt, on the packed sequence before layer 0 (vision features act here)."""
        return None

    def layer(self, layer: int, seq: Tokens) -> Decision:
        """Before decoder layer ``layer``, in prefill and in training."""
        return None

    def decode(self, layer: int, seq: Tokens) -> Route | None:
        """For generated tokens; None processes them, which is what most methods do."""
        return None
