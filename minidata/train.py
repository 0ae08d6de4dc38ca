"""Writes training scenes: arrays of pictures, each beside a file of one line of JSON a scene."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from minidata import PAGE, build, hd, sources

Job = tuple[int, int, int, hd.Page | None]
"""Seed, index, rounds of questions, and the page of one of high resolution."""

_PACK: sources.Pack | None = None


def _start(cache: Path) -> None:
    global _PACK
    _PACK = sources.load(cache)


def _one(job: Job) -> tuple[bytes, str]:
    assert _PACK is not None
    seed, index, rounds, page = job
    scene = build.make(seed, index, False, _PACK, rounds=rounds, page=page)
    record = {
        "scene_id": scene.identifier,
        "family": scene.family,
        "boxes": [b.as_json() for b in scene.boxes],
        "qa": [
            {"bench": q.bench, "prompt": q.prompt, "answer": q.answer, "template": q.template}
            for q in scene.questions
        ],
    }
    return scene.image.tobytes(), json.dumps(record, separators=(",", ":"))


def write(
    out: Path,
    count: int,
    seed: int,
    workers: int,
    cache: Path,
    rounds: int = 1,
    share: float = 0.0,
) -> None:
    """Write `count` scenes, `share` of them on pages of high resolution.

    A folder holds `images.npy` (uint8 [N, height, width, 3]) and `scenes.jsonl` (line i: image i):
    `out` the 192 px scenes, `out/<height>x<width>` those of each other page.  Those of 192 px are
    the first of what there are without the others.  More `rounds` ask more about each scene
    (`build.make`).  `drawn.json` notes the arguments.
    """
    sources.download(cache)
    (out / "drawn.json").unlink(missing_ok=True)  # what it says will not hold until all are drawn
    large = round(count * share)
    jobs: list[Job] = [(seed, i, rounds, None) for i in range(count - large)]
    jobs += [(seed, i, rounds, hd.page_of(i)) for i in range(large)]
    with ExitStack() as stack:
        folders = _open(out, jobs, stack)
        for done, (job, (raw, line)) in enumerate(_results(jobs, workers, cache), 1):
            rows, lines = folders[job[3]]
            pixels = next(rows)
            pixels[...] = np.frombuffer(raw, np.uint8).reshape(pixels.shape)
            lines.write(line + "\n")
            if done % 2000 == 0:
                print(f"{done}/{count} scenes", flush=True)
    about = {"n": count, "seed": seed, "rounds": rounds, "hd": share}
    (out / "drawn.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def _open(out: Path, jobs: list[Job], stack: ExitStack) -> dict[hd.Page | None, tuple[Any, Any]]:
    """Page -> iterator over the rows of its new array, and the open file of its lines."""
    folders = {}
    for page in dict.fromkeys(page for *_, page in jobs):
        folder = out / hd.folder_name(page) if page else out
        folder.mkdir(parents=True, exist_ok=True)
        width, height = page or PAGE
        shape = (sum(own == page for *_, own in jobs), height, width, 3)
        pixels = np.lib.format.open_memmap(
            folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape
        )
        stack.callback(pixels.flush)
        lines = stack.enter_context((folder / "scenes.jsonl").open("w", encoding="utf-8"))
        folders[page] = iter(pixels), lines
    return folders


def _results(jobs: list[Job], workers: int, cache: Path) -> Iterator[tuple[Job, tuple[bytes, str]]]:
    if workers <= 1:
        _start(cache)
        yield from zip(jobs, map(_one, jobs), strict=True)
        return
    with multiprocessing.get_context("spawn").Pool(workers, _start, (cache,)) as pool:
        yield from zip(jobs, pool.imap(_one, jobs, chunksize=64), strict=True)
