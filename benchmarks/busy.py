"""What other processes on the machine cost: 40 samples alone, and beside K busy processes.

    python benchmarks/busy.py [--busy 6] [--samples 40] [--out busy.csv]
    python benchmarks/busy.py --width 1024        # random decoder layers of that hidden size

By threads and by the way they wait: `spin` is OpenMP's own, `passive` is what a run sets. Each
timing is a process of its own, after a warm-up; `share` is the time alone over the time beside the
others. With b other processes on c cores, a process of one thread can expect min(1, c / (b + 1)).
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.threads import SET, WAITING, cores  # noqa: E402

COLUMNS = ("work", "busy", "threads", "waiting", "seconds", "cpu_s", "share", "device", "notes")
SPIN = "while True: pass"


def samples(count: int) -> Any:
    """Documents of the mini gqa through the loop, dense, batch 8."""
    import methods
    from harness.bench.loop import evaluate
    from harness.model.catalog import load_model

    session, dense = load_model("tiny-llava", device="cpu"), methods.parse("dense")

    def work() -> None:
        if session.features is not None:
            session.features.clear()
        evaluate(session, dense, "gqa", limit=count, batch_size=8, progress=False)

    return work


def layers(width: int, rows: int) -> Any:
    """Four random decoder layers: a prompt of 200 tokens, then 8 single tokens."""
    import torch

    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from transformers import DynamicCache, LlamaConfig, LlamaModel

    model = LlamaModel(
        LlamaConfig(
            hidden_size=width, intermediate_size=int(2.7 * width), num_hidden_layers=4,
            num_attention_heads=width // 64, num_key_value_heads=width // 64, vocab_size=1000,
        )
    ).eval()  # fmt: skip
    prompt, token = torch.randn(rows, 200, width), torch.randn(rows, 1, width)

    @torch.inference_mode()
    def work() -> None:
        cache = DynamicCache()
        for given in (prompt, *[token] * 8):
            model(inputs_embeds=given, past_key_values=cache, use_cache=True)

    return work


def once(asked: argparse.Namespace) -> None:
    """In a process of its own: the median of some repeats, wall and processor seconds."""
    import torch

    torch.set_num_threads(asked.threads)
    work = layers(asked.width, asked.rows) if asked.width else samples(asked.samples)
    work()
    found = []
    for _ in range(asked.repeats):
        began, used = time.perf_counter(), time.process_time()
        work()
        found.append((time.perf_counter() - began, time.process_time() - used))
    print(*sorted(found)[len(found) // 2])


@contextmanager
def beside(count: int) -> Iterator[None]:
    """So many processes that do nothing but work."""
    others = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for one in others:
            one.kill()
            one.wait()


def timed(asked: argparse.Namespace, threads: int, waiting: str) -> tuple[float, float] | None:
    """Seconds of one setting; None where it did not end in time."""
    env = {name: value for name, value in os.environ.items() if name not in SET}
    env |= WAITING if waiting == "passive" else {}
    words = ["--samples", asked.samples, "--width", asked.width, "--rows", asked.rows]
    words += ["--repeats", asked.repeats, "--threads", threads]
    command = [sys.executable, __file__, "--once", *map(str, words)]
    try:
        run = subprocess.run(
            command, env=env, capture_output=True, text=True, check=True, timeout=asked.patience
        )
    except subprocess.TimeoutExpired:
        return None
    wall, used = map(float, run.stdout.split()[-2:])
    return wall, used


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--busy", type=int, default=6)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--width", type=int, default=0, help="random layers instead of the model")
    parser.add_argument("--rows", type=int, default=1, help="prompts at once, with --width")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--patience", type=float, default=300.0, help="seconds before giving up")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(argv)
    if asked.once:
        once(asked)
        return
    from harness.timing.device import busy_host, cpu_name

    note, rows = busy_host(), []
    work = f"width {asked.width}, {asked.rows} rows" if asked.width else f"{asked.samples} gqa"
    alone: dict[tuple[int, str], float] = {}
    for busy in dict.fromkeys((0, asked.busy)):
        for threads in dict.fromkeys((1, cores())):
            for waiting in ("passive", "spin")[: 1 if threads == 1 else 2]:
                with beside(busy):
                    found = timed(asked, threads, waiting)
                if busy == 0 and found:
                    alone[threads, waiting] = found[0]
                base = alone.get((threads, waiting))
                rows.append(
                    {
                        "work": work, "busy": busy, "threads": threads, "waiting": waiting,
                        "seconds": round(found[0], 3) if found else None,
                        "cpu_s": round(found[1], 3) if found else None,
                        "share": round(base / found[0], 3) if found and base else None,
                        "device": cpu_name(),
                        "notes": note if found else f"no end after {asked.patience:g} s",
                    }
                )  # fmt: skip
                print("  ".join(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    if asked.out is not None:
        with asked.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
