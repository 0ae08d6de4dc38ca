"""What a batch takes of a GPU, predicted: memory, the largest batch, bounds of time.

KV cache      exact: the entries that the routing record says are stored, after the last token
weights       the closed form of the model's shape
activations   an estimate (`harness.timing.fit.need`, at the widest layer)
time          a roofline: the larger of FLOPs / peak and bytes / bandwidth. Bytes are the weights,
              once a step, and in decode the cache. No kernel reaches it: it bounds, and says
              which of the two binds; it is never a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB, MIB = 1024.0**3, 1024.0**2
ROOM = 0.95
"""The share of a GPU's memory that counts as usable."""


@dataclass(frozen=True)
class Gpu:
    """Memory in GiB, peak in TFLOP/s, bandwidth in GB/s; the last two None for memory alone."""

    name: str
    gib: float
    tflops: float | None = None
    gb_s: float | None = None


@dataclass(frozen=True)
class Sample:
    """What one sample takes: FLOPs in TFLOP, cache in MiB, activations in bytes."""

    prompt: float
    token: float
    kv_prompt: float
    kv_token: float
    activations: float

    @classmethod
    def of(cls, readout: Mapping[str, Any], n_out: int, activations: float) -> Sample:
        """From a sample's cost columns (`harness.cost.readouts.read_out`)."""
        sight = [readout["tflops_vision"], readout["tflops_projector"]]
        steps = max(1, n_out - 1)  # the first new token comes with the prompt
        grown = readout["kv_mib_end"] - readout["kv_mib"]
        return cls(
            prompt=readout["tflops_prefill"] + sum(one or 0.0 for one in sight),
            token=readout["tflops_decode"] / steps,
            kv_prompt=readout["kv_mib"],
            kv_token=grown / steps,
            activations=activations,
        )

    def kv_end(self, n_out: int) -> float:
        """MiB after the last of `n_out` tokens."""
        return self.kv_prompt + self.kv_token * max(0, n_out - 1)


def capacity_row(
    sample: Sample, weights: float, batch: int, n_out: int, gpu: Gpu | None
) -> dict[str, Any]:
    """Columns of capacity.csv; `weights` in bytes. GPU columns stay empty without one."""
    kv = batch * sample.kv_end(n_out) * MIB
    activations = batch * sample.activations
    row: dict[str, Any] = {
        "batch": batch,
        "n_out": n_out,
        "weights_gib": weights / GIB,
        "kv_gib": kv / GIB,
        "activations_gib": activations / GIB,
        "memory_gib": (weights + kv + activations) / GIB,
        "tflops_prompt": sample.prompt,
        "tflops_token": sample.token,
        "kv_mib_prompt": sample.kv_prompt,
        "kv_mib_token": sample.kv_token,
    }
    if gpu is None:
        return row
    usable = gpu.gib * ROOM * GIB
    each = sample.kv_end(n_out) * MIB + sample.activations
    row |= {
        "gpu": gpu.name,
        "gpu_gib": gpu.gib,
        "usable_gib": usable / GIB,
        "largest_batch": largest_batch(usable, weights, each),
        "peak_tflops": gpu.tflops,
        "peak_gb_s": gpu.gb_s,
    }
    if gpu.tflops is not None and gpu.gb_s is not None:
        row["prefill_ms_least"] = bound(batch * sample.prompt, weights, gpu.tflops, gpu.gb_s)
        cache = batch * (sample.kv_prompt + sample.kv_end(n_out)) / 2 * MIB
        row["decode_ms_least"] = bound(batch * sample.token, weights + cache, gpu.tflops, gpu.gb_s)
    return row


def largest_batch(usable: float, weights: float, each: float) -> int:
    """Samples of ``each`` bytes that fit beside the weights; 0 where these leave no room."""
    return max(0, int((usable - weights) // each))


def bound(tflop: float, moved: float, peak: float, bandwidth: float) -> float:
    """Milliseconds of a step at the peaks: TFLOP and bytes over TFLOP/s and GB/s."""
    return 1e3 * max(tflop / peak, moved / (bandwidth * 1e9))


def whole_call(
    sample: Sample, weights: float, batch: int, n_out: int, peak: float, bandwidth: float
) -> float:
    """Milliseconds of a whole call at the peaks: the prompt, then `n_out` - 1 steps."""
    steps = max(0, n_out - 1)
    cache = batch * (sample.kv_prompt + sample.kv_end(n_out)) / 2 * MIB
    step = bound(batch * sample.token, weights + cache, peak, bandwidth)
    return bound(batch * sample.prompt, weights, peak, bandwidth) + steps * step
