"""Whether a path can be written, asked before any work is done. Torch-free, writes nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness.common.errors import UsageError, is_text, one_line

ROOM = 256  # bytes that the longest path below a run directory adds to its own


def check_place(path: Path) -> None:
    """Refuse a folder or file that plainly cannot be made or written.

    Raises UsageError, one line, for what is no name, names too long, links to nothing, files in
    the way, and places without permission or room.
    """
    if not is_text(str(path)):
        raise UsageError(f"{shown(path)} is no file name: it has a character that none can have")
    target = Path(os.path.abspath(path))
    nearest = target
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    _check_length(path, target, nearest)
    if not nearest.exists():
        raise UsageError(f"cannot write {shown(path)}: {nearest} is a link to nothing")
    if nearest != target and not nearest.is_dir():
        raise UsageError(f"cannot write {shown(path)}: {nearest} is a file")
    rights = os.W_OK | os.X_OK if nearest.is_dir() else os.W_OK
    if not os.access(nearest, rights):
        raise UsageError(f"cannot write {shown(path)}: no permission for {nearest}")
    _check_room(path, nearest)


def shown(path: Path) -> str:
    """A path in a message: quoted, on one line, cut where it is very long."""
    return f"'{one_line(str(path), 100)}'"


def _check_length(path: Path, target: Path, nearest: Path) -> None:
    for part in target.relative_to(nearest).parts:
        longest = os.pathconf(nearest, "PC_NAME_MAX") if nearest.is_dir() else 255
        if len(os.fsencode(part)) > longest:
            raise UsageError(
                f"cannot write {shown(path)}: a name of {len(os.fsencode(part))} bytes, "
                f"{longest} is the most"
            )
    most = os.pathconf("/", "PC_PATH_MAX") - ROOM
    if len(os.fsencode(target)) > most:
        raise UsageError(f"cannot write {shown(path)}: a path of more than {most} bytes")


def _check_room(path: Path, nearest: Path) -> None:
    stat = os.statvfs(nearest)
    if stat.f_blocks > 0:
        if stat.f_bavail == 0:
            raise UsageError(f"cannot write {shown(path)}: the disk is full")
    elif nearest.is_dir():  # /proc and the like, which say nothing about themselves: try it
        try:
            os.rmdir(tempfile.mkdtemp(dir=nearest))
        except OSError as error:
            raise UsageError(f"cannot write {shown(path)}: {error.strerror}") from None
