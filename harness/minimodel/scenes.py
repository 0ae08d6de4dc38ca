"""The rendered training scenes on disk, their captions and drills."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from harness.common.errors import UsageError

IGNORE = -100
Size = tuple[int, int]  # height and width in pixels
CAPTION = "Describe the image."
ROUNDS = 4  # draws of questions for each scene that the shipped models saw


class Records(Sequence[dict[str, Any]]):
    """The lines of `scenes.jsonl`, read when asked for: as objects they take gigabytes."""

    def __init__(self, path: Path) -> None:
        self.lines = path.read_bytes().splitlines()

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: Any) -> Any:
        return json.loads(self.lines[i])


class Scenes:
    """`images.npy` (uint8 [N, H, W, 3], memory-mapped) beside `scenes.jsonl`, one line an image."""

    parts: dict[Size, Scenes]  # those of each size, and the number of the first of them
    start: dict[Size, int]

    def __init__(self, folder: Path) -> None:
        """Raises UsageError where there are none, or drawing them was interrupted."""
        if not (folder / "images.npy").is_file():
            raise UsageError(f"{folder}: no images.npy in it: expected scenes, as minidata train's")
        self.images: Any = np.load(folder / "images.npy", mmap_mode="r")
        self.records: Any = Records(folder / "scenes.jsonl")
        self.parts, self.start = {self.images.shape[1:3]: self}, {self.images.shape[1:3]: 0}
        if len(self.records) != len(self.images):
            raise UsageError(
                f"{folder}: {len(self.images)} images but {len(self.records)} scene lines, so "
                "drawing them was interrupted: remove the folder, and draw them again"
            )

    def __len__(self) -> int:
        return len(self.records)

    @property
    def key(self) -> str:
        """12 hex digits over which scenes these are, in order, and 64 of their pictures."""
        found = hashlib.sha256()
        for record in self.records:
            found.update(f"{record['scene_id']}\n".encode())
        for i in np.unique(np.linspace(0, len(self) - 1, 64).astype(int)):
            found.update(np.ascontiguousarray(self.images[int(i)]).tobytes())
        return found.hexdigest()[:12]

    @property
    def own(self) -> Size:
        """The size of the scenes, of several the first."""
        return next(iter(self.parts))

    def size(self, i: int) -> Size:
        """Height and width of picture `i`."""
        return self.own

    def only(self, rows: Sequence[int]) -> Scenes:
        """These rows alone, in memory."""
        found = copy(self)
        found.images = self.images[list(rows)]
        found.records = [self.records[i] for i in rows]
        found.parts = {self.own: found}
        return found

    def split(
        self, held_out: int, families: dict[str, float], seed: int
    ) -> tuple[list[int], list[int]]:
        """Row numbers to train on, as `pick` has them, and of the last `held_out` scenes.

        Few charts differ in their composition, so some of the last ones stand among the others,
        drawn otherwise: they are in neither. Raises UsageError where there are none of either.
        """
        train, held = self.cut(held_out, families, seed)
        if not train or not held:
            raise UsageError(
                f"held_out {held_out} of {len(self):,} scenes: {len(train):,} are left to train "
                f"on, and {len(held):,} that are not among them"
            )
        return train, held

    def cut(
        self, held_out: int, families: dict[str, float], seed: int
    ) -> tuple[list[int], list[int]]:
        """As `split`, unchecked."""
        at = max(len(self) - held_out, 0)
        names = [self.records[i].get("scene_id", i) for i in range(len(self))]
        known = set(names[:at])
        held = [i for i in range(at, len(self)) if names[i] not in known]
        return self.pick(at, families, seed), held

    def pick(self, cut: int, families: dict[str, float], seed: int) -> list[int]:
        """Row numbers of the first `cut` scenes, those of each family as often as `families` says.

        A family it does not name is left out; no families at all mean every scene once. A fraction
        shows that share of the scenes.
        """
        if not families:
            return list(range(cut))
        rng, rows = np.random.default_rng(seed), []
        for i in range(cut):
            whole, part = divmod(families.get(self.records[i]["family"], 0.0), 1.0)
            rows += [i] * (int(whole) + bool(rng.random() < part))
        return rows

    def prompts(self) -> list[tuple[str, str]]:
        """Every (prompt, answer) of every scene, in order."""
        return [(qa["prompt"], qa["answer"]) for r in self.records for qa in r["qa"]]


def caption(boxes: list[dict[str, Any]]) -> str:
    """What a scene shows, line by line: "pink carrot, crocodile" or "purple Pontiac 36, ...".

    Boxes stand on one line if their lower edges lie within half a height, so a price follows its
    item, and bars follow one another from left to right however high they are. Chart axes are left
    out: their marks already name category and value.
    """
    axes = ("tick", "category", "value")
    shown = [box for box in boxes if box["attrs"].get("role") not in axes]
    lines: list[list[dict[str, Any]]] = []
    for box in sorted(shown, key=lambda box: box["box"][3]):
        _, top, _, foot = lines[-1][0]["box"] if lines else (0, 0, 0, -np.inf)
        if box["box"][3] > foot + min(foot - top, box["box"][3] - box["box"][1]) / 2:
            lines.append([])
        lines[-1].append(box)
    parts = []
    for line in lines:
        for box in sorted(line, key=lambda box: box["box"][0]):
            words = [box["attrs"].get("color"), box["label"], box["attrs"].get("value")]
            parts.append(" ".join(str(word) for word in words if word is not None))
    return ", ".join(parts)


def drills(asked: list[dict[str, str]]) -> list[dict[str, str]]:
    """The first multiple-choice question of a scene, asked so that its words give the option away.

    "Which option is carrot?" above the same options, answered with the same letter; [] if the
    scene has no such question.
    """
    for qa in asked:
        _, *options, how = qa["prompt"].split("\n")
        texts = dict(option.split(". ", 1) for option in options if ". " in option)
        if qa["bench"] == "scienceqa" and qa["answer"] in texts:
            question = f"Which option is {texts[qa['answer']].rstrip('.')}?"
            prompt = "\n".join([question, *options, how])
            return [{"prompt": prompt, "answer": qa["answer"], "bench": "drill"}]
    return []
