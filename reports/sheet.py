"""A sheet of equal panels, saved as SVG, PNG and PDF with its CSV slice, and as inline SVG."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.transforms import Bbox

from harness.store.csvfile import csv_text
from reports import style, svg

POINTS = 72
PNG_DPI = 110
PAD = 0.07  # inches around a panel
BOLD = 0.72
"""Width of an average bold character in units of the font size."""


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

    Each panel is a subfigure: its texts are measured and its axes have the rest, so ``left``,
    ``right``, ``bottom`` and ``top`` are not needed.
    """

    name: str
    count: int
    width: float
    height: float
    left: InitVar[float] = 0
    right: InitVar[float] = 0
    bottom: InitVar[float] = 0
    top: InitVar[float] = 0
    columns: int = 3
    _figure: Figure = field(init=False)
    _parts: list[SubFigure] = field(init=False)
    _axes: list[Axes] = field(init=False, default_factory=list)
    _lines: list[int] = field(init=False, default_factory=list)
    _tagged: bool = field(init=False, default=False)

    def __post_init__(self, left: float, right: float, bottom: float, top: float) -> None:
        across = min(self.columns, self.count)
        down = -(-self.count // across)
        self._figure = Figure((across * self.width, down * self.height), facecolor=style.PAPER)
        FigureCanvasAgg(self._figure)
        grid = self._figure.subfigures(down, across, squeeze=False, facecolor="none")
        self._parts = grid.ravel().tolist()

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points of the axes of the last panel, as its texts leave them."""
        return self.size_of(self._axes[-1])

    def size_of(self, axes: Axes) -> tuple[float, float]:
        """The same of any panel."""
        self._settle(self._axes.index(axes))
        box, scale = axes.get_window_extent(), POINTS / self._figure.dpi
        return box.width * scale, box.height * scale

    def panel(self, title: str, mark: bool | str, covered: bool = False) -> Axes:
        """The axes of the next panel.

        ``mark``: True for numbers of the shipped mini data or model; a text stands as it is. It
        lies below the drawing, or at the top right of one that leaves no paper free (``covered``).
        """
        index = len(self._axes)
        for done in self._parts[:index]:
            done.set_visible(False)  # seaborn draws the figure to measure ticks: not all of it
        part = self._parts[index]
        part.set_gid(f"panel-{self.name}-{index}")
        axes = part.subplots()
        word = mark if isinstance(mark, str) else "mini" if mark else ""
        room = self.width * POINTS - 8
        self._tagged = covered and bool(word)
        if self._tagged:
            part.text(1 - PAD / self.width, 1 - PAD / self.height, word, ha="right", va="top",
                      color=style.MUTED, fontsize=style.SIZE)  # fmt: skip
            room -= (len(word) + 2) * style.SIZE * BOLD
        elif word:
            axes.text(
                0.5, 0.5, word, color=style.WATERMARK, in_layout=False,
                fontsize=46 if len(word) <= 4 else 28,
                ha="center", va="center", transform=axes.transAxes, zorder=0,
            )  # fmt: skip
        lines = textwrap.wrap(title, int(room / style.TITLE / BOLD)) or [" "]
        part.suptitle("\n".join(lines), x=PAD / self.width, y=1 - PAD / self.height, ha="left",
                      va="top", fontsize=style.TITLE, fontweight="bold")  # fmt: skip
        self._lines.append(len(lines))
        self._axes.append(axes)
        return axes

    def save(
        self, folder: Path, title: str, caption: str, alts: list[str], table: Sequence[Any]
    ) -> Drawn:
        """Write ``NAME.svg``, ``.png``, ``.pdf`` and ``.csv``; ``table`` is a header and rows."""
        for index, part in enumerate(self._parts[: len(self._axes)]):
            part.set_visible(True)
            self._settle(index)
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", metadata={"Date": None})
        text = buffer.getvalue()
        (folder / f"{self.name}.svg").write_text(text, encoding="utf-8")
        self._figure.savefig(
            folder / f"{self.name}.png", dpi=PNG_DPI, pil_kwargs={"compress_level": 4}
        )
        self._figure.savefig(
            folder / f"{self.name}.pdf", facecolor="none", bbox_inches=self._page(),
            metadata={"CreationDate": None},
        )  # fmt: skip
        rows = csv_text(table)
        (folder / f"{self.name}.csv").write_text(rows, encoding="utf-8")
        boxes = {f"panel-{self.name}-{i}": self._box(i) for i in range(self.count)}
        inline = svg.split(text, boxes, alts)
        return Drawn(self.name, title, caption, inline, rows, wide=self.columns == 1)

    def _settle(self, index: int) -> None:
        """Give the axes of a panel what its title and the texts around the axes leave.

        One measurement each: matplotlib's own layout takes several, and drawing waits for it.
        """
        axes, part = self._axes[index], self._parts[index]
        inner = axes.get_window_extent()
        outer = axes.get_tightbbox(for_layout_only=True) or inner
        whole, pad = part.bbox, PAD * self._figure.dpi
        left = pad + inner.x0 - outer.x0
        bottom = pad + inner.y0 - outer.y0
        right = whole.width - pad - (outer.x1 - inner.x1)
        top = whole.height - self._strip(index) * self._figure.dpi - (outer.y1 - inner.y1)
        width, height = max(right - left, 1), max(top - bottom, 1)
        axes.set_position((left / whole.width, bottom / whole.height,
                           width / whole.width, height / whole.height))  # fmt: skip

    def _strip(self, index: int) -> float:
        """Inches at the top of a panel that its title takes."""
        return PAD + self._lines[index] * 1.2 * style.TITLE / POINTS + 0.06

    def _page(self) -> Bbox:
        """All of the figure, but the title of a single panel: a paper has its caption for it."""
        width, height = self._figure.get_size_inches()
        for part in self._parts:  # embedding a second face would take longer than the drawing
            for words in part.texts:
                words.set_fontweight("normal")
        if self.count > 1:
            return Bbox.from_bounds(0, 0, width, height)
        self._parts[0].suptitle("")
        room = 0 if self._tagged else self._strip(0) - PAD
        return Bbox.from_bounds(0, 0, width, height - room)

    def _box(self, index: int) -> tuple[float, float, float, float]:
        """x, y, width and height of a whole panel in points, y downwards."""
        across = min(self.columns, self.count)
        width, height = self.width * POINTS, self.height * POINTS
        return (index % across) * width, (index // across) * height, width, height
