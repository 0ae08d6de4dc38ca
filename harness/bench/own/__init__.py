"""Own data as benches: a table of questions with images, or an lmms-eval task of the user's own.

`tables` reads files, `rows` and `images` check what stands in them, `bench` makes a bench of it,
and `task` asks and scores with lmms-eval's functions, which alone loads torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from harness.bench.benches import Bench
from harness.common.errors import UsageError
from harness.common.ownfiles import TABLES, TASKS


def resolve_own(name: str, root: Path | None, allow: Sequence[str] = ()) -> Bench:
    """The bench behind a path. Raises UsageError, one line, for what cannot be read or is bad.

    ``root``: the folder of local copies that an own task may read from. ``allow``: ``bad-rows``.
    """
    from harness.bench.own.bench import rows_bench
    from harness.bench.own.usertask import task_bench

    path = Path(name).expanduser()
    suffix = path.suffix.lower()
    if not os.path.exists(path):
        kinds = ", ".join((*TABLES, *TASKS))
        raise UsageError(f"--bench: '{name}' is not there: expected a folder, or a file ({kinds})")
    if path.is_file() and suffix in TASKS:
        return task_bench(path, root)
    if path.is_file() and suffix not in TABLES:
        raise UsageError(
            f"--bench: {path.name} is no table of questions ({', '.join(TABLES)}) and no task file "
            f"({', '.join(TASKS)})"
        )
    return rows_bench(path, allow)
