"""MQT-LLaVA as released: a resampler and a tuned language model on LLaVA-1.5's frozen tower.

The names were read off the released code (commit 92c35d0), not off the weight file: under
`model.query_abstractor.` stand `query`, `pos_embed` (fixed), `proj` [w, d], `ln_q`, `ln_k`, `ln_v`
and one `attn` of torch's `MultiheadAttention` form; everything else is the tuned language model.
There is no projector, so it becomes a checkpoint of `mqt` for a LLaVA-1.5 of its size. The tower,
where it stands in the file, is the base model's own and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from harness.model.convert.layout import (
    LEFT_OUT,
    METHOD,
    MODEL,
    MethodLayout,
    Place,
    Placing,
    Source,
    Target,
    rerouted,
)
from harness.model.convert.modules import filled
from harness.model.convert.released import listed
from methods import build
from methods.base import Method, ModelInfo

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLER, TOWER = "model.query_abstractor.", "model.vision_tower."
NORMS = ("ln_q", "ln_k", "ln_v")
OWN = {
    *("query", "pos_embed", "proj", "attn.in_proj_weight", "attn.in_proj_bias"),
    *(f"{n}.{part}" for n in (*NORMS, "attn.out_proj") for part in ("weight", "bias")),
}
TUNED = ("model.language_model.", "lm_head.")


class MqtLayout(MethodLayout):
    """A checkpoint of `mqt` that also holds the tuned language model."""

    name: ClassVar[str] = "MQT-LLaVA"

    def claims(self, source: Source) -> bool:
        return any(name.startswith(SAMPLER) for name in source.names)

    def dense(self, source: Source) -> Source:
        if source.config.get("unfreeze_mm_vision_tower"):
            raise source.refuse("its vision tower was tuned, which is not converted")
        # No projector of its own; and only the tower's sizes are needed.
        return replace(source.with_config(mm_projector_type="mlp2x_gelu"), sizes_only=True)

    def wrapped(self, source: Source, target: Target) -> Target:
        def finish(found: dict[str, Tensor], info: ModelInfo) -> tuple[Method, nn.Module | None]:
            return _method(source, found, info)

        own = rerouted(target, place)[:1]  # a tower outside is the base model's
        return replace(target, streams=own, method=finish, only=TUNED)


def place(name: str, dense: Placing) -> Place | None:
    """The resampler goes to the method, the language model where LLaVA's goes."""
    if name.startswith(SAMPLER):
        return Place(METHOD, name.removeprefix(SAMPLER))
    if name.startswith(TOWER):
        return LEFT_OUT
    found = dense(name)
    inside = found is None or found.part != MODEL or found.name.startswith(TUNED)
    return found if inside else None


def _method(
    source: Source, found: dict[str, Tensor], info: ModelInfo
) -> tuple[Method, nn.Module | None]:
    import torch

    from methods.resampler import places

    for names, what in ((OWN - found.keys(), "lacks"), (found.keys() - OWN, "has")):
        if names:
            what += f" {listed(SAMPLER + name for name in names)}"
            raise source.refuse(f"the resampler {what}: not MQT-LLaVA's layout")
    queries = int(found["query"].shape[0])
    method = build("mqt", {"queries": queries})
    modules = filled(source, method, info, renamed(found))
    own, _ = places(queries, info.tower_side, info.tower_width)
    said = found["pos_embed"].float()
    if said.shape != own.shape or not torch.allclose(said, own, atol=5e-3):
        raise source.refuse(f"{SAMPLER}pos_embed is not the 2-D sin-cos table of the released code")
    return method, modules


def renamed(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released resampler under the names of `methods.resampler`; `pos_embed` is made there."""
    result = {"query.weight": found["query"], "proj.weight": found["proj"].T.contiguous()}
    for part in ("weight", "bias"):
        result |= {f"{n}.{part}": found[f"{n}.{part}"] for n in NORMS}
        result[f"out.{part}"] = found[f"attn.out_proj.{part}"]
        thirds = found[f"attn.in_proj_{part}"].chunk(3)
        result |= {f"{n}.{part}": third for n, third in zip("qkv", thirds, strict=True)}
    return result
