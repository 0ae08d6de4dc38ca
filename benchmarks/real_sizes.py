"""Every known model at its published size without weights: parts, hooks, cost, memory, in seconds.

    python benchmarks/real_sizes.py                                  # all of them
    python benchmarks/real_sizes.py Qwen/Qwen2.5-VL-7B-Instruct      # some

Nothing is timed here but the dry run itself; `harness.check.dryrun` says what it does.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.check.dryrun import dry_run  # noqa: E402
from harness.families.catalog import KNOWN, family_of  # noqa: E402

HEAD = "model | parameters (B) | predicted | memory (GiB) | image (TFLOP) | counters | methods | s"


def main(names: list[str]) -> None:
    """Print a row a model."""
    loads = [n for n, c in KNOWN.items() if family_of(c, n, sizes_only=True).loads]
    print(HEAD)
    for name in names or loads:
        one = dry_run(name)
        print(
            f"{name} | {one.parameters / 1e9:.3f} | {one.off:+.2%} | {one.memory / 2**30:.1f} | "
            f"{one.vision_flops / 1e12:.3f} | {one.difference:.1e} | "
            f"{len(one.works)} of {len(one.works) + len(one.refused)} | {one.seconds:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
