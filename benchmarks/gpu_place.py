"""Where ``gpu.py`` runs: the device, how fast it multiplies and copies, and what run.json says."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import torch

from harness.common.errors import UsageError
from harness.store.cells import package_versions
from harness.timing.device import Watch, busy_host, cpu_name

SEED = 0


@dataclass(frozen=True)
class Place:
    """Where it runs: device, dtype, speed of a matrix product (FLOP/s) and of copying (B/s)."""

    device: torch.device
    dtype: torch.dtype
    name: str
    flops: float
    bytes: float
    free: int | None

    @classmethod
    def found(cls, dry: bool) -> Place:
        """The first GPU, or the CPU in a dry run. Raises UsageError."""
        if not dry and not torch.cuda.is_available():
            raise UsageError("no CUDA device here: --dry-run takes the CPU")
        if dry:
            torch.set_num_threads(1)  # more of them gain nothing at this size
        device = torch.device("cpu" if dry else "cuda:0")
        dtype = torch.float32 if dry else torch.bfloat16
        side = 512 if dry else 8192
        one = torch.randn(side, side, device=device, dtype=dtype)
        product = _seconds(lambda: one @ one, device)
        copied = _seconds(one.clone, device)
        name = cpu_name() if dry else torch.cuda.get_device_name(device)
        free = None if dry else int(torch.cuda.mem_get_info(device)[0])
        return cls(device, dtype, name, 2 * side**3 / product, 2 * one.nbytes / copied, free)


def _seconds(call: Any, device: torch.device, runs: int = 5) -> float:
    """The fastest of some calls, each waited for."""
    best = float("inf")
    for _ in range(runs + 1):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def describe(
    place: Place, watch: Watch, options: argparse.Namespace, n_text: int, n_out: int
) -> dict[str, Any]:
    """run.json: what the numbers were had under."""
    cuda = place.device.type == "cuda"
    return {
        "device_name": place.name, "device": place.device.type,
        "dtype": str(place.dtype).removeprefix("torch."), "attn": "sdpa", "weights": "random",
        "dry_run": options.dry_run, "threads": torch.get_num_threads(), "seed": SEED,
        "cuda": torch.version.cuda if cuda else None,
        "clock": "CUDA events" if cuda else "host clock (CPU)",
        "device_state": "recorded by NVML" if watch.there else "clocks not recorded",
        "clocks_at_start": vars(watch.read()) if watch.there else None,
        "busy": busy_host(), "versions": package_versions(), "methods": list(options.methods),
        "models": list(options.models), "n_text": n_text, "n_out": n_out,
        "matrix_product_tflops": round(place.flops / 1e12, 2),
        "created_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip


def bus_id(place: Place) -> str | None:
    """By which NVML knows the device."""
    if place.device.type != "cuda":
        return None
    at = torch.cuda.get_device_properties(place.device)
    if not hasattr(at, "pci_bus_id"):
        return None
    return f"{at.pci_domain_id:08X}:{at.pci_bus_id:02X}:{at.pci_device_id:02X}.0"
