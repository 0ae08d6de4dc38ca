"""The rooms of the code and which imports which: `rooms.svg` and `rooms.csv`, drawn at every build.

The floors are those that import-linter holds (`pyproject.toml`), the imports those grimp finds,
imports inside functions included.
"""

from __future__ import annotations

import csv
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import grimp

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def contract() -> tuple[list[str], list[str]]:
    """(packages, rooms from the top floor down) as import-linter holds them."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return said["importlinter"]["root_packages"], said["importlinter"]["contracts"][0]["layers"]


def imports(packages: list[str], rooms: list[str]) -> Counter[tuple[str, str]]:
    """(importing room, imported room) -> number of imports between files of the two."""
    graph = grimp.build_graph(*packages)

    def room(module: str) -> str:
        return next((r for r in rooms if module == r or module.startswith(f"{r}.")), module)

    found: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            if room(module) != room(other):
                found[room(module), room(other)] += 1
    return found


def size(room: str) -> tuple[int, int]:
    """(files, lines) of a room."""
    files = list(ROOT.joinpath(*room.split(".")).rglob("*.py"))
    return len(files), sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def meaning(room: str) -> str:
    """The first line of what a room says of itself."""
    text = ROOT.joinpath(*room.split("."), "__init__.py").read_text(encoding="utf-8")
    return text.split('"""')[1].strip().splitlines()[0]


def draw() -> None:
    """Write both files beside this one."""
    packages, rooms = contract()
    found = imports(packages, rooms)
    floor = {room: len(rooms) - place for place, room in enumerate(rooms)}
    up = sum(floor.get(b, 0) > floor.get(a, 0) for a, b in found)
    with (HERE / "rooms.csv").open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["floor", "room", "files", "lines", "what it is"])
        table.writerows([floor[r], r, *size(r), meaning(r)] for r in rooms)
    _picture(rooms, found, f"{len(rooms)} rooms, {len(found)} pairs that import, {up} of them up")


def _picture(rooms: list[str], found: Counter[tuple[str, str]], title: str) -> None:
    import matplotlib

    matplotlib.use("svg")
    # Text stays text, and the same code gives the same picture.
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "rooms"}
    import matplotlib.pyplot as plt

    axes: Any
    figure, axes = plt.subplots(figsize=(8.5, 8))
    names = [room.removeprefix("harness.") for room in rooms]
    for (a, b), count in sorted(found.items()):
        x, y = rooms.index(b), rooms.index(a)
        axes.scatter(x, y, s=12 + 8 * count, c="tab:blue" if x > y else "tab:red", zorder=2)
    axes.plot([-0.5, len(rooms) - 0.5], [-0.5, len(rooms) - 0.5], c="0.8", lw=1, zorder=1)
    axes.set_xticks(range(len(rooms)), names, rotation=90)
    axes.set_yticks(range(len(rooms)), names)
    axes.invert_yaxis()
    axes.grid(color="0.93")
    axes.set(xlabel="is imported", ylabel="imports (top floor first)", title=title)
    figure.tight_layout()
    figure.savefig(HERE / "rooms.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    draw()
