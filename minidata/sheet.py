"""Contact sheet of a picture family with its questions, for looking at."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from minidata import IMAGE_SIZE, build, hd, sources

COLUMNS, ROWS = 4, 3


def write(out: Path, family: str, seed: int, cache: Path, large: bool = False) -> None:
    """Save a 4 x 3 sheet (PNG, twice the size) to `out` and print the questions.

    `large`: one of each page of high resolution, 3 x 2, as they are.
    """
    pack = sources.load(cache)
    columns, rows = (3, 2) if large else (COLUMNS, ROWS)
    cell = 4 + (max(map(max, hd.PAGES)) if large else IMAGE_SIZE)
    sheet = Image.new("RGB", (columns * cell, rows * cell), "black")
    for i in range(columns * rows):
        page = hd.page_of(i) if large else None
        scene = build.make(seed, i, False, pack, family, page=page)
        sheet.paste(scene.image, (i % columns * cell, i // columns * cell))
        print(f"--- {i} {scene.identifier}")
        for q in scene.questions:
            print(f"{q.bench:10} {q.template:14} {q.question} {q.choices or ''} -> {q.answer}")
    scale = 1 if large else 2
    sheet.resize((sheet.width * scale, sheet.height * scale)).save(out)
