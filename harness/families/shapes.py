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
class Mixture:
    """Decoder layers that have ``experts`` MLPs and a gate; a token meets ``chosen`` of them."""

    layers: tuple[int, ...]
    experts: int
    chosen: int


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
    tile_limit: int = 0  # pictures of more tiles are shrunk; 0: never
    image_tokens: int = 0
    slow: SlowShape | None = None  # a second tower
    family: str = "llava"  # whose closed forms and modules hold
    tied: bool = False  # the LM head is the embedding table
    mixture: Mixture | None = None
    mlp_matrices: int = 3  # of an MLP: gate, up and down, or two without a gate

    @property
    def attention_width(self) -> int:
        """Query heads times head size: the width of scores and values."""
        return self.heads * self.head_dim

    @property
    def attention_weights(self) -> int:
        """Weights a token meets in one layer's attention: q, k, v and o."""
        kv_width = self.kv_heads * self.head_dim
        return 2 * self.hidden * self.attention_width + 2 * self.hidden * kv_width

    @property
    def layer_weights(self) -> int:
        """Weights of one decoder layer without experts, all of which a token meets."""
        return self.attention_weights + self.mlp_matrices * self.hidden * self.ffn

    @property
    def mixed(self) -> tuple[bool, ...]:
        """Which decoder layers have experts."""
        chosen = self.mixture.layers if self.mixture else ()
        return tuple(i in chosen for i in range(self.layers))

    @property
    def ffn_met(self) -> tuple[int, ...]:
        """The MLP's width in every layer, of all experts that a token meets."""
        chosen = self.mixture.chosen if self.mixture else 1
        return tuple(self.ffn * (chosen if mixed else 1) for mixed in self.mixed)

    def weights_met(self, mixed: bool) -> int:
        """Weights a token meets in one decoder layer, with experts (their gate included) or not."""
        if not mixed or self.mixture is None:
            return self.layer_weights
        mlps = self.mixture.chosen * self.mlp_matrices * self.hidden * self.ffn
        return self.attention_weights + mlps + self.hidden * self.mixture.experts

    @property
    def all_weights_met(self) -> tuple[int, ...]:
        """`weights_met` of every decoder layer."""
        return tuple(self.weights_met(mixed) for mixed in self.mixed)

    @property
    def stored_weights(self) -> int:
        """Weights of all decoder layers as they lie in memory: every expert."""
        found = self.layers * self.layer_weights
        if self.mixture is not None:
            more = (self.mixture.experts - 1) * self.mlp_matrices * self.hidden * self.ffn
            found += len(self.mixture.layers) * (more + self.hidden * self.mixture.experts)
        return found

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
