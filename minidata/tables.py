"""Real numbers for the charts: small category -> value series from vega_datasets' tables."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from minidata.vocab import MONTHS

Row = dict[str, Any]
Series = tuple[str, dict[str, float], bool]
"""Title, value by category, whether the order of the categories means something."""

LONGEST = 7
SECTORS = {
    "mining_and_logging": "Mining",
    "construction": "Builder",
    "wholesale_trade": "Trade",
    "retail_trade": "Retail",
    "utilities": "Power",
    "information": "Media",
    "financial_activities": "Bank",
    "leisure_and_hospitality": "Leisure",
    "government": "State",
    "transportation_and_warehousing": "Cargo",
}
SITES = {
    "University Farm": "Farm",
    "Waseca": "Waseca",
    "Morris": "Morris",
    "Duluth": "Duluth",
    "Grand Rapids": "Rapids",
}


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean of a non-empty iterable."""
    items = list(values)
    return sum(items) / len(items)


def build(tables: dict[str, list[Row]]) -> dict[str, list[Series]]:
    """All series by source table, in a fixed order."""
    return {
        "barley": _barley(tables["barley"]),
        "cars": _cars(tables["cars"]),
        "stocks": _stocks(tables["stocks"]),
        "jobs": _jobs(tables["us-employment"]),
        "weather": _weather(tables["seattle-weather"]),
        "airports": _airports(tables["airports"]),
        "power": _power(tables["iowa-electricity"]),
        "crimea": _crimea(tables["crimea"]),
    }


def _barley(rows: list[Row]) -> list[Series]:
    groups: dict[tuple[str, int], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["site"] in SITES:
            groups[row["variety"], row["year"]][SITES[row["site"]]] = float(row["yield"])
    return [(f"Barley {year}", values, False) for (_, year), values in sorted(groups.items())]


def _cars(rows: list[Row]) -> list[Series]:
    out: list[Series] = []
    measures = {
        "Miles_per_Gallon": "mpg",
        "Horsepower": "power",
        "Weight_in_lbs": "weight",
        "Acceleration": "speed",
        "Displacement": "engine",
    }
    for column, short in measures.items():
        groups: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in rows:
            make = row["Name"].split()[0].capitalize()
            if row[column] is not None and len(make) <= LONGEST and make.isalpha():
                groups[row["Year"][:4]][make].append(float(row[column]))
        for year, makes in sorted(groups.items()):
            out.append((f"Car {short} {year}", {m: mean(v) for m, v in makes.items()}, False))
    return out


def _stocks(rows: list[Row]) -> list[Series]:
    by_month: dict[str, dict[str, float]] = defaultdict(dict)
    by_year: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        month, _, year = row["date"].split()
        by_month[f"{month} {year}"][row["symbol"]] = float(row["price"])
        by_year[row["symbol"], year][month] = float(row["price"])
    out: list[Series] = [(f"Stocks {m}", v, False) for m, v in sorted(by_month.items())]
    return out + [(f"{s} {y}", v, True) for (s, y), v in sorted(by_year.items())]


def _jobs(rows: list[Row]) -> list[Series]:
    return [
        (f"Jobs {row['month'][:4]}", {s: float(row[c]) for c, s in SECTORS.items()}, False)
        for row in rows
    ]


def _weather(rows: list[Row]) -> list[Series]:
    warm: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    days: dict[tuple[str, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for row in rows:
        year, month, _ = row["date"].split("/")
        name = MONTHS[int(month) - 1]
        warm[year][name].append(float(row["temp_max"]))
        days[row["weather"].capitalize(), year][name] += 1
    out: list[Series] = [
        (f"Seattle {y}", {m: mean(v) for m, v in g.items()}, True) for y, g in sorted(warm.items())
    ]
    return out + [(f"{w} days {y}", dict(g), True) for (w, y), g in sorted(days.items())]


def _airports(rows: list[Row]) -> list[Series]:
    count: dict[str, float] = defaultdict(float)
    for row in rows:
        if len(row["state"]) == 2 and row["state"].isalpha() and row["state"] != "NA":
            count[row["state"]] += 1
    return [("Airports", {s: n for s, n in sorted(count.items()) if n >= 10}, False)]


def _power(rows: list[Row]) -> list[Series]:
    short = {"Fossil Fuels": "Fossil", "Nuclear Energy": "Nuclear", "Renewables": "Green"}
    by_year: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        by_year[row["year"][:4]][short[row["source"]]] = float(row["net_generation"])
    return [(f"Power {y}", v, False) for y, v in sorted(by_year.items())]


def _crimea(rows: list[Row]) -> list[Series]:
    out: list[Series] = []
    for cause in ("wounds", "other", "disease"):
        year = {MONTHS[int(r["date"][5:7]) - 1]: float(r[cause]) for r in rows[:12]}
        out.append((f"Crimea {cause}", year, True))
    return out


def sample(
    series: dict[str, list[Series]], rng: random.Random, sizes: Sequence[int] = (3, 4, 4, 5)
) -> tuple[str, str, list[tuple[str, int]], bool]:
    """Source, title, (category, whole number 1..99) pairs, ordered.

    `sizes` are the numbers of pairs. Up to five values all differ; of more, the highest and the
    lowest stand alone.

    Tables with more distinct content are drawn more often; `airports` less, because a state's
    number never changes and could be learnt by heart.
    """
    names = sorted(series)
    weights = [
        {"cars": 5, "airports": 2, "jobs": 2, "stocks": 4, "weather": 3}.get(n, 1) for n in names
    ]
    while True:
        source = rng.choices(names, weights)[0]
        title, values, ordered = rng.choice(series[source])
        size = min(rng.choice(sizes), len(values))
        if size < min(sizes):
            continue
        picked = (
            sorted(rng.sample(range(len(values)), size))
            if ordered
            else rng.sample(range(len(values)), size)
        )
        labels = list(values)
        whole = scaled([values[labels[i]] for i in picked])
        if usable(whole):
            pairs = [(labels[i], v) for i, v in zip(picked, whole, strict=True)]
            return source, title, pairs, ordered


def scaled(raw: list[float]) -> list[int]:
    """Whole numbers of at most two digits: all divided by the same power of ten."""
    scale = 1.0
    while max(raw) / scale > 99:
        scale *= 10
    return [round(v / scale) for v in raw]


def usable(whole: list[int]) -> bool:
    """Whether questions about these numbers have one answer (see `sample`)."""
    if min(whole) < 1 or max(whole) < 4:
        return False
    if len(whole) <= 5:
        return len(set(whole)) == len(whole)
    return whole.count(max(whole)) == whole.count(min(whole)) == 1


def grouped(series: dict[str, list[Series]]) -> dict[str, dict[str, dict[str, float]]]:
    """Tables of several series: title -> last word of the series' own titles -> its values.

    "Car mpg 1970" and "Car mpg 1976" are the series 1970 and 1976 of "Car mpg"; of series with
    one title the last stands.
    """
    out: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for title, values, _ in (one for known in series.values() for one in known):
        if " " in title:
            common, name = title.rsplit(" ", 1)
            out[common][name] = values
    return {title: group for title, group in sorted(out.items()) if len(group) > 1}
