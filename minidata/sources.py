"""Downloads the generator's raw material by package name and version and loads it.

Nothing of this is needed to read the shipped benchmarks.  Licences: see NOTICE.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageFilter, ImageFont

from minidata import IMAGE_SIZE
from minidata.vocab import KINDS

NPM = "emoji-datasource-google@16.0.0"
WHEELS = {
    "scikit_image": "scikit-image==0.26.0",
    "scikit_learn": "scikit-learn==1.9.1",
    "matplotlib": "matplotlib==3.11.2",
    "vega_datasets": "vega_datasets==0.9.0",
}
PHOTOS = {
    "scikit_image": [
        f"skimage/data/{n}"
        for n in (
            "chelsea.png",
            "coffee.png",
            "rocket.jpg",
            "hubble_deep_field.jpg",
            "grass.png",
            "gravel.png",
            "brick.png",
            "clock_motion.png",
        )
    ],
    "scikit_learn": ["sklearn/datasets/images/china.jpg", "sklearn/datasets/images/flower.jpg"],
}
FONTS = {
    "sans": "DejaVuSans-Bold",
    "book": "DejaVuSans",
    "serif": "DejaVuSerif-Bold",
    "mono": "DejaVuSansMono-Bold",
    "times": "STIXGeneralBol",
    "oblique": "DejaVuSans-BoldOblique",
}
TABLES = (
    "barley.json",
    "cars.json",
    "stocks.csv",
    "us-employment.csv",
    "iowa-electricity.csv",
    "seattle-weather.csv",
    "airports.csv",
    "iris.json",
    "crimea.json",
)


class SourceError(RuntimeError):
    """A package could not be downloaded or lacks an expected file; the message names it."""


def download(cache: Path) -> dict[str, Path]:
    """Fetch every package into `cache` (kept between runs); package name -> archive path."""
    cache.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    name, version = NPM.rsplit("@", 1)
    archive = cache / f"{name}-{version}.tgz"
    if not archive.exists():
        _call(["npm", "pack", "--silent", NPM], cache)
    found["emoji"] = archive
    for package, pin in WHEELS.items():
        stem = f"{package}-{pin.split('==')[1]}-"
        if not any(p.name.startswith(stem) for p in cache.glob("*.whl")):
            _call(
                [
                    sys.executable,
                    "-m",
                    "pip",
                    "download",
                    "-q",
                    "--no-deps",
                    "--only-binary=:all:",
                    "-d",
                    ".",
                    pin,
                ],
                cache,
            )
        found[package] = next(p for p in cache.glob("*.whl") if p.name.startswith(stem))
    return found


def _call(command: list[str], cwd: Path) -> None:
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SourceError(f"{command[0]} is not installed; it downloads {command[-1]}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or "").strip().splitlines()[-1:] or [""]
        raise SourceError(f"could not download {command[-1]}: {last[0]}") from error


@dataclass
class Pack:
    """Loaded material: pictures by kind, blurred photos by name, font files, raw tables."""

    sprites: dict[str, Image.Image]
    photos: dict[str, list[Image.Image]]
    font_files: dict[str, bytes]
    tables: dict[str, list[dict[str, Any]]]

    def __post_init__(self) -> None:
        self._sized: dict[tuple[str, int], Image.Image] = {}
        self._fonts: dict[tuple[str, int], ImageFont.FreeTypeFont] = {}

    def sprite(self, kind: str, size: int) -> Image.Image:
        """RGBA picture of `kind` at `size` x `size` pixels."""
        if (kind, size) not in self._sized:
            self._sized[kind, size] = self.sprites[kind].resize(
                (size, size), Image.Resampling.LANCZOS
            )
        return self._sized[kind, size]

    def font(self, face: str, size: int) -> ImageFont.FreeTypeFont:
        """Font `face` (a key of FONTS) at `size` pixels."""
        if (face, size) not in self._fonts:
            self._fonts[face, size] = ImageFont.truetype(io.BytesIO(self.font_files[face]), size)
        return self._fonts[face, size]


def load(cache: Path) -> Pack:
    """Download what is missing and load everything.  Raises SourceError."""
    found = download(cache)
    sprites = _sprites(found["emoji"])
    photos: dict[str, list[Image.Image]] = {}
    for package, members in PHOTOS.items():
        with zipfile.ZipFile(found[package]) as wheel:
            for member in members:
                photos[Path(member).stem] = _backdrops(Image.open(io.BytesIO(wheel.read(member))))
    with zipfile.ZipFile(found["matplotlib"]) as wheel:
        fonts = {f: wheel.read(f"matplotlib/mpl-data/fonts/ttf/{n}.ttf") for f, n in FONTS.items()}
    tables: dict[str, list[dict[str, Any]]] = {}
    with zipfile.ZipFile(found["vega_datasets"]) as wheel:
        for name in TABLES:
            text = wheel.read(f"vega_datasets/_data/{name}").decode("utf-8-sig")
            rows = (
                json.loads(text)
                if name.endswith("json")
                else list(csv.DictReader(io.StringIO(text)))
            )
            tables[name.split(".")[0]] = rows
    return Pack(sprites, photos, fonts, tables)


def _sprites(archive: Path) -> dict[str, Image.Image]:
    """Trimmed square RGBA pictures of every kind."""
    wanted = {f"package/img/google/64/{stem}.png": kind for kind, stem in KINDS.items()}
    out: dict[str, Image.Image] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name in wanted:
                handle = tar.extractfile(member)
                assert handle is not None
                out[wanted[member.name]] = Image.open(io.BytesIO(handle.read())).convert("RGBA")
    missing = sorted(set(KINDS) - set(out))
    if missing:
        raise SourceError(f"{archive.name} has no picture for: {', '.join(missing)}")
    return {kind: out[kind] for kind in KINDS}


def _backdrops(photo: Image.Image) -> list[Image.Image]:
    """Blurred and darkened copies of a photo at two scales, all larger than one image."""
    photo = photo.convert("RGB")
    out = []
    for side, blur, gain in ((288, 1.0, 0.55), (288, 2.5, 0.75), (420, 1.5, 0.5), (420, 3.0, 0.9)):
        scale = side / min(photo.size)
        size = (
            max(IMAGE_SIZE, round(photo.width * scale)),
            max(IMAGE_SIZE, round(photo.height * scale)),
        )
        copy = photo.resize(size, Image.Resampling.BILINEAR)
        copy = copy.filter(ImageFilter.GaussianBlur(blur))
        out.append(copy.point(lambda v, g=gain: int(v * g)))  # type: ignore[misc]
    return out
