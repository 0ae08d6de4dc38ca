"""`training.json`: what a training of the mini model was, what it reached, how long it took."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.fitting.fit import MEASURED
from harness.fitting.guard import last_complete
from harness.minimodel.folders import LOG, named_folder
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import Scenes
from harness.minimodel.sizes import read_sizes, sized_folders
from harness.model.weights import file_hash
from harness.store.folder import RunLock

NOTE = "recipe.json"  # whose checkpoints a folder holds
POINTS = 12  # of a loss curve
SAMPLE = 100  # scenes that questions are counted on
WHOSE = ("stage", "architecture", "start", "method")  # what a finished training is known by
FREE = ("save_steps", "note")  # may change when a training goes on


def facts(recipe: Recipe, log: dict) -> dict:
    return {"recipe": dataclasses.asdict(recipe), **log}


def write_log(out: Path, recipe: Recipe, log: dict) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(facts(recipe, log), indent=1, sort_keys=True)
    (out / LOG).write_text(text + "\n", encoding="utf-8")


def claim(
    recipe: Recipe,
    out: Path,
    run: Path,
    bf16: bool | None = None,
    read: Mapping[str, str] | None = None,
) -> None:
    """Note in the folder of checkpoints, `run`, whose they are; recipes of two models share names.

    Raises UsageError where `run` has checkpoints of a recipe that is not this one, or that `read`
    something else (`inputs`), which would be gone on with, or `out` the result of another method or
    model. What an older note does not name is not compared, but for the number format: checkpoints
    that do not say theirs are in `bf16`, what the recipe's file says (None: not known).
    """
    own = json.loads(json.dumps(dataclasses.asdict(recipe))) | dict(read or {})
    note, result = run / NOTE, out / LOG
    if last_complete(run) is not None:  # a training that never began leaves a note too
        silent = {} if bf16 is None else {"bf16": bf16}
        _compare(note, own, [key for key in own if key not in FREE], silent)
    _compare(result, own, WHOSE)
    run.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(own) + "\n", encoding="utf-8")


def inputs(recipe: Recipe, data: Path, work: Path, decoder: Path | None = None) -> dict[str, str]:
    """What a training reads beside its recipe -> 12 hex digits over it: the weights it starts from,
    where they are, and the lines of its scenes."""
    read = read_sizes(list(recipe.pages), None, 1)
    sized = [place for size, place in sized_folders(data).items() if size in read]
    files = {"the scenes": [place / "scenes.jsonl" for place in (data, *sized)]}
    if decoder is not None and recipe.is_new:
        files["the decoder"] = [decoder]
    for key, name in recipe.builds_on.items():
        files[f"{key}'s weights"] = sorted(named_folder(name, work).glob("*.safetensors"))
    found = {
        key: [file_hash(path) for path in paths if path.is_file()] for key, paths in files.items()
    }
    return {
        key: hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:12]
        for key, hashes in found.items()
        if hashes
    }


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Nobody else trains into `run` meanwhile. Raises UsageError where another process does: one
    that outlived the command that began it, say."""
    run.mkdir(parents=True, exist_ok=True)
    lock = RunLock(run / "training.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(f"{run}: another process is training there") from None
    try:
        yield
    finally:
        lock.release()


def _compare(
    file: Path, own: Mapping[str, Any], keys: Sequence[str], silent: Mapping[str, Any] | None = None
) -> None:
    """Raises UsageError where a recipe noted in `file` says otherwise; `silent`: what one that does
    not name a key means by it."""
    try:
        found = read_json(file) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: not readable as JSON ({one_line(error, 120)})") from None
    theirs = found.get("recipe", found) if isinstance(found, dict) else None
    if not isinstance(theirs, dict):
        raise UsageError(f"{file}: no recipe in it: expected what a training writes there")
    theirs = {**(silent or {}), **theirs}
    if wrong := [key for key in keys if theirs.get(key, own[key]) != own[key]]:
        shown = ", ".join(_difference(key, theirs[key], own[key]) for key in wrong)
        began = file.name == NOTE  # a result may be another model's
        remedy = "remove it and the -run folders of what builds on it, or " if began else ""
        raise UsageError(
            f"{file.parent}: it holds another training ({shown}): {remedy}give another --work or "
            "--out"
        )


def _difference(key: str, theirs: Any, own: Any) -> str:
    """A whole mixture of questions would push what to do about it off the line."""
    long = isinstance(own, dict | list) and len(repr(theirs)) + len(repr(own)) > 80
    return f"other {key}" if long else f"{key} {theirs!r}, not {own!r}"


def progress(state: Any) -> dict[str, Any]:
    """`steps`, `losses` ([last step, mean loss up to it] of up to `POINTS` equal parts) and `curve`
    ([step, held-out accuracy by kind] of checkpoints) from a `Trainer`'s state."""
    logged = [(row["step"], row["loss"]) for row in state.log_history if "loss" in row]
    parts: Sequence[Any] = np.array_split(np.array(logged), min(POINTS, len(logged)) or 1)
    losses = [[int(p[-1, 0]), round(float(p[:, 1].mean()), 4)] for p in parts if len(p)]
    curve = [[row["step"], row[MEASURED]] for row in state.log_history if MEASURED in row]
    return {"steps": state.global_step, "losses": losses, "curve": curve}


def about_data(data: Path, scenes: Scenes) -> dict[str, Any]:
    """`scenes` (their number by size), `questions` (mean of the first `SAMPLE` scenes) and, where
    `python -m minidata train` noted it, how they were `drawn`."""
    sizes = {f"{high}x{wide}": len(part) for (high, wide), part in scenes.parts.items()}
    first = [len(scenes.records[i]["qa"]) for i in range(min(SAMPLE, len(scenes)))]
    drawn: Mapping[str, Any] = {}
    if (data / "drawn.json").is_file():
        drawn = read_json(data / "drawn.json")
    return {"scenes": sizes, "questions": sum(first) / len(first), "drawn": drawn}
