"""Layers compiled one by one, or part by part, so that a method may route between them.

Compiled whole, a routed decoder would be one program for every count of tokens a layer keeps. The
parts of a layer take any count, and the routing stays as it is written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Each layer's attention is a program of its own (it holds the layer's number), and the compiler
# gives up on code that it has compiled more often than this.
PROGRAMS = 128


def compile_parts(decoder: nn.Module) -> None:
    """Compile attention, MLP and norms of every layer of `decoder`, for any number of tokens."""
    torch._dynamo.config.recompile_limit = PROGRAMS  # type: ignore[attr-defined]
    for layer in decoder.layers:  # type: ignore[union-attr]
        for part in layer.children():
            part.compile(dynamic=True)


def quicken_tower(tower: nn.Module, compiled: bool) -> None:
    """A Qwen2.5-VL tower for training: its patches multiplied as rows, its blocks compiled for each
    size where `compiled`. Same function, same weights.

    16 pictures of 192 px there and back, one core with matrix units: 2.2 s, with rows 1.5 (a
    convolution over patches that do not overlap goes through them one at a time), compiled 1.1.
    """

    def rows(embed: Any, patches: Tensor) -> Tensor:
        weight = embed.proj.weight  # [H, channels, frames, rows, columns]
        return functional.linear(patches.to(weight.dtype), weight.flatten(1), embed.proj.bias)

    tower.patch_embed.forward = rows.__get__(tower.patch_embed)  # type: ignore
    if compiled:
        torch._dynamo.config.recompile_limit = PROGRAMS  # type: ignore[attr-defined]
        for block in tower.blocks:  # type: ignore[union-attr]
            block.compile(dynamic=False)
