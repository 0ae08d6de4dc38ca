"""Files beside a run that others score: a server of a test split, a judge. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.common.errors import StoreError
from harness.store.csvfile import write_atomic

FOLDER = "submissions"


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """The files of a cell in place of those it had, each whole. Raises StoreError.

    Their names may carry the time at which they were written, so older ones go.
    """
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and path.relative_to(folder).as_posix() not in files:
            path.unlink(missing_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)


def copy_files(source: Path, target: Path) -> None:
    """The files of a cell as another run has them. Raises StoreError."""
    try:
        shown = [path for path in sorted(source.rglob("*")) if path.is_file()]
        files = {path.relative_to(source).as_posix(): path.read_bytes() for path in shown}
    except OSError as error:
        raise StoreError(f"{source}: cannot be read ({error.strerror or error})") from None
    if files or target.is_dir():
        write_files(target, files)


def files_of(run: Path, cell_id: str) -> list[str]:
    """Names of a cell's files, from the run directory on."""
    folder = run / FOLDER / cell_id
    return [
        path.relative_to(run).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()
    ]
