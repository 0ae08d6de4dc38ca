"""Columns of measured times. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table

THROUGHPUT = table(
    "throughput.csv",
    "Measured times of every method, workload and phase.",
    "cell_id method params workload phase batch device attn dtype",
    CELL_LINES,
    """
workload | text | | what was timed, as `--workload` says it
device | text | | name of the device
attn | text | | attention backend
dtype | text | | precision
batch | int | samples | timed together
n_text | int | tokens | of text in a prompt
n_image | int | tokens | of images in a prompt
n_out | int | tokens | generated in every row
phase | text | | `vision`, `prefill`, `decode`, `end_to_end`, `selection`, `preprocess`
median_ms | float | ms | of the rounds
p10_ms | float | ms | 10th percentile
p90_ms | float | ms | 90th percentile
samples_per_s | float | 1/s | at the median
tokens_per_s | float | 1/s | generated tokens only
speedup_vs_dense | float | ratio | dense's median / the method's
speedup_ci_low | float | ratio | 95 % interval: bootstrap over whole rounds
speedup_ci_high | float | ratio | its upper end
flops_ratio | float | ratio | dense / method under `causal`: above 1 the method does less
realisation | float | ratio | `speedup_vs_dense` / `flops_ratio`
realisation_ci_low | float | ratio | from the draws of the speed-up; FLOPs are not sampled
realisation_ci_high | float | ratio | its upper end
peak_mib | float | MiB | the allocator's peak in the phase; empty on a CPU
kv_mib | float | MiB | of the whole batch after the last token, from the cache tensors
repeats | int | rounds | behind the figures
tflops | float | TFLOP | of one sample, under `causal`
first_ms | float | ms | the very first call, warm-up included
speedup_vs_best | float | ratio | to dense on the best backend, where that is another one
agreement | float | share | rows of the batch that answer as they do alone
rejected | int | rounds | left out because the clock had dropped
sm_mhz | float | MHz | median clock of the device
memory_mhz | float | MHz | median clock of its memory
watt | float | W | median power
celsius | float | °C | median temperature
joules_per_sample | float | J | above idle
notes | text | | what the run remarked
threads | int | threads | of the model, on a CPU
""",
)
ROUNDS = table(
    "rounds/<cell_id>.csv",
    "The raw times behind `throughput.csv`.",
    "label round phase",
    """
cell_id | text | | as in `cells.csv`
label | text | | as in `cells.csv`
round | int | | from 0
phase | text | | as in `throughput.csv`
ms | float | ms | of this round
kept | flag | | 0: left out because the clock had dropped
""",
)
