"""Writes training scenes: one memory-mapped array of pictures and one line of JSON per scene."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minidata import IMAGE_SIZE, build, sources

_PACK: sources.Pack | None = None


def _start(cache: Path) -> None:
    global _PACK
    _PACK = sources.load(cache)


def _one(job: tuple[int, int, int]) -> tuple[int, bytes, str]:
    assert _PACK is not None
    seed, index, rounds = job
    scene = build.make(seed, index, False, _PACK, rounds=rounds)
    record = {
        "scene_id": scene.identifier,
        "family": scene.family,
        "boxes": [b.as_json() for b in scene.boxes],
        "qa": [
            {"bench": q.bench, "prompt": q.prompt, "answer": q.answer, "template": q.template}
            for q in scene.questions
        ],
    }
    return index, scene.image.tobytes(), json.dumps(record, separators=(",", ":"))


def write(out: Path, count: int, seed: int, workers: int, cache: Path, rounds: int = 1) -> None:
    """Write `images.npy` (uint8 [count, 192, 192, 3]) and `scenes.jsonl` (line i: image i).

    More `rounds` ask more about each scene (`build.make`).
    """
    out.mkdir(parents=True, exist_ok=True)
    sources.download(cache)
    pixels = np.lib.format.open_memmap(
        out / "images.npy", mode="w+", dtype=np.uint8, shape=(count, IMAGE_SIZE, IMAGE_SIZE, 3)
    )
    with open(out / "scenes.jsonl", "w", encoding="utf-8") as lines:
        for index, raw, line in _results([(seed, i, rounds) for i in range(count)], workers, cache):
            pixels[index] = np.frombuffer(raw, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)
            lines.write(line + "\n")
            if (index + 1) % 2000 == 0:
                print(f"{index + 1}/{count} scenes", flush=True)
    pixels.flush()


def _results(
    jobs: list[tuple[int, int, int]], workers: int, cache: Path
) -> Iterator[tuple[int, bytes, str]]:
    if workers <= 1:
        _start(cache)
        yield from map(_one, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start, (cache,)) as pool:
        yield from pool.imap(_one, jobs, chunksize=64)
