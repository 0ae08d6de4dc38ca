"""A sheet of equal panels, saved as SVG and PNG with its CSV slice, and as inline SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.store.csvfile import csv_text
from reports import style, svg

POINTS = 72
PNG_DPI = 110


@dataclass
class Drawn:
    """A finished figure as the page templates need it."""

    name: str
    title: str
    caption: str
    inline: str
    csv_text: str
    wide: bool = False
    """One broad panel instead of several that may stand beside each other."""
    photo: bool = False
    """Made of photographs: the Markdown report shows the PNG, the page only if nothing moves."""


@dataclass
class Sheet:
    """Panels of ``width`` by ``height`` inches in rows of ``columns``.

    The inches around each panel's axes are fixed (``left``, ``right``, ``bottom``, ``top``), so
    nothing has to be measured twice: drawing stays fast and every panel aligned.
    """

    name: str
    count: int
    width: float
    height: float
    left: float = 0.55
    right: float = 0.15
    bottom: float = 0.5
    top: float = 0.38
    columns: int = 3
    _figure: Figure = field(init=False)
    _axes: list[Axes] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        across = min(self.columns, self.count)
        down = -(-self.count // across)
        self._figure = Figure((across * self.width, down * self.height), facecolor=style.PAPER)
        FigureCanvasAgg(self._figure)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the axes of a panel in points."""
        return (
            (self.width - self.left - self.right) * POINTS,
            (self.height - self.bottom - self.top) * POINTS,
        )

    def panel(self, title: str, mark: bool | str) -> Axes:
        """The axes of the next panel.

        ``mark``: True for numbers of the shipped mini data or model; a text stands as it is.
        """
        index = len(self._axes)
        x, y, _, height = self._box(index)
        total_w, total_h = self._figure.get_size_inches() * POINTS
        bottom = total_h - y - height + self.bottom * POINTS
        axes = self._figure.add_axes(
            ((x + self.left * POINTS) / total_w, bottom / total_h)
            + (self.size[0] / total_w, self.size[1] / total_h)
        )
        axes.set_gid(f"panel-{self.name}-{index}")
        axes.set_title(title)
        if mark:
            word = mark if isinstance(mark, str) else "mini"
            axes.text(
                0.5, 0.5, word, color=style.WATERMARK, fontweight="bold",
                fontsize=46 if len(word) <= 4 else 28,
                ha="center", va="center", transform=axes.transAxes, zorder=0,
            )  # fmt: skip
        self._axes.append(axes)
        return axes

    def save(
        self, folder: Path, title: str, caption: str, alts: list[str], table: Sequence[Any]
    ) -> Drawn:
        """Write ``NAME.svg``, ``NAME.png`` and ``NAME.csv``; ``table`` is a header and its rows."""
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        (folder / f"{self.name}.svg").write_text(text, encoding="utf-8")
        self._figure.savefig(
            folder / f"{self.name}.png", dpi=PNG_DPI, pil_kwargs={"compress_level": 4}
        )
        rows = csv_text(table)
        (folder / f"{self.name}.csv").write_text(rows, encoding="utf-8")
        boxes = {f"panel-{self.name}-{i}": self._box(i) for i in range(self.count)}
        inline = svg.split(text, boxes, alts)
        return Drawn(self.name, title, caption, inline, rows, wide=self.columns == 1)

    def _box(self, index: int) -> tuple[float, float, float, float]:
        """x, y, width and height of a whole panel in points, y downwards."""
        across = min(self.columns, self.count)
        width, height = self.width * POINTS, self.height * POINTS
        return (index % across) * width, (index // across) * height, width, height
