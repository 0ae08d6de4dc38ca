"""What `auto` means where a run takes place. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from methods import REFERENCE

DENSE = REFERENCE  # the method whose declared role is the reference
# What `--batch-size auto` tries first; a batch that does not fit is halved.
AUTO_BATCH = {"cpu": 8, "mps": 8, "cuda": 32}


@dataclass(frozen=True)
class Runtime:
    """The resolved wishes: device type (cpu, cuda, mps), dtype and attention backend.

    ``threads``: of the model on a CPU, where the run directory fixes them.
    """

    device: str
    dtype: str
    attn: str
    threads: int | None = None
