"""What a page shows at once, and that it can be read."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from reports import benchsections, matrix
from reports.build import TEMPLATES
from reports.section import Section
from reports.sheet import Drawn

CSS = (TEMPLATES / "report.css").read_text(encoding="utf-8")
LIGHT, DARK = CSS.split("@media screen", 1)


def figure(title: str) -> Drawn:
    return Drawn(title, title, "", "", "")


def told(anchor: str, rows: int, *titles: str) -> Section:
    summary: Any = SimpleNamespace(series=list(range(rows)))
    found = Section(anchor, anchor, figures=tuple(figure(t) for t in titles), about="so")
    return benchsections._told(summary, found)


@pytest.mark.parametrize(("rows", "shown"), [(10, 1), (24, 1), (25, 0), (60, 0)])
def test_figures_with_a_part_a_row_start_closed_where_there_are_many(rows: int, shown: int) -> None:
    assert told("agreement", rows, "layers", "methods").open_figures == shown


def test_between_methods_comes_before_a_panel_a_method() -> None:
    assert told("agreement", 5, "layers", "methods").figures[0].title == "methods"


def test_the_bench_that_the_finding_names_is_the_one_that_is_open() -> None:
    titles = [figure(f"Evidence recall on {bench}") for bench in ("gqa", "textvqa", "pope")]
    said = "gamma on textvqa most above its share; pmod on gqa least above its share."
    order = sorted(titles, key=lambda one: benchsections._named_at(said, one))
    assert [one.title.split()[-1] for one in order] == ["textvqa", "gqa", "pope"]


def light(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK[: DARK.index("*, *::before")]])
def test_names_in_the_colour_of_their_line_can_be_read(theme: str) -> None:
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", theme))
    words = [name for name in colours if name.startswith("hue-")]
    assert len(words) == 8
    for name in (*words, "control", "muted", "accent", "good", "bad"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name


def test_open_pairs_can_be_read_on_every_colour_they_stand_on() -> None:
    for shade in matrix.COLOURS[1:4]:
        assert contrast(matrix.OPEN, shade) >= 4.5
