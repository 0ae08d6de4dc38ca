"""Which documents a mini benchmark holds, told by content: a file that grew keeps its beginning.

Torch-free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minidata.rows import digest, read
from minidata.tasks import data_files

HASH = 12
"""Digits of a file's hash in its name."""

LADDER = (100, 500, 1000, 2000)
"""The steps of `--limit` whose documents `manifest.json` pins; the last one is all."""


class Earlier(NamedTuple):
    """What shipped before, as recorded runs name it, and the documents it held."""

    name: str
    documents: int
    digest: str


EARLIER = {
    "gqa": (
        Earlier(
            "testdev.parquet@ee252b1b369d",
            500,
            "88d114d8a0d30ec614fcfb5a4606230f80d72266175c112ed9432d46603a9d4e",
        ),
        Earlier(
            "testdev.parquet@c2c7bfe622e4",
            2000,
            "ee4b4e5c6ac51026e6c7a981b42ba1236b138b190688bebd0202a3754834377c",
        ),
    ),
    "textvqa": (
        Earlier(
            "validation.parquet@72aab4dcb915",
            500,
            "5f1552d565356192647b605f6f3c97b5a22ad9e04e69265fe92872978029ad5d",
        ),
    ),
    "scienceqa": (
        Earlier(
            "test.parquet@1002579958c9",
            500,
            "64bdd05c1a90ee15eb333903e55fdd19d3a3ea89e2f34fa5a5c6cd083b7ea3e5",
        ),
        Earlier(
            "test.parquet@f8f886e5bb58",
            2000,
            "9f4f0073c65dae704144c9dfefd9587bd82e27c4e8f91c6cbcbd8ca9375eec3f",
        ),
    ),
    "pope": (
        Earlier(
            "test.parquet@724d73af2276",
            500,
            "aab76f586886f7118b43c7cf4367777d249763d6f7169b5acf9d1ca24ff46a0f",
        ),
        Earlier(
            "test.parquet@96e244c8fa92",
            2000,
            "cc165ee4a590061c93ebe3accbc42b38474ae9eb1a50389d537fa7b468572f64",
        ),
    ),
    "chartqa": (
        Earlier(
            "test.parquet@c78ead5e193c",
            500,
            "0d038d20b17625dec4c492274b563d4a799c14767a2617c7945527ac45e8c999",
        ),
    ),
    "docvqa": (
        Earlier(
            "validation.parquet@f2dcf51a1fc3",
            500,
            "56ff8fd7600634b022b8368c5cbbec8d2812cb6dd8f10e3acd2b5a04e27d3377",
        ),
    ),
}


def named(files: Sequence[Path]) -> str:
    """`file@hash` as `data_source` in cells.csv has it: over the files' names and contents.

    Raises OSError where one cannot be read.
    """
    lines = ""
    for path in files:
        with path.open("rb") as file:
            lines += f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n"
    names = ", ".join(path.name for path in files)
    return f"{names}@{hashlib.sha256(lines.encode()).hexdigest()[:HASH]}"


@cache
def current(bench: str, name: str, folder: Path | None = None) -> str:
    """The shipped data's name for an earlier one that it begins with; any other name as it is.

    `folder`: where the benchmarks lie, if not where they ship. The beginning is compared, not
    believed: a file that was written anew may have lost it. Read once a process.
    """
    earlier = next((one for one in EARLIER.get(bench, ()) if one.name == name), None)
    files = data_files(bench, folder)
    if earlier is None or not all(path.is_file() for path in files):
        return name
    if digest(read(files), earlier.documents) != earlier.digest:
        return name
    return named(files)
