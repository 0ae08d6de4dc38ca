"""Dense on images of a quarter of the pixels: what `--slice hard` sorts documents by.

No row of a table and no method to choose: its answers say which documents need the image at full
resolution. The image is shrunk to half its sides before the processor sees it (where a tower of one
size would have shrunk it anyway: to half of what that leaves), bicubic and antialiased, so that a
tower of one size gets it scaled up again and makes its usual number of tokens, and one that takes
images of any size makes fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from methods.base import Method, Role


@dataclass(frozen=True)
class Quarter(Method):
    """No parameters."""

    name: ClassVar[str] = "quarter"
    role: ClassVar[Role] = "probe"
    pixels: ClassVar[float] = 0.25

    @property
    def numbering(self) -> None:
        return None
