"""Where a conversion is written, and that nobody meets half of one.

A folder is written as `NAME.partial`, held by a lock, with the file `MARKER` in it, and renamed
when all of it is there. What `--model` and `--checkpoint` are given in a released layout is
converted once into `build/converted`, under the hash of everything that it is made of.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.common.place import check_place, shown
from harness.common.roots import BUILD
from harness.model.convert.layout import Source
from harness.model.convert.released import Weights
from harness.model.convert.towers import NAMED, tower_folder
from harness.model.tensorfiles import write_whole
from harness.model.weights import file_hash, setting_hashes

MARKER = "converting"  # stands in a folder while it is being written
RECORD = "converted.json"  # what a folder was made of; written last
CACHE = BUILD / "converted"
# Raised when the same files become something else: old conversions are made again.
VERSION = 1


def refuse_half(folder: Path) -> None:
    """Raise UsageError for a folder that a conversion did not finish."""
    if (folder / MARKER).exists():
        raise UsageError(
            f"{folder}: half-converted: run python -m modsuite convert SOURCE --to FOLDER again"
        )


def record_of(folder: Path) -> dict[str, Any] | None:
    """What a converted folder says about itself; None for any other folder."""
    try:
        found = read_json(folder / RECORD)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / RECORD}: not readable ({one_line(error, 120)})") from None
    if not isinstance(found, dict) or not {"key", "method", "model", "notes"} <= found.keys():
        raise UsageError(f"{folder / RECORD}: not the record of a conversion")
    return found


def key_of(source: Source) -> tuple[str, dict[str, str]]:
    """(hash over all that a conversion reads, path -> sha256)."""
    files = _files(source.folder, source.weights.files)
    named = [(field, stored) for field, stored in NAMED.items() if source.config.get(field)]
    tower = tower_folder(source, *named[0]) if named else source.tower
    if tower is not None:
        try:
            weights = Weights(tower).files
        except UsageError:  # its sizes may be all that is wanted; else the conversion says so
            weights = []
        more = _files(tower, weights)
        files |= {f"tower/{name}": value for name, value in more.items()}
    text = json.dumps([VERSION, sorted(files.items())])
    return hashlib.sha256(text.encode()).hexdigest(), files


def _files(folder: Path, weights: list[Path]) -> dict[str, str]:
    return {path.name: file_hash(path) for path in weights} | setting_hashes(folder)


@contextmanager
def written(to: Path) -> Iterator[Path]:
    """A folder to write into, which becomes ``to`` when the block ends without an error.

    What an earlier attempt left is cleared away. Raises UsageError where another process is at it.
    """
    check_place(to)
    to = Path(os.path.abspath(to))
    partial = to.with_name(to.name + ".partial")
    if partial.exists() and not (partial / MARKER).is_file():
        raise UsageError(f"{shown(partial)} is in the way: it is not of an earlier attempt")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / MARKER).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another process is writing {shown(to)} now") from None
        try:
            _clear(partial)
            yield partial
            (partial / MARKER).unlink()
            if to.is_dir():  # an empty one
                to.rmdir()
            os.rename(partial, to)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise UsageError(f"cannot write {shown(to)}: {one_line(error, 120)}") from None
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _clear(partial: Path) -> None:
    for path in partial.iterdir():
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_record(folder: Path, content: dict[str, Any]) -> None:
    """`RECORD`, the last file of a conversion."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    write_whole(folder / RECORD, text.encode())
