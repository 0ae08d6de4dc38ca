"""Every method at a 7B model's true size on one data-centre GPU, in under eight minutes.

    python benchmarks/gpu.py                 # results/<device>/: throughput.csv, run.json, figures
    python benchmarks/gpu.py --model Qwen/Qwen2.5-VL-7B-Instruct     # results/<device>/<model>/
    python benchmarks/gpu.py --rehearse      # the same path at toy size on a CPU, half a minute

Random weights in bfloat16: speed does not need trained ones. 58 text tokens around the model's
ordinary image (LLaVA-NeXT: 672 x 672, 2,928 image tokens; Qwen2.5-VL: 672 x 672, 576), 8 new
tokens, batch 1 and 8; whether it fits (27 GiB for LLaVA-NeXT at batch 8) is checked before the
model is built. The time limit of each workload keeps the whole within its minutes; rows
that got fewer rounds than the protocol asks for say so. After --seconds the run is stopped; what is
finished is kept and drawn, as it is when a workload fails, and the same command goes on from there.
gamma is timed with its training rule (top-k): under a random router its threshold skips nothing.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.command.cli import main as run_suite  # noqa: E402
from harness.common.errors import EXIT_CELLS_FAILED, EXIT_OK, EXIT_USAGE  # noqa: E402

MODEL = "llava-hf/llava-v1.6-vicuna-7b-hf"
METHODS = "mod,gamma,pmod,fastv,llavolta,random,uniform,pool,blind"
KEPT = ("throughput.csv", "cells.csv", "run.json", "report.md", "figures", "rounds", "logs")
FULL = ["--device", "cuda", "--dtype", "bfloat16", "--attn", "sdpa"]
FULL += ["--repeats", "20", "--warmup", "3", "--max-seconds", "60"]
FULL += ["--workload", "n_text=58:n_out=8:batch=1", "--workload", "n_text=58:n_out=8:batch=8"]
TOY = ["--layers", "7", "--width", "64", "--device", "cpu", "--dtype", "float32"]
TOY += ["--repeats", "6", "--warmup", "1", "--min-seconds", "0"]
TOY += ["--workload", "n_text=58:n_out=2:batch=1", "--workload", "n_text=58:n_out=2:batch=2"]


def device_folder() -> Path:
    """``results/<device>``, named after the GPU."""
    import torch

    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/gpu.py: no CUDA device here; --rehearse runs on a CPU")
    name = torch.cuda.get_device_name(0).lower()
    return ROOT / "results" / re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def run_for(argv: list[str], run: Path, seconds: int) -> int:
    """The run's exit code. Stopped or broken, it still gets its report of what is there."""
    signal.signal(signal.SIGALRM, signal.default_int_handler)  # ends a run the way Ctrl-C does
    signal.alarm(seconds)
    try:
        code = run_suite([*argv, "--out", str(run)])
    except Exception:  # a broken device may leave nothing that works but the files
        traceback.print_exc()
        code = EXIT_CELLS_FAILED
    finally:
        signal.alarm(0)
    if code not in (EXIT_OK, EXIT_USAGE) and (run / "run.json").is_file():
        run_suite(["--plots-only", str(run)])
    return code


def keep(run: Path, out: Path) -> None:
    """Copy what a run is kept by."""
    out.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        source = run / name
        if source.is_dir():
            shutil.rmtree(out / name, ignore_errors=True)
            shutil.copytree(source, out / name)
        elif source.is_file():
            shutil.copy2(source, out / name)


def main() -> int:
    """Time, copy what is kept, say how long it took; the exit code of the run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="toy size on a CPU")
    parser.add_argument("--model", default=MODEL, help=f"a published name (default {MODEL})")
    parser.add_argument("--methods", default=METHODS, help="default: all")
    parser.add_argument(
        "--out", type=Path, help="default: results/<device>, or runs/ in a rehearsal"
    )
    parser.add_argument("--seconds", type=int, default=460, help="stop then (default 460)")
    options = parser.parse_args()
    rehearse = options.rehearse
    name = options.model.rpartition("/")[2].lower()
    run = Path("runs") / f"{'gpu-rehearsal' if rehearse else 'gpu'}-{name}"  # resumed if cut short
    if options.out or rehearse:
        out = options.out or run / "kept"
    else:
        out = device_folder() / ("" if options.model == MODEL else name)
    began = time.perf_counter()
    command = ["--throughput", "--random-weights", "--model", options.model]
    command += ["--methods", options.methods, *(TOY if rehearse else FULL)]
    code = run_for(command, run, options.seconds)
    if code == EXIT_USAGE:
        return code
    keep(run, out)
    print(f"{out}: {time.perf_counter() - began:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
