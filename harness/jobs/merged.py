"""Runs that are to be one: whether they are of one kind, and what `run.json` says of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.jobs.reuse import PROVENANCE, Source
from harness.store.folder import shown

WORD = "merge"
SHARD = "shard"
# What a share says of itself, and how it came about: not of the whole.
OWN = (SHARD, "resumed", "jobs", "cells", "merged", "reused")
# What decides about answers and is no setting, as messages call it.
CAUSES = {
    "engine_hash": "code of the engine",
    "versions": "versions",
    "model_id": "model",
    "weight_hashes": "weights",
    "model_files": "model files",
    "processor_hash": "processor",
    "protocol": "protocol",
    "checkpoints": "weights of methods",
    "margin": "--margin",
}
ALONE = ("--shard", "--cluster", "--out")  # flags, each with a value, that a merged run is without


def require_same(one: Source, other: Source) -> None:
    """Raise UsageError, one line, for runs that are not of the same cells and settings."""
    names = f"'{other.target}' and '{one.target}'"
    ours, theirs = _settings(one), _settings(other)
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            hint = ""
            if name in ("methods", "bench"):  # a cell's id follows from the other settings
                hint = ": a run over both with --reuse takes the answers of both"
            raise UsageError(
                f"{WORD}: '{other.target}' was made with {shown(name, theirs.get(name))}, "
                f"'{one.target}' with {shown(name, ours.get(name))}{hint}"
            )
    for name, word in CAUSES.items():
        if one.about.get(name) != other.about.get(name) and _matters(name, one, other):
            said = _differing(one.about.get(name), other.about.get(name))
            raise UsageError(f"{WORD}: {names} have other {word}{said}: run one of them again")
    if list(names_of(one)) != list(names_of(other)):
        bench = _other_data(one, other)
        what = f"other data of {bench}" if bench else "other data or method files"
        raise UsageError(f"{WORD}: {names} have {what}, with the same settings")


def names_of(source: Source) -> dict[str, str]:
    """Id -> name of all cells of the run that this is a share of, or of the run."""
    shard = source.about.get(SHARD)
    if isinstance(shard, dict) and isinstance(shard.get("cells"), dict):
        return dict(shard["cells"])
    rows = source.store.cells()
    known = {r.get("requested_id") or r["cell_id"]: f"{r['label']} on {r['bench']}" for r in rows}
    return {cell: known.get(cell, cell) for cell in source.about["cells"]}


def all_cells(sources: Sequence[Source]) -> dict[str, str]:
    """Id -> name of the whole run's cells, named by whichever run knows."""
    found = names_of(sources[0])
    for source in sources[1:]:
        found = {c: name if found[c] == c else found[c] for c, name in names_of(source).items()}
    return found


def described(
    sources: Sequence[Source],
    taken: Mapping[str, Source],
    cells: Mapping[str, str],
    out: Path,
) -> dict[str, Any]:
    """`run.json` of the whole, from those of the runs alone: the same for the same runs."""
    first = sources[0].about
    here = sources[0] if sources[0].store.path.resolve() == out.resolve() else None
    about = {name: value for name, value in first.items() if here or name not in OWN}
    about["settings"] = _settings(sources[0])
    about["argv"] = full_command(first.get("argv", ()), out)
    about["created_at"] = min(str(source.about.get("created_at", "")) for source in sources)
    devices = [one for s in sources for one in str(s.about.get("device_name", "")).split(", ")]
    about["device_name"] = ", ".join(filter(None, dict.fromkeys(devices)))
    about["cells"] = list(cells)
    against = (first.get(SHARD) or {}).get("against")
    if against:
        about["against"] = against
    merged = dict(here.about.get("merged") or {}) if here else {}
    reused: dict[str, Any] = {}
    for source in sources:
        reused = {**(source.about.get("reused") or {}), **reused}
        ids = [cell for cell, one in taken.items() if one is source]
        if source is here or not ids:
            continue
        said = {n: source.about[n] for n in (*PROVENANCE, "jobs") if source.about.get(n)}
        shard = {SHARD: source.about[SHARD]["of"]} if source.about.get(SHARD) else {}
        name = _free_name(source, merged)
        old = merged.get(name, {}).get("cells", [])
        merged[name] = {**said, **shard, "cells": [*dict.fromkeys([*old, *ids])]}
    about["merged"] = merged
    return about | ({"reused": reused} if reused else {})


def _free_name(source: Source, merged: Mapping[str, Any]) -> str:
    """What a run is called among the merged ones: by more of its path where another has the name.

    A run that went on keeps the time at which it began, and so its name.
    """
    mine = (source.about.get("created_at"), (source.about.get(SHARD) or {}).get("of"))
    *folders, _ = source.store.path.resolve().parts
    name = source.name
    while name in merged and mine != (merged[name].get("created_at"), merged[name].get(SHARD)):
        if len(folders) == name.count("/"):
            break
        name = f"{folders[-1 - name.count('/')]}/{name}"
    return name


def full_command(argv: Sequence[str], out: Path) -> list[str]:
    """The words of the run that a share is of, into `out`."""
    words: list[str] = []
    value = False
    for word in argv:
        if not value and word.partition("=")[0] not in ALONE:
            words.append(word)
        value = not value and word in ALONE
    return [*words, "--out", str(out)]


def _settings(source: Source) -> dict[str, Any]:
    settings = source.about.get("settings")
    return {k: v for k, v in settings.items() if k != SHARD} if isinstance(settings, dict) else {}


def _matters(name: str, one: Source, other: Source) -> bool:
    """Python's own version is in no cell's id; a margin that nobody asked for is the default."""
    if name == "versions":
        ours, theirs = (dict(s.about.get(name) or {}) for s in (one, other))
        ours.pop("python", None), theirs.pop("python", None)
        return ours != theirs
    return name != "margin" or None not in (one.about.get(name), other.about.get(name))


def _differing(one: Any, other: Any) -> str:
    """` (torch 2.9, 2.8)`: the first entry that differs."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return f" ({other}, {one})" if max(len(str(one)), len(str(other))) < 40 else ""
    name = next(n for n in [*one, *other] if n != "python" and one.get(n) != other.get(n))
    values = (str(other.get(name)), str(one.get(name)))
    return f" ({name} {', '.join(values)})" if max(map(len, values)) < 40 else f" ({name})"


def _other_data(one: Source, other: Source) -> str:
    """The first bench whose documents are said to be others; empty where none is."""
    ours = {row["bench"]: row.get("data_source") for row in one.store.cells()}
    for row in other.store.cells():
        if row["bench"] in ours and ours[row["bench"]] != row.get("data_source"):
            return row["bench"]
    return ""
