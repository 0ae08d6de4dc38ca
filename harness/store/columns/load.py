"""Columns of what a method serves under load. Torch-free."""

from __future__ import annotations

from harness.store.columns.table import CELL_LINES, table


def _ratio(of: str) -> str:
    """A ratio to dense with its interval."""
    return f"""
{of}_ratio | float | ratio | the method's over dense's, of the same requests
{of}_ratio_low | float | ratio | 95 % interval: bootstrap over whole rounds
{of}_ratio_high | float | ratio | its upper end
"""


STEPS = ("vision", "selection", "prefill", "padding", "decode", "waiting", "rest")


def _added(step: str) -> str:
    """What a step adds to dense's, with its interval."""
    return f"""
{step}_added_ms | float | ms | `{step}_ms` over dense's: what it adds, below 0 what it saves
{step}_added_low | float | ms | 95 % interval: bootstrap over whole rounds
{step}_added_high | float | ms | its upper end
"""


def _percentiles(name: str, what: str) -> str:
    """Median and 95th percentile of a time, each with its ratio to dense."""
    return "".join(
        f"{name}_p{p}_ms | float | ms | {what}, {word}{_ratio(f'{name}_p{p}')}"
        for p, word in ((50, "median"), (95, "95th percentile"))
    )


LOAD = table(
    "load.csv",
    "What every method serves with so many requests in flight (`--concurrency`).",
    "cell_id method params workload concurrency device attn dtype",
    CELL_LINES,
    """
workload | text | | what was drawn, and how many requests were in flight
device | text | | name of the device
attn | text | | attention backend
dtype | text | | precision
threads | int | threads | of the model, on a CPU
backend | text | | what served: `batches` are this engine's
concurrency | int | requests | in flight, in a closed loop
requests | int | | behind the figures
repeats | int | rounds | batches of `concurrency` requests
n_text | float | tokens | of text in a prompt, mean
n_image | float | tokens | of images in a prompt, mean
n_out | float | tokens | of an answer, mean
requests_per_s | float | 1/s | answered in the time of all rounds
requests_per_s_low | float | 1/s | 95 % interval: bootstrap over whole rounds
requests_per_s_high | float | 1/s | its upper end
tokens_per_s | float | 1/s | of answers
""",
    _ratio("requests_per_s"),
    _percentiles("ttft", "from a request's sending to its first token"),
    _percentiles("between", "from one token of an answer to the next"),
    _percentiles("latency", "from a request's sending to its last token"),
    """
kv_mib | float | MiB | of all requests in flight at their last tokens, from the record
""",
    _ratio("kv"),
    """
kv_held_mib | float | MiB | of the batch's cache tensors: padding and ended requests as well
gpu | text | | as `--gpu` says it
fits | int | requests | in flight that its memory would hold, predicted from `kv_mib`
""",
    _ratio("fits"),
    """
padding_share | float | share | of the prompt's positions, over all layers, that pad shorter rows
waiting_share | float | share | of a slot's time after its answer, until the batch's longest ends
selection_share | float | share | of the time: the method's decisions in the prompt
kept_share | float | share | of image tokens that a layer processes, mean over layers
request_ms | float | ms | of the engine's time that a request takes: 1000 / `requests_per_s`
vision_ms | float | ms | of it: tower and projector
selection_ms | float | ms | of it: the method's decisions in the prompt
prefill_ms | float | ms | of it: the rest of the prompt, positions that are no padding
padding_ms | float | ms | of it: the rest of the prompt, padding (by share of positions)
decode_ms | float | ms | of it: the other tokens of the answers
waiting_ms | float | ms | of it: slots whose answer had ended
rest_ms | float | ms | of it: what is in none of these
""",
    *(_added(step) for step in STEPS),
    """
agreement | float | share | rows of a batch that answer as they do alone
rejected | int | rounds | left out because the clock had dropped
notes | text | | what the run remarked
""",
)
