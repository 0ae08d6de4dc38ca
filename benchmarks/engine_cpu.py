"""What the engine costs and what it saves on this CPU.

    python benchmarks/engine_cpu.py --out benchmarks/engine_cpu.csv

1. The dense method through the engine against plain ``model.generate``, interleaved (ABBA), as the
   ratio of speeds with a bootstrap interval of the ratio of medians. Target: at least 0.98.
2. Prefill of p-MoD and FastV against the dense model by image tokens, on a random decoder of
   middle size, and the token count from which each is faster.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import methods
from harness.common.torchvision_ops import declare_missing_ops
from harness.engine import model_info, routed

IMAGE, PATCH = 5, 4
COLUMNS = (
    "workload", "method", "n_image", "n_text", "n_out", "batch", "repeats", "median_ms",
    "plain_median_ms", "speedup", "speedup_ci_low", "speedup_ci_high", "threads",
)  # fmt: skip


def build(side: int, layers: int, width: int, tower: int = 1) -> Any:
    """A random LLaVA with side*side image tokens and a small tower (not what is timed)."""
    declare_missing_ops()
    import transformers as t

    text = t.LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=8192,
        eos_token_id=None,
    )
    vision = t.CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=tower, num_attention_heads=2,
        image_size=side * PATCH, patch_size=PATCH,
    )  # fmt: skip
    torch.manual_seed(0)
    config = t.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-min(2, tower),
    )
    return t.LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()


def prompt(model: Any, side: int, n_text: int, batch: int = 1) -> dict[str, Any]:
    """Half of the text before the image, half behind it."""
    half = n_text // 2
    ids = torch.tensor([[7] * half + [IMAGE] * side**2 + [9] * (n_text - half)] * batch)
    pixels = torch.randn(batch, 3, side * PATCH, side * PATCH)
    with torch.no_grad():
        features = model.model.get_image_features(pixels, return_dict=True)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_encoder_outputs": {"image": features},
    }


@contextmanager
def under(model: Any, name: str | None) -> Iterator[None]:
    """Plain (None) or routed by a method with fresh weights; entering is not timed."""
    with ExitStack() as stack:
        if name is not None:
            method = methods.parse(name)
            modules = method.build_modules(model_info(model))
            stack.enter_context(routed(model, method, modules, record=False))
        yield


def interleaved(
    model: Any, a: str | None, b: str | None, call: Callable[[], Any], pairs: int, warmup: int
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of ``call`` under a and under b, in the order a b b a, ``pairs`` of each."""
    times: dict[int, list[float]] = {0: [], 1: []}
    names = (a, b)
    for turn in range(-warmup, pairs):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            with torch.no_grad(), under(model, names[which]):
                start = time.perf_counter()
                call()
                seconds = time.perf_counter() - start
            if turn >= 0:
                times[which].append(seconds)
    return np.array(times[0]), np.array(times[1])


def compare(plain: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Speed of ``other`` relative to ``plain``: ratio of medians and its 95 % bootstrap interval.

    Pairs are resampled together, because neighbours share the state of the machine.
    """
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, len(plain), (2000, len(plain)))
    ratios = np.median(plain[draws], axis=1) / np.median(other[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(np.median(plain) / np.median(other)), float(low), float(high)


def row(
    workload: str, method: str, shape: tuple[int, int, int, int], plain: Any, other: Any
) -> dict[str, Any]:
    ratio, low, high = compare(plain, other)
    n_image, n_text, n_out, batch = shape
    return {
        "workload": workload,
        "method": method,
        "n_image": n_image,
        "n_text": n_text,
        "n_out": n_out,
        "batch": batch,
        "repeats": len(plain),
        "median_ms": round(1e3 * float(np.median(other)), 3),
        "plain_median_ms": round(1e3 * float(np.median(plain)), 3),
        "speedup": round(ratio, 4),
        "speedup_ci_low": round(low, 4),
        "speedup_ci_high": round(high, 4),
        "threads": torch.get_num_threads(),
    }


def dense_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The engine's own cost: dense through it against the plain model, prompt and answer."""
    side, n_text, n_out = options.dense_side, options.text, options.new_tokens
    for batch in options.batches:
        model = build(side, options.dense_layers, options.dense_width)
        inputs = prompt(model, side, n_text, batch)

        def call(model: Any = model, inputs: Any = inputs) -> Any:
            # generate fills mm_encoder_outputs in place in some releases
            once = {k: dict(v) if isinstance(v, dict) else v for k, v in inputs.items()}
            return model.generate(
                **once, do_sample=False, min_new_tokens=n_out, max_new_tokens=n_out
            )

        plain, mine = interleaved(model, None, "dense", call, options.repeats, options.warmup)
        yield row("generate", "dense", (side**2, n_text, n_out, batch), plain, mine)


def prefill_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Prefill (cache on, last logits only) of the methods against the plain model."""
    for side in options.sides:
        model = build(side, options.layers, options.width)
        inputs = prompt(model, side, options.text)

        def call(model: Any = model, inputs: Any = inputs) -> Any:
            once = {k: dict(v) if isinstance(v, dict) else v for k, v in inputs.items()}
            return model(**once, use_cache=True, logits_to_keep=1)

        for name in options.methods:
            plain, mine = interleaved(model, None, name, call, options.repeats, options.warmup)
            yield row("prefill", name, (side**2, options.text, 0, 1), plain, mine)


def verdicts(rows: list[dict[str, Any]]) -> Iterator[str]:
    """What the numbers say, one line each."""
    for r in rows:
        if r["workload"] == "generate":
            met = "met" if r["speedup"] >= 0.98 else "MISSED"
            span = f"[{r['speedup_ci_low']:.3f}, {r['speedup_ci_high']:.3f}]"
            speed = f"{r['speedup']:.3f} {span} of plain generate, target 0.98 {met}"
            yield f"dense through the engine, batch {r['batch']}: {speed}"
    for name in dict.fromkeys(r["method"] for r in rows if r["workload"] == "prefill"):
        mine = [r for r in rows if r["workload"] == "prefill" and r["method"] == name]
        slower = [r["n_image"] for r in mine if r["speedup_ci_low"] <= 1]
        faster = [r["n_image"] for r in mine if r["n_image"] > max(slower, default=0)]
        if faster:
            yield f"{name}: prefill faster than dense from {faster[0]} image tokens on"
        else:
            yield f"{name}: prefill not faster than dense at the measured token counts"


def main() -> None:
    """Measure, print, write the CSV."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/engine_cpu.csv"))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--text", type=int, default=48, help="text tokens of the prompt")
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--dense-side", type=int, default=12)
    parser.add_argument("--dense-layers", type=int, default=12)
    parser.add_argument("--dense-width", type=int, default=256)
    parser.add_argument("--sides", type=int, nargs="*", default=[4, 6, 8, 12, 16, 24, 34])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--methods", nargs="*", default=["pmod", "fastv"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for measure in (dense_rows, prefill_rows):
            for line in measure(options):
                rows.append(line)
                writer.writerow(line)
                file.flush()
                print("  ".join(f"{k}={v}" for k, v in line.items()), flush=True)
    for line in verdicts(rows):
        print(line)


if __name__ == "__main__":
    main()
