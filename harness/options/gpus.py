"""GPUs by name, as their makers' data sheets have them: memory, peak arithmetic, bandwidth.

Torch-free. Peaks are dense (no structured sparsity) 16-bit tensor-core rates with 32-bit
accumulation; a GPU without bfloat16 has its float16 rate. Memory is what the card is sold as, in
GiB: drivers keep some of it, so `bounds.ROOM` of it counts as usable.
"""

from __future__ import annotations

import re

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.statistics.bounds import Gpu

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 16, 65, 320),
        Gpu("v100-32g", 32, 125, 900),
        Gpu("a10", 24, 125, 600),
        Gpu("l4", 24, 121, 300),
        Gpu("rtx-3090", 24, 71, 936),
        Gpu("rtx-4090", 24, 165, 1008),
        Gpu("a100-40g", 40, 312, 1555),
        Gpu("a100-80g", 80, 312, 2039),
        Gpu("l40s", 48, 362, 864),
        Gpu("h100-80g", 80, 989, 3350),
        Gpu("h200", 141, 989, 4800),
    )
}
"""SXM cards where there are several forms of one."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*gi?b", re.IGNORECASE)


def parse_gpu(text: str) -> str:
    """The canonical name, or `24GiB`. Raises UsageError, one line, for anything else."""
    size = _SIZE.fullmatch(text.strip())
    if size:
        if float(size[1]) <= 0:
            raise UsageError(f"'{text}' is no memory")
        return f"{float(size[1]):g}GiB"
    name = text.strip().lower().replace("_", "-")
    if name not in GPUS:
        forms = [f"'{one}'" for one in GPUS if one.startswith(f"{name}-")]
        if len(forms) > 1:
            raise UsageError(f"'{text}' comes in several sizes: {' or '.join(forms)}")
        raise UsageError(unknown("GPU", text, GPUS, "or an amount as 24GiB"))
    return name


def find_gpu(name: str) -> Gpu:
    """The GPU of a canonical name."""
    size = _SIZE.fullmatch(name)
    return Gpu(name, float(size[1])) if size else GPUS[name]
