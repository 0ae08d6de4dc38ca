"""The log of a cell's answers at the size of VQAv2, and what lmms-eval holds beside it.

    python benchmarks/response_log.py                    # 214,354 documents, batch 1 and 32
    python benchmarks/response_log.py --loop 4000,16000  # a document's share of the memory

No model: a stand-in answers, with a routing record of the size of LLaVA-1.5's (576 image tokens, 32
layers). Printed: bytes a document; CPU seconds (on a quiet machine: seconds) to open the log, as a
killed cell's next try does, and to read every answer, in order and across the file as batches
sorted by length lie; the resident memory that each step adds. ``--loop``: lmms-eval's evaluator
around the stand-in on as many gqa documents, each in a process of its own; the slope between two
numbers is a document's share, of lmms-eval's documents, requests and samples, and of the loop's.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.common.torchvision_ops import declare_missing_ops  # noqa: E402
from harness.store.packing import pack  # noqa: E402
from harness.store.record import DROPPED, dense_record  # noqa: E402
from harness.store.response_log import Answer, Batch, ResponseLog  # noqa: E402

VQAV2 = 214_354  # documents of its validation split
SYNCED = 100  # batches whose time to disk is measured


def resident() -> float:
    """MiB of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def record() -> bytes:
    """A packed record of a method that drops half of the image tokens behind layer 2."""
    made = dense_record(60, 576, 32, n_out=4, prefix=35)
    image = list(range(36, 36 + 576))
    made.route[2:, random.Random(0).sample(image, 288)] = DROPPED
    made.mod_layers[2:] = True
    return pack(made)


def batches(documents: int, size: int, packed: bytes) -> Any:
    for first in range(0, documents, size):
        positions = tuple(range(first, min(first + size, documents)))
        answer = Answer("a short answer", 4, packed, image_id="0" * 32)
        yield Batch(positions, (answer,) * len(positions), size, 0.1)


def log_times(documents: int, size: int) -> None:
    packed, sync = record(), os.fsync
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.jsonl"
        log, before = ResponseLog(path, "cell"), resident()
        wall = time.perf_counter()
        for number, batch in enumerate(batches(documents, size, packed)):
            if number == SYNCED:
                synced, os.fsync = time.perf_counter() - wall, lambda _: None
                started = time.process_time()
            log.append(batch)
        appended, os.fsync = time.process_time() - started, sync
        count = -(-documents // size)
        written, grown = path.stat().st_size, resident() - before
        del log
        before, started = resident(), time.process_time()
        log = ResponseLog(path, "cell")
        opened, held = time.process_time() - started, resident() - before
        assert len(log) == documents
        places = list(range(documents))
        taken = []
        for order in (places, random.Random(0).sample(places, documents)):
            started = time.process_time()
            for position in order:
                assert log.answer(position).n_out == 4
            taken.append(time.process_time() - started)
        after = resident() - before
    print(
        f"batch {size}: {documents:,} documents, {written / documents:.0f} bytes each; append "
        f"{1e3 * synced / SYNCED:.2f} ms a batch with its way to this disk, "
        f"{1e3 * appended / (count - SYNCED):.3f} ms without, memory +{grown:.0f} MiB; open "
        f"{opened:.1f} s, +{held:.0f} MiB; read all {taken[0]:.1f} s in order, {taken[1]:.1f} s "
        f"across, then +{after:.0f} MiB",
        flush=True,
    )


def loop_memory(documents: int) -> None:
    """One number of ``--loop``: MiB before, behind the requests, and behind the scores."""
    declare_missing_ops()
    import datasets

    from harness.bench.benches import resolve_bench
    from harness.bench.lmms import RoutedModel
    from harness.bench.quiet import quiet
    from harness.bench.upstream import run_lmms_eval
    from tests.fixtures.hub_data import write_gqa
    from tests.ranks_tools import FakeGenerator, FakePrompter

    class Watched(RoutedModel):
        asked = 0.0

        def generate_until(self, requests: list[Any]) -> list[str]:
            self.asked = resident()
            return super().generate_until(requests)

    with tempfile.TemporaryDirectory() as folder, quiet():
        os.environ["LMMS_EVAL_DATASETS_CACHE"] = f"{folder}/cache"
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"
        write_gqa(Path(folder), ["red"] * documents, per_image=documents)
        bench = resolve_bench("gqa", folder)
        bench.require(None)
        os.fsync = lambda _: None  # it is memory that is measured
        lm = Watched(
            FakePrompter(),  # type: ignore[arg-type]
            FakeGenerator("stand-in", 1.0),  # type: ignore[arg-type]
            batch_size=32,
            open_log=lambda print_: ResponseLog(Path(folder) / "log", print_),
            pictured=lambda position: False,
        )
        before, started = resident(), time.process_time()
        results, _ = run_lmms_eval(lm, bench, None, 0)
        seconds, after = time.process_time() - started, resident()
    assert len(results["samples"]["gqa"]) == documents
    print(f"{documents} {before:.1f} {lm.asked:.1f} {after:.1f} {seconds:.1f}", file=sys.stderr)


def loop_slope(numbers: list[int]) -> None:
    rows = []
    for number in numbers:
        command = [sys.executable, __file__, "--one", str(number)]
        run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
        rows.append([float(word) for word in run.stderr.strip().splitlines()[-1].split()])
    (few, _, asked, after, seconds), (many, _, more_asked, more_after, longer) = rows
    by = (many - few) / 1024  # MiB over thousands of documents are KiB
    print(
        f"lmms-eval and the loop, {few:.0f} to {many:.0f} documents: "
        f"{(more_asked - asked) / by:.2f} KiB a document when it asks, "
        f"{(more_after - after) / by:.2f} KiB when all is scored, "
        f"{1e3 * (longer - seconds) / (many - few):.2f} ms a document",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=VQAV2)
    parser.add_argument("--batch", default="1,32")
    parser.add_argument("--loop", default="")
    parser.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.one:
        loop_memory(words.one)
    elif words.loop:
        loop_slope([int(one) for one in words.loop.split(",")])
    else:
        for size in words.batch.split(","):
            log_times(words.documents, int(size))


if __name__ == "__main__":
    main()
