"""Words for the conditions of a run that the options and the code that acts on them share.

They stand apart from the options, so that the text of an option is no part of a cell's key.
"""

from __future__ import annotations

DTYPES = ("auto", "float32", "bfloat16", "float16")
DTYPE_ALIASES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes of a number in the cache
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
ATTENTION_ALIASES = {"flash": "flash_attention_2", "fa2": "flash_attention_2"}
# What `--batch-size auto` tries first; a batch that does not fit is halved.
AUTO_BATCH = {"cpu": 8, "mps": 8, "cuda": 32}
OVER_LENGTH = "over-length"  # a fault of single samples that --allow counts instead
BAD_ROWS = "bad-rows"  # rows of own data that are left out, and counted
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")  # of transformers
