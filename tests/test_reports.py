"""The report on complete runs: right numbers, everything in one file, nothing torch."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import build_report, labels, text
from reports.pareto import non_dominated
from reports.rundata import load_run
from reports.summary import summarise
from reports.tables import normalised
from tests.fixtures.runs import write_run

pytestmark = pytest.mark.usefixtures("painted_module")

METHODS = ("dense", "gamma", "pmod", "fastv k=3 r=0.75", "blind")
FIGURES = ("pareto", "ranking", "heatmap", "retention_image")


class Page(HTMLParser):
    """Ids, links, table cells and bold text of a page; fails on unbalanced tags."""

    VOID = {"meta", "input", "br", "path", "use", "img", "link"}  # noqa: RUF012

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: Counter[str] = Counter()
        self.targets: set[str] = set()
        self.sources: list[str] = []
        self.bold: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self._open: list[str] = []
        self._table = ""
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if "id" in values:
            self.ids[values["id"]] += 1
        for name in ("href", "src"):
            if name in values:
                self.sources.append(values[name])
        self.targets.update(re.findall(r"url\(#([^)]+)\)", " ".join(values.values())))
        if tag == "table":
            self._table = values["id"].removeprefix("table-")
            self.rows[self._table] = []
        if tag == "tr":
            self.rows[self._table].append([])
        if tag in ("td", "th"):
            self.rows[self._table][-1].append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "b":
            self.bold.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[self._table][-1][-1] += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("runs") / "study", methods=METHODS, throughput=True)
    assert build_report(path) == path / "report.html"
    return path


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def by_name(body: list[list[str]]) -> dict[str, list[str]]:
    """Rows of the first table by label, which it shows as a name with its parameters below."""
    found = {}
    for row in body:
        name = " ".join(re.sub(r"control$", "", row[0].strip()).split())
        found[
            next(label for label in METHODS if label.replace(" ", "") == name.replace(" ", ""))
        ] = row
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_page_is_self_contained(page: Page, run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert all(s.startswith(("#", "data:text/csv")) for s in page.sources)
    assert "@import" not in html
    assert not re.search(r"(src|href|xmlns:\w+)=[\"']?(https?:)?//", html)
    assert "default-src 'none'" in html
    assert len(html) < 10e6


def test_every_id_is_unique_and_every_reference_resolves(page: Page) -> None:
    assert [i for i, count in page.ids.items() if count > 1] == []
    local = {s[1:] for s in page.sources if s.startswith("#")}
    assert local | page.targets <= set(page.ids)
    assert page.targets  # the figures do use clip paths, so the check above says something


def test_overview_shows_the_numbers_of_the_csv(page: Page, run: Path) -> None:
    head, *body = page.rows["overview"]
    assert [h.split()[0] for h in head[-3:]] == ["gqa", "textvqa", "pope"]
    assert all("mini" in h for h in head[-3:])
    shown = by_name(body)
    assert set(shown) == set(METHODS)
    for one in rows_of(run / "accuracy.csv"):
        if one["metric"] != "exact_match":
            continue
        column = ["gqa", "textvqa", "pope"].index(one["bench"]) - 3
        cell = shown[one["label"]][column]
        low, high = 100 * float(one["ci_low"]), 100 * float(one["ci_high"])
        assert f"{100 * float(one['value']):.1f} [{low:.1f}, {high:.1f}]" in cell
        if one["delta"]:
            assert text.number(100 * float(one["delta"]), signed=True) in cell
            assert one["verdict"] in cell


def test_bold_is_significant_and_nothing_else(page: Page, run: Path) -> None:
    expected = Counter[str]()
    for one in rows_of(run / "accuracy.csv"):
        if one["verdict"] in ("better", "worse"):
            delta = text.number(100 * float(one["delta"]), signed=True)
            expected[delta] += 2 if one["metric"] == "exact_match" else 1
    shown = Counter(b for b in page.bold if re.fullmatch(r"[+−]?\d+\.\d", b))
    assert shown == expected
    assert expected


def test_a_correction_that_takes_significance_away_takes_the_bold_away(
    tmp_path: Path, paint: Callable[..., None]
) -> None:
    paint()  # no sheet is looked at
    path = write_run(tmp_path, methods=("dense", "blind"), benches=("gqa",), failed=())
    before = build_report(path).read_text(encoding="utf-8")
    lines = rows_of(path / "accuracy.csv")
    lines[1]["p_adjusted"] = "0.2"
    with (path / "accuracy.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    after = build_report(path).read_text(encoding="utf-8")
    assert '<b class="worse">' in before
    assert "<b " not in after


def test_failed_cell_and_missing_cost_are_gaps(page: Page) -> None:
    wanted = ("Method", "Average", "Prefill", "KV", "textvqa")
    titles = [
        next((word for word in wanted if head.startswith(word)), head)
        for head in page.rows["overview"][0]
    ]
    body = by_name(page.rows["overview"][1:])
    shown = {name: dict(zip(titles, row, strict=True)) for name, row in body.items()}
    assert shown["fastv k=3 r=0.75"]["textvqa"].strip() == "failed"
    assert shown["fastv k=3 r=0.75"]["Average"].strip() == "1 bench missing"
    assert [shown["pmod"][c].strip() for c in ("Prefill", "KV")] == ["–", "–"]
    failures = page.rows["failures"][1:]
    assert [[c.strip() for c in row[:3]] for row in failures] == [
        ["fastv k=3 r=0.75", "textvqa", "failed"]
    ]
    assert "out of memory" in failures[0][3]


def test_normalised_score_is_the_share_above_blind(run: Path) -> None:
    summary = summarise(load_run(run))
    table = normalised(summary)
    assert table is not None
    value = {
        (r["label"], r["bench"]): float(r["value"])
        for r in rows_of(run / "accuracy.csv")
        if r["metric"] == "exact_match"
    }
    cells = {row[0].main: row[1:] for row in table.rows}
    assert "blind" not in cells
    assert cells["dense"][0].main == "100 %"
    expected = (value["gamma", "gqa"] - value["blind", "gqa"]) / (
        value["dense", "gqa"] - value["blind", "gqa"]
    )
    assert cells["gamma"][0].main == f"{100 * expected:.0f} %"
    assert cells["fastv k=3 r=0.75"][1].main == text.GAP


@pytest.mark.parametrize("name", FIGURES)
def test_figures_come_as_svg_png_pdf_and_their_csv(run: Path, name: str) -> None:
    svg = ElementTree.parse(run / "figures" / f"{name}.svg").getroot()
    assert svg.tag.endswith("svg")
    assert (run / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    pdf = (run / "figures" / f"{name}.pdf").read_bytes()
    assert pdf[:4] == b"%PDF" and b"/Type3" not in pdf and b"/CIDFontType2" in pdf  # TrueType
    assert b"/CreationDate" not in pdf
    assert len(rows_of(run / "figures" / f"{name}.csv")) > 3
    html = (run / "report.html").read_text(encoding="utf-8")
    caption = html.split(f'download="{name}.csv"')[0].rsplit("<figcaption>", 1)[1]
    assert "n = 500" in caption
    assert "float32, sdpa, batch 8, seed 0" in caption
    assert f"](figures/{name}.svg)" in (run / "report.md").read_text(encoding="utf-8")


def test_pareto_csv_marks_the_front(run: Path) -> None:
    points = [r for r in rows_of(run / "figures" / "pareto.csv") if r["bench"] == "gqa"]
    assert "pmod" not in {p["label"] for p in points}  # it has no cost
    ranked = [p for p in points if p["label"] != "blind"]
    pairs = [(float(p["prefill_tflops"]), float(p["score"])) for p in ranked]
    assert [bool(int(p["non_dominated"])) for p in ranked] == non_dominated(pairs)
    assert [p["non_dominated"] for p in points if p["label"] == "blind"] == ["0"]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_front_holds_what_nothing_beats_and_beats_the_rest(points: list[tuple[int, int]]) -> None:
    front = [p for p, on in zip(points, non_dominated(points), strict=True) if on]
    assert bool(front) == bool(points)
    for cost, score in points:
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in front)
        assert beaten != ((cost, score) in front)


def test_labels_keep_off_each_other_and_inside() -> None:
    size, font = (260.0, 180.0), 7.5
    points = [(40.0, 40.0), (46.0, 44.0), (50.0, 40.0), (250.0, 175.0), (5.0, 90.0)]
    names = ["dense", "fastv k=3 r=0.75", "pmod", "gamma ratio=0.34", "uniform"]
    boxes = []
    for point, name, off in zip(
        points, names, labels.place(points, names, size, font), strict=True
    ):
        x, y, half = point[0] + off[0], point[1] + off[1], len(name) * font * 0.28
        boxes.append((x - half, y - font * 0.6, x + half, y + font * 0.6))
    for i, (left, bottom, right, top) in enumerate(boxes):
        assert left >= 0
        assert bottom >= 0
        assert right <= size[0]
        assert top <= size[1]
        for other in boxes[:i]:
            apart = left >= other[2] or right <= other[0] or bottom >= other[3] or top <= other[1]
            assert apart


def test_markdown_tables_are_rectangular(run: Path) -> None:
    lines = (run / "report.md").read_text(encoding="utf-8").splitlines()
    width = 0
    for line in lines:
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert cells == 0 or width in (0, cells)
        width = cells
    assert sum(line.startswith("| ---") for line in lines) >= 6


def test_same_run_gives_same_bytes_without_what_runs_models(run: Path, tmp_path: Path) -> None:
    again = write_run(tmp_path / "study", methods=METHODS, throughput=True)
    code = (
        "import sys; from reports.__main__ import main; code = main(sys.argv[1:]);"
        "heavy = {m.split('.')[0] for m in sys.modules};"
        "print(sorted(heavy & {'torch', 'transformers', 'lmms_eval'} | {m for m in sys.modules"
        " if m.startswith(('harness.engine', 'harness.model', 'methods.fastv', 'methods.pmod'))}));"
        "sys.exit(code)"
    )
    command = [sys.executable, "-c", code, str(again)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(again / "report.html"), "[]"]
    names = ["report.html", "report.md"] + [
        f"figures/{n}.{k}" for n in FIGURES for k in ("svg", "pdf")
    ]
    for name in names:
        assert (again / name).read_bytes() == (run / name).read_bytes(), name
