"""What is measured beside the answers: layers, and time.

Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from harness.options import option, validators
from harness.options.option import MEASURING, ON_BENCHES, JobKind, Record, setting
from harness.options.validators import positive, seconds, share

_analysis = partial(setting, group=option.LAYERS, jobs=ON_BENCHES, record=Record.SET)
_timing = partial(setting, group=option.TIMES, jobs=MEASURING, record=Record.USED)
_shape = partial(setting, group=option.TIMES, jobs=JobKind.THROUGHPUT, record=Record.USED)


@dataclass(frozen=True)
class Measuring:
    """Layer redundancy and measured time."""

    analyse: tuple[str, ...] = _analysis(
        (),
        validators.analyses,
        "LIST",
        help="after the cells, of dense: arank (rank of every layer's attention), damage (each "
        "layer skipped, whole and for half of the image tokens), plan (retention plans from them); "
        "of every method: regret (a second question on the cache kept after the first)",
    )
    analyse_samples: int = _analysis(
        50,
        positive,
        "N",
        help="the first N documents of each bench (regret: those whose image has another question)",
        needs="analyse",
    )
    analyse_kv: float = _analysis(  # the mean of p-MoD's released schedule
        0.5375,
        share,
        "SHARE",
        help="image-token cache of the plans",
        needs="analyse",
    )
    workload: tuple[str, ...] = _timing(
        (),
        validators.workloads,
        "SPEC",
        help="n_text=58:n_image=576:n_out=32:batch=8 (n_image as the model makes it when left "
        "out, 0 for none) or bench=gqa:n_out=32:batch=8; repeatable",
        repeats=True,
    )
    concurrency: tuple[int, ...] = setting(
        (),
        validators.concurrency,
        "LIST",
        help="--throughput under load instead: closed loops of so many requests of unequal "
        "lengths (1,8,32), drawn around --workload, --bench or --n-text and --n-out",
        group=option.TIMES,
        jobs=JobKind.THROUGHPUT,
        record=Record.SET,
    )
    random_weights: bool = _shape(
        False, help="the model's shapes with random weights, built on the device: needs no files"
    )
    layers: int | None = _shape(
        None,
        positive,
        "N",
        help="--random-weights: fewer decoder layers",
        needs="random_weights",
    )
    width: int | None = _shape(
        None, positive, "N", help="--random-weights: another hidden size", needs="random_weights"
    )
    repeats: int = _timing(30, positive, "N", help="rounds at least")
    warmup: int = _timing(10, positive, "N", help="runs before, a method and shape")
    min_seconds: float = _timing(10.0, seconds, "S", help="of dense's time, at least")
    max_seconds: float | None = _timing(
        None, seconds, "S", help="stop the rounds of a workload then"
    )
