"""Columns of what a workload takes of a device. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table

CAPACITY = table(
    "capacity.csv",
    "Memory of a batch by part, and what the named GPU holds; predicted, nothing is measured.",
    "cell_id",
    CELL_LINES,
    """
batch | int | samples | asked for
n_out | int | tokens | generated in every row
dtype | text | | of weights and cache
weights_gib | float | GiB | decoder, embeddings, head, tower, projector; norms, biases left out
kv_gib | float | GiB | of the batch after the last token, from the routing record
activations_gib | float | GiB | of the batch's prompt in the widest layer; an estimate
memory_gib | float | GiB | the three together; workspace and fragmentation are not counted
gpu | text | | as `--gpu` says it
gpu_gib | float | GiB | its memory
usable_gib | float | GiB | the share of it that counts as usable
largest_batch | int | samples | that fit into `usable_gib`; 0: the weights leave no room
prefill_ms_least | float | ms | tower and prompt of the batch at the GPU's peaks: a bound
decode_ms_least | float | ms | a token of the batch at the GPU's peaks: a bound
tflops_prompt | float | TFLOP | tower, projector and prefill of one sample, causal
tflops_token | float | TFLOP | of a new token of one sample
kv_mib_prompt | float | MiB | of one sample after its prompt
kv_mib_token | float | MiB | that a new token adds
peak_tflops | float | TFLOP/s | of the GPU, 16-bit, dense
peak_gb_s | float | GB/s | of its memory
""",
)
