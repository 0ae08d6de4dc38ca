"""Which documents a mini benchmark holds, told by content: a file that grew keeps its beginning.

Torch-free.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

from harness.common.rows import digest
from minidata.tasks import data_file

HASH = 12
"""Digits of a file's hash in its name."""

LADDER = (100, 500, 1000, 2000)
"""The steps of `--limit` whose documents `manifest.json` pins; the last one is all."""


class Earlier(NamedTuple):
    """A file that shipped before, as recorded runs name it, and the documents it held."""

    name: str
    documents: int
    digest: str


EARLIER = {
    "gqa": Earlier(
        "testdev.parquet@ee252b1b369d",
        500,
        "88d114d8a0d30ec614fcfb5a4606230f80d72266175c112ed9432d46603a9d4e",
    ),
    "textvqa": Earlier(
        "validation.parquet@72aab4dcb915",
        500,
        "5f1552d565356192647b605f6f3c97b5a22ad9e04e69265fe92872978029ad5d",
    ),
    "scienceqa": Earlier(
        "test.parquet@1002579958c9",
        500,
        "64bdd05c1a90ee15eb333903e55fdd19d3a3ea89e2f34fa5a5c6cd083b7ea3e5",
    ),
    "pope": Earlier(
        "test.parquet@724d73af2276",
        500,
        "aab76f586886f7118b43c7cf4367777d249763d6f7169b5acf9d1ca24ff46a0f",
    ),
    "chartqa": Earlier(
        "test.parquet@c78ead5e193c",
        500,
        "0d038d20b17625dec4c492274b563d4a799c14767a2617c7945527ac45e8c999",
    ),
    "docvqa": Earlier(
        "validation.parquet@f2dcf51a1fc3",
        500,
        "56ff8fd7600634b022b8368c5cbbec8d2812cb6dd8f10e3acd2b5a04e27d3377",
    ),
}


def named(path: Path) -> str:
    """`file@hash` as `data_source` in cells.csv has it: over the file's name and content.

    Raises OSError where it cannot be read.
    """
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    line = f"{path.name} {content}\n"
    return f"{path.name}@{hashlib.sha256(line.encode()).hexdigest()[:HASH]}"


@cache
def current(bench: str, name: str, folder: Path | None = None) -> str:
    """The shipped file's name for an earlier one that it begins with; any other name as it is.

    `folder`: where the benchmarks lie, if not where they ship. The beginning is compared, not
    believed: a file that was written anew may have lost it. Read once a process.
    """
    earlier = EARLIER.get(bench)
    if earlier is None or name != earlier.name:
        return name
    path = data_file(bench, folder)
    if not path.is_file() or digest(path, earlier.documents) != earlier.digest:
        return name
    return named(path)
