"""Images of own data, each file read once: where it lies, what it holds, how large it is."""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.own.tables import BadRow
from harness.common.errors import one_line

MOST_PIXELS = 89_478_485  # from which on Pillow warns of a bomb
# Others have more than 8 bits a channel: what is brighter than 255 would be shown white.
MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB"}
ONE = {"MPO"}  # formats whose further pictures are previews and depths of the first
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:")


@dataclass(frozen=True)
class Picture:
    """An image by its file, or by its content where it stood in the table.

    ``sha256`` is of the file's bytes; ``width`` and ``height`` in pixels, as it is shown.
    """

    sha256: str
    width: int
    height: int
    path: str | None = None
    content: bytes | None = field(default=None, repr=False)

    @property
    def stored(self) -> dict[str, Any]:
        """As the datasets library holds an image."""
        return {"path": self.path, "bytes": self.content}


class Pictures:
    """Images named by the rows of one table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Picture | BadRow] = {}

    def of(self, value: Any) -> Picture:
        """The image of a cell: a path, bytes, or both in a struct. Raises BadRow."""
        if isinstance(value, dict):  # as the datasets library writes it
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return _picture(value, "its image")
        if not isinstance(value, str) or not value.strip():
            raise BadRow("no image")
        if value not in self._files:
            try:
                self._files[value] = self._file(value)
            except BadRow as bad:
                self._files[value] = bad
        found = self._files[value]
        if isinstance(found, BadRow):
            raise found
        return found

    def _file(self, name: str) -> Picture:
        shown = f"image '{one_line(name, 60)}'"
        if URL.match(name):
            raise BadRow("image is a URL", f"{shown} is no file: download it first")
        path = Path(self.folder, name.strip())
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise BadRow("image is not there", f"{shown} is not there") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or one_line(str(error), 60)
            raise BadRow("unreadable image", f"{shown} cannot be read ({why})") from None
        found = _picture(content, shown)
        return Picture(found.sha256, found.width, found.height, str(path.resolve()))


def _picture(content: bytes, shown: str) -> Picture:
    """Decoded whole once: a file that ends too early is found before the run."""
    width, height = _size(content, shown)
    return Picture(hashlib.sha256(content).hexdigest(), width, height, content=content)


def _size(content: bytes, shown: str) -> tuple[int, int]:
    from PIL import ExifTags, Image, ImageFile

    lenient = ImageFile.LOAD_TRUNCATED_IMAGES  # lmms-eval sets it
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if width * height > MOST_PIXELS:
                    raise BadRow("image is too large", f"{shown} has {width}x{height} pixels: at "
                                 f"most {MOST_PIXELS // 10**6} million")  # fmt: skip
                _one_of_bytes(image, shown)
                image.load()
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    except BadRow:
        raise
    except Image.DecompressionBombError:
        raise BadRow("image is too large", f"{shown} has more than {MOST_PIXELS // 10**6} million "
                     "pixels") from None  # fmt: skip
    except Exception as error:  # a damaged file makes a decoder raise anything
        why = "no known format" if "identify" in str(error) else one_line(str(error), 60)
        raise BadRow("unreadable image", f"{shown} cannot be read ({why})") from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
    return (height, width) if turned else (width, height)


def _one_of_bytes(image: Any, shown: str) -> None:
    """Raises BadRow for what would not be shown as it is: several pictures, deeper ones."""
    if image.format not in ONE and (frames := getattr(image, "n_frames", 1)) > 1:
        raise BadRow("image of several", f"{shown} holds {frames} frames or pages: give those that "
                     "are meant as files in images")  # fmt: skip
    if image.mode not in MODES:
        raise BadRow("image of more than 8 bits", f"{shown} has more than 8 bits a channel "
                     f"({image.mode}): save it with 8")  # fmt: skip
