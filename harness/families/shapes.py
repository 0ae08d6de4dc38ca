"""Sizes of a model: all that the closed-form ledger needs, without weights. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True)
class VisionShape:
    """A CLIP-type tower; `layers` is how many execute (all of them, whatever layer is read).

    `head`: SigLIP's attention pooling, which executes behind the layers though nothing reads it.
    """

    layers: int
    hidden: int
    ffn: int
    image_size: int
    patch: int
    heads: int
    channels: int = 3
    class_tokens: int = 1  # beside the patches; 0 where the class token is dropped before layer 0
    kind: str = "clip_vision_model"
    head: bool = False

    @property
    def side(self) -> int:
        """Patches along one side of a crop; 0 where images are no squares of one size."""
        return self.image_size // self.patch

    @property
    def patches(self) -> int:
        """Patch tokens of one crop; class tokens come on top."""
        return self.side**2


@dataclass(frozen=True)
class Part:
    """Something that runs for a sample's images: ``times`` times, on ``tokens`` tokens each.

    ``name`` is the family's for the module (`Family.module`); ``flops`` the closed form of once,
    2 per multiply-accumulate, None where it is not known.
    """

    scope: Literal["vision", "projector"]
    name: str
    tokens: int
    times: int
    flops: float | None


class ImageSize(NamedTuple):
    """An image that a model takes as it is: what of it the tower sees, and its tokens."""

    size: tuple[int, int]  # height, width in pixels
    crops: int
    tokens: int


@dataclass(frozen=True)
class SlowShape:
    """A ConvNeXt beside the CLIP-type tower, on ``pixels`` x ``pixels``.

    Its last map is added to the CLIP tower's tokens by so many ``adapters`` and a fusion; or, where
    ``grid`` is not 0, all its maps are mined by the tokens of ``grid``² crops and a whole.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    pixels: int
    adapters: int = 0
    grid: int = 0


@dataclass(frozen=True)
class ModelShape:
    """Decoder, tower and projector sizes; `projector_in` is the width the projector reads.

    `image_tokens` is the fixed number of an image's tokens where neither crops nor `tiles` tell
    it (0: they do).
    """

    name: str
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    vision: VisionShape
    projector_in: int
    tiles: tuple[tuple[int, int], ...] = ()  # any-resolution grids (height, width) in pixels
    image_tokens: int = 0
    slow: SlowShape | None = None  # a second tower
    family: str = "llava"  # whose closed forms and modules hold

    @property
    def attention_width(self) -> int:
        """Query heads times head size: the width of scores and values."""
        return self.heads * self.head_dim

    @property
    def layer_weights(self) -> int:
        """Weights a token meets in one decoder layer: q, k, v, o and three FFN matrices."""
        kv_width = self.kv_heads * self.head_dim
        attention = 2 * self.hidden * self.attention_width + 2 * self.hidden * kv_width
        return attention + 3 * self.hidden * self.ffn

    @property
    def projector_weights(self) -> int:
        """Weights a token meets in the two-layer projector."""
        return self.projector_in * self.hidden + self.hidden * self.hidden

    @property
    def head_weights(self) -> int:
        """Weights of the LM head."""
        return self.hidden * self.vocab

    def kv_bytes_per_entry(self, itemsize: int) -> int:
        """Bytes of one token in one layer's cache: keys and values of all KV heads."""
        return 2 * self.kv_heads * self.head_dim * itemsize
