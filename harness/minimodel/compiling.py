"""A decoder whose layers are compiled part by part, so that a method may route between them.

Compiled whole, a routed decoder would be one program for every count of tokens a layer keeps. The
parts of a layer take any count, and the routing stays as it is written.
"""

from __future__ import annotations

import torch
from torch import nn

# Each layer's attention is a program of its own (it holds the layer's number), and the compiler
# gives up on code that it has compiled more often than this.
PROGRAMS = 128


def compile_parts(decoder: nn.Module) -> None:
    """Compile attention, MLP and norms of every layer of `decoder`, for any number of tokens."""
    torch._dynamo.config.recompile_limit = PROGRAMS  # type: ignore[attr-defined]
    for layer in decoder.layers:  # type: ignore[union-attr]
        for part in layer.children():
            part.compile(dynamic=True)
