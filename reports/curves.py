"""Accuracy against budget: every method's curve, and the areas between them (``curves.csv``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from harness.store import columns
from reports import curvefigure, numbering, text
from reports.cell import ALPHA
from reports.csvio import Spec, read_table
from reports.curvefigure import Curve
from reports.fronts import AVERAGE
from reports.section import Section
from reports.style import Palette
from reports.summary import Summary
from reports.tables import Cell, Column, Table

FILE = Spec.of(columns.CURVES, "bench", "method", "curve", "against", "area", "ci_low", "ci_high")
DENSE, RANDOM = "dense", "random"
MATCHED = (RANDOM, "uniform", "pool", "downsample")
TITLE = "Accuracy against budget"
ABOUT = (
    "A curve is the rows of a method that differ in the budget only; seeds of random are averaged. "
    "The area is the mean difference in accuracy over the budgets where both curves kept as much "
    "of the image's KV cache (1.5 points), by the trapezoid over the share kept, divided by its "
    "width. 95 % intervals draw whole images, jointly for all rows of a bench and bench by bench "
    "for the average. Settled means p below 0.05 after Holm's correction, over all areas of the "
    "average (of a run with one bench: of the bench). Controls number their tokens as the method "
    "does."
)
NUMBERED = {"original": "original positions", "compact": "numbered anew"}
SETTLED = 12
"""Rows of the table of pairs: the widest."""


@dataclass(frozen=True)
class Area:
    """One curve minus another, in the metric's unit; a share for the average."""

    curve: str
    against: str
    budgets: str
    value: float
    low: float
    high: float
    p_adjusted: float

    @property
    def settled(self) -> bool:
        return self.p_adjusted < ALPHA


Areas = dict[tuple[str, str, str], Area]
"""By bench, curve and what it is held against."""


def section(summary: Summary, folder: Path, palette: Palette) -> Section | None:
    """The curves of a run whose methods stand at several budgets; None without any."""
    known = curvefigure.curves(summary)
    if not any(not curve.is_control for curve in known):
        return None
    found = load(summary, known)
    whole = AVERAGE if len(summary.answered) > 1 else "".join(summary.answered)
    drawn = curvefigure.draw(summary, known, folder, palette)
    tables = (_table(summary, known, found, whole), _settled(summary, known, found, whole))
    return Section(
        "curves", TITLE, finding(summary, known, found, whole), (drawn,),
        tuple(t for t in tables if t is not None), about=ABOUT,
    )  # fmt: skip


def load(summary: Summary, known: list[Curve]) -> Areas:
    """Read ``curves.csv``; what cannot be is left out with a notice."""
    run = summary.run
    frame = read_table(run.path / FILE.name, FILE, run.notices)
    wrong = (frame["area"] < frame["ci_low"] - 1e-9) | (frame["area"] > frame["ci_high"] + 1e-9)
    wrong |= frame["area"].isna() | ~(
        frame["p_adjusted"].between(0, 1) | frame["p_adjusted"].isna()
    )
    if wrong.any():
        run.notices.append(f"{FILE.name}: {int(wrong.sum())} line(s) that cannot be, left out.")
        frame = frame[~wrong]
    labels = {curve.label for curve in known} | {DENSE}
    return {
        (str(row.bench), str(row.curve), str(row.against)): Area(
            str(row.curve), str(row.against), str(row.budgets), row.area, row.ci_low, row.ci_high,
            row.p_adjusted,
        )
        for row in frame.itertuples()
        if row.curve in labels and row.against in labels
    }  # fmt: skip


def finding(summary: Summary, known: list[Curve], found: Areas, whole: str) -> str:
    """Who comes nearest to dense over the budgets, who beats chance, how many pairs are settled."""
    unit = _unit(summary, whole)
    mine = [area for (bench, _, _), area in found.items() if bench == whole]
    dense = [area for area in mine if area.against == DENSE]
    if not dense:
        return ""
    names = {curve.label: curve.short for curve in known}
    where = "on average" if whole == AVERAGE else f"on {whole}"
    best = max(dense, key=lambda area: area.value)
    pairs = [area for area in mine if area.against != DENSE and not _is_control(area, known)]
    by = f"{_points(best, unit)} points over them{_lead(summary, known, best, pairs)}"
    said = [f"At {_budgets(best)} {names[best.curve]} comes nearest to dense {where}: {by}."]
    chance = [area for area in mine if _method(area.against) == RANDOM]
    above = [names[area.curve] for area in chance if area.settled and area.value > 0]
    if chance:
        verb = "lies" if len(above) == 1 else "lie"
        who = f" ({text.listing(above)})" if 0 < len(above) <= 6 else ""
        told = f"{len(above) or 'None'} of {text.plural(len(chance), 'curve')}"
        said.append(f"{told} {verb} above random's at the same numbering{who}.")
    if pairs:
        count = sum(area.settled for area in pairs)
        said.append(f"{count} of {text.plural(len(pairs), 'pair')} of methods are settled.")
    return " ".join(said)


def _budgets(area: Area) -> str:
    """Shares of the image's KV cache, or tokens of an image, in words."""
    values = area.budgets.split("+")
    shares = "KV " if float(values[-1]) <= 1 and float(values[0]) <= 1 else ""
    return f"{shares}{text.listing(values)}{'' if shares else ' tokens'}"


def _lead(summary: Summary, known: list[Curve], best: Area, pairs: list[Area]) -> str:
    """Over how many other methods the lead of a curve is settled, and how many number otherwise."""
    mine = [area for area in pairs if best.curve in (area.curve, area.against)]
    won = [a for a in mine if a.settled and (a.value > 0) == (a.curve == best.curve)]
    if not mine:
        return ""
    said = f", settled above {len(won) or 'none'} of {text.plural(len(mine), 'other')}"
    kinds = {curve.label: summary.positions(curve.first) for curve in known}
    other = sum(kinds.get(a.curve) != kinds.get(a.against) for a in won)
    return f"{said} ({other} of which number their tokens otherwise)" if other else said


def _table(summary: Summary, known: list[Curve], found: Areas, whole: str) -> Table | None:
    """A row a method's curve: its areas to dense and to the controls, to dense bench by bench."""
    rows = [curve for curve in known if (whole, curve.label, DENSE) in found]
    if not rows:
        return None
    rows.sort(key=lambda curve: -found[whole, curve.label, DENSE].value)
    near = [n for n in MATCHED if any(_method(key[2]) == n for key in found if key[0] == whole)]
    differ = numbering.differ(summary)
    names = [Column("Method", numeric=False)]
    names += [Column(numbering.TITLE, numeric=False)] if differ else []
    budgets = list(dict.fromkeys(_budgets(found[whole, c.label, DENSE]) for c in rows))
    names += [Column("Budgets", numeric=False)] if len(budgets) > 1 else []
    names += [Column(f"Δ to {name}", "points, 95 % CI") for name in (DENSE, *near)]
    benches = summary.answered if whole == AVERAGE else []
    for bench in benches:
        mini = summary.is_mini_bench(bench)
        names.append(Column(bench, "Δ to dense, points, 95 % CI", mini=mini, fold=True))
    body = []
    for curve in rows:
        dense = found[whole, curve.label, DENSE]
        head = [Cell(curve.label, tone="name", sort=curve.label)]
        head += [numbering.cell(summary.positions(curve.first))] if differ else []
        head += [Cell(_budgets(dense))] if len(budgets) > 1 else []
        areas = [dense, *(_control(found, whole, curve.label, name) for name in near)]
        cells = [_cell(area, _unit(summary, whole)) for area in areas]
        for bench in benches:
            cells.append(_cell(found.get((bench, curve.label, DENSE)), _unit(summary, bench)))
        body.append([*head, *cells])
    over = budgets[0] if len(budgets) == 1 else "their budgets"
    note = f"Mean differences over {over}, {'on average' if whole == AVERAGE else f'on {whole}'}. "
    note += "Bold: settled. Controls number their tokens as the method does."
    return Table("curves", "Over all budgets", names, body, note)


def _settled(summary: Summary, known: list[Curve], found: Areas, whole: str) -> Table | None:
    """The widest settled differences between the curves of two methods."""
    mine = [area for (bench, _, _), area in found.items() if bench == whole]
    pairs = [area for area in mine if area.against != DENSE and not _is_control(area, known)]
    told = sorted((a for a in pairs if a.settled), key=lambda a: -abs(a.value))
    if not told:
        return None
    unit = _unit(summary, whole)
    names = [
        Column("Above", numeric=False), Column("Below", numeric=False),
        Column("By", "points, 95 % CI"), Column("p", "adjusted"),
    ]  # fmt: skip
    several = len({area.budgets for area in told}) > 1
    names += [Column("Budgets", numeric=False)] if several else []
    body = []
    for area in told[:SETTLED]:
        up = area if area.value > 0 else _turned(area)
        p = "< 0.001" if area.p_adjusted < 0.001 else text.number(area.p_adjusted, 3)
        who = [_who(summary, known, label) for label in (up.curve, up.against)]
        last = [Cell(p, sort=area.p_adjusted), *([Cell(_budgets(up))] if several else [])]
        body.append([*who, _cell(up, unit), *last])
    of = f"{len(told)} of {text.plural(len(pairs), 'pair')} are settled"
    note = f"{of}; the widest {SETTLED} are shown, {FILE.name} has all."
    note = note if len(told) > SETTLED else f"{of}; {FILE.name} has all."
    return Table("curve-pairs", "Curves that are told apart", names, body, note)


def _who(summary: Summary, known: list[Curve], label: str) -> Cell:
    """A curve's name, and how it numbers the tokens it keeps where that differs in the run."""
    kind = next((summary.positions(c.first) for c in known if c.label == label), "")
    note = NUMBERED.get(kind, "") if numbering.differ(summary) else ""
    return Cell(label, note=note, tone="name", sort=label)


def _turned(area: Area) -> Area:
    return replace(area, curve=area.against, against=area.curve, value=-area.value,
                   low=-area.high, high=-area.low)  # fmt: skip


def _control(found: Areas, bench: str, curve: str, name: str) -> Area | None:
    """The area to a control; where it has several curves, to the first."""
    here = (a for (b, c, other), a in found.items() if (b, c) == (bench, curve))
    return next((area for area in here if _method(area.against) == name), None)


def _is_control(area: Area, known: list[Curve]) -> bool:
    return any(curve.is_control for curve in known if curve.label == area.against)


def _method(label: str) -> str:
    return label.partition(" ")[0]


def _cell(area: Area | None, unit: float) -> Cell:
    if area is None:
        return Cell(text.GAP, tone="gap")
    ci = text.interval(area.low * unit, area.high * unit, signed=True)
    shown = text.number(area.value * unit, signed=True)
    tone = "" if not area.settled else "better" if area.value > 0 else "worse"
    return Cell(shown, ci, strong=area.settled, tone=tone, sort=area.value)


def _points(area: Area, unit: float) -> str:
    ci = text.interval(area.low * unit, area.high * unit, signed=True)
    return f"{text.number(area.value * unit, signed=True)} {ci}".rstrip()


def _unit(summary: Summary, bench: str) -> float:
    return 100.0 if bench == AVERAGE else text.factor(summary, bench)
