"""Contact sheet of a picture family with its questions, for looking at."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from minidata import IMAGE_SIZE, build, sources

COLUMNS, ROWS = 4, 3


def write(out: Path, family: str, seed: int, cache: Path) -> None:
    """Save a 4 x 3 sheet (PNG, twice the size) to `out` and print the questions."""
    pack = sources.load(cache)
    sheet = Image.new("RGB", (COLUMNS * (IMAGE_SIZE + 4), ROWS * (IMAGE_SIZE + 4)), "black")
    for i in range(COLUMNS * ROWS):
        scene = build.make(seed, i, False, pack, family)
        sheet.paste(scene.image, (i % COLUMNS * (IMAGE_SIZE + 4), i // COLUMNS * (IMAGE_SIZE + 4)))
        print(f"--- {i} {scene.identifier}")
        for q in scene.questions:
            print(f"{q.bench:10} {q.template:14} {q.question} {q.choices or ''} -> {q.answer}")
    sheet.resize((sheet.width * 2, sheet.height * 2)).save(out)
