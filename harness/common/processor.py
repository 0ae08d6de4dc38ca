"""What this machine's processor computes with. Torch-free."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

# Instructions for a number format, as /proc/cpuinfo names them (x86, ARM).
INSTRUCTIONS = {
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


@cache
def flags() -> frozenset[str]:
    """The processor's features; empty where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, "").split())


def lacks(dtype: str) -> str:
    """A line where the processor has no instructions for `dtype`; empty where it has, or may."""
    wanted, known = INSTRUCTIONS.get(dtype), flags()
    if wanted is None or not known or known & {*wanted}:
        return ""
    return (
        f"this processor ({platform.machine()}) has no instructions for {dtype}: it is computed "
        "correctly, and far slower than float32"
    )
