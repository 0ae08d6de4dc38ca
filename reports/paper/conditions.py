"""``conditions.txt``: one paragraph that states how a run's numbers came about, to be pasted.

Every sentence is there only if ``run.json`` and the CSV files say what it says. Plain text without
signs that LaTeX takes for its own, unless a name of the run has one.
"""

from __future__ import annotations

import math
from pathlib import Path

from harness.statistics.draws import RESAMPLES
from reports import text
from reports.cell import Series
from reports.fronts import AVERAGE
from reports.paper import names, notes
from reports.paper.tex import MATH
from reports.ranking import NEAR, Ranking
from reports.summary import Summary

CONVENTIONS = {
    "causal": "counting the half of the attention matrix that causal attention needs",
    "full": "counting the whole attention matrix",
}
COUNTERS = {"closed_form": "a closed form of the layers' products"}


def render(summary: Summary, ranking: Ranking) -> str:
    """The paragraph, on one line."""
    sentences = [
        _what(summary),
        *_weights(summary),
        _data(summary),
        _setup(summary),
        _scores(summary, ranking),
        *_costs(summary, ranking),
        *_tests(summary),
        *_pairs(ranking),
        *_verdicts(summary),
        *_gaps(summary),
    ]
    return " ".join(plain(" ".join(sentences)).split()) + "\n"


def plain(said: str) -> str:
    """Dashes and Greek letters as every program takes them."""
    return "".join(
        "-" if sign in "−–" else MATH.get(sign, sign) if sign.isalpha() else sign for sign in said
    )


def _what(summary: Summary) -> str:
    methods = _called([s for s in summary.series if not s.is_control and not s.is_reference])
    controls = _called([s for s in summary.series if s.is_control])
    models = list(dict.fromkeys(s.model for s in summary.series if s.model))
    model = text.listing(models) or "a model whose name was not recorded"
    mini = ", a mini model that this software ships, not a published one" * summary.is_mini_model
    revision = summary.run.get("revision", "model.revision", "model_revision")
    hashes = [v for name, v in summary.run.meta.items() if name.startswith("weight_hashes.")]
    at = f" (revision {revision})" if revision else ""
    if not revision and len(hashes) == 1:
        at = f" (weights with SHA-256 {str(hashes[0])[:12]})"
    who = f"We evaluate {text.listing(methods) or 'the unchanged model'}"
    if controls:
        noun = "control" if len(controls) == 1 else "controls"
        who += f" and the {noun} {text.listing(controls)}"
    beside = " beside the unchanged model (dense)" if methods or controls else ""
    return f"{who}{beside} on {model}{at}{mini}."


def _called(series: list[Series]) -> list[str]:
    return list(dict.fromkeys(names.method(s.method) for s in series))


def _weights(summary: Summary) -> list[str]:
    """Which rows ran on which checkpoint, where they did."""
    run = summary.run
    found: dict[str, list[str]] = {}
    for series in summary.series:
        path = run.get(f"checkpoints.{series.method}.path")
        if isinstance(path, str):
            rows = found.setdefault(Path(path).name, [])
            name = "dense" if series.is_reference else names.method(series.method)
            rows += [name] if name not in rows else []
    if not found:
        return []
    shown = [f"{folder} for {text.listing(rows)}" for folder, rows in found.items()]
    return [f"Weights: {'; '.join(shown)}."]


def _data(summary: Summary) -> str:
    shown = []
    for bench in summary.benches:
        n = text.sample_count(summary, bench)
        mini = ", mini data" if summary.is_mini_bench(bench) else ""
        limit = summary.run.get("settings.limit", "limit")
        first = ", the first of them" if limit and not mini else ""
        shown.append(f"{names.bench(bench)} ({n}{first}{mini})")
    said = f"Data: {text.listing(shown)}."
    if any(summary.is_mini_bench(bench) for bench in summary.benches):
        said += (
            " Mini data are generated in the form of the benchmark of that name; scores on them "
            "say nothing about the published benchmark."
        )
    return said


def _setup(summary: Summary) -> str:
    run = summary.run
    version = run.get("versions.lmms-eval", "versions.lmms_eval")
    parts = [f"Prompts and scoring are those of lmms-eval{f' {version}' if version else ''}"]
    protocol = run.get("protocol", "settings.protocol")
    parts.append(f"asked by the protocol {protocol}" if protocol else "")
    parts.append("decoding is greedy unless a task asks for sampling")
    said = "; ".join(part for part in parts if part) + "."
    facts = [
        ("precision", run.get("dtype", "settings.dtype")),
        ("attention", run.get("attn", "attention", "settings.attn")),
        ("batch size", batch(summary)),
        ("device", run.get("device_name", "device.name", "device", "settings.device")),
        ("seed", run.get("seed", "settings.seed")),
    ]
    known = [f"{name} {value}" for name, value in facts if value is not None]
    versions = [
        f"{shown} {value}"
        for shown, key in (("PyTorch", "torch"), ("transformers", "transformers"))
        if (value := run.get(f"versions.{key}"))
    ]
    commit = run.get("git_commit", "git.commit", "commit")
    known += [f"with {text.listing(versions)}"] if versions else []
    known += [f"code at commit {str(commit)[:12]}"] if commit else []
    return said + (f" Setup: {', '.join(known)}." if known else "")


def batch(summary: Summary) -> str | None:
    """The batch size, with all that cells had to take where it was too large for them."""
    asked = summary.run.get("batch_size", "batch", "settings.batch_size")
    frame = summary.run.cells
    sizes = frame["batch_size"].dropna() if "batch_size" in frame else []
    used = sorted({int(size) for size in sizes})
    if len(used) > 1:
        return f"{text.listing([str(size) for size in used])}, by cell"
    return str(used[0]) if used else None if asked is None else str(asked)


def _scores(summary: Summary, ranking: Ranking) -> str:
    said = notes.metrics(summary)[0].replace(" in %", " in percent").replace("Scores: ", "")
    average = (
        f" The average is the mean over {notes.averaged(summary, ranking)}, each as a share of its "
        "scale."
        if len(summary.benches) > 1
        else ""
    )
    return f"Scores are each bench's main metric: {said}{average}"


def _costs(summary: Summary, ranking: Ranking) -> list[str]:
    said = []
    counter, convention = summary.counting
    if counter and convention:
        by = COUNTERS.get(counter, counter)
        how = CONVENTIONS.get(convention, f"under the convention {convention}")
        unit = next(
            (c.unit for cell in summary.cells.values() for c in cell.costs if c.unit), "FLOP"
        )
        flop = "a FLOP is one multiplication or one addition, two a multiply-accumulate"
        flop = flop if unit == "FLOP" else f"the unit is {unit}"
        said.append(
            f"Prefill compute is the language model's for one sample, by {by}, {how}; {flop}."
        )
    if any(not math.isnan(row.kv) for row in ranking.rows):
        said.append(
            "KV is the share of dense's image-token entries that stay in the key-value cache, a "
            "mean over all layers and samples."
        )
    return said


def _tests(summary: Summary) -> list[str]:
    tested = [
        score
        for series in summary.series
        for bench in summary.benches
        if (score := summary.score(series, bench)) and not math.isnan(score.p_adjusted)
    ]
    if not tested:
        return []
    return [
        f"Intervals are 95 percent, from a percentile bootstrap of {RESAMPLES} draws of whole "
        "images (Wilson's interval for right-or-wrong scores with one question an image). "
        "Differences are paired on the same documents; their p values are McNemar's, exact, for "
        "right-or-wrong scores with one question an image, and a sign-flip test on the images' "
        f"summed differences otherwise. Against dense, {text.plural(len(tested), 'test')} over all "
        "rows and benches of the run are one family for Holm's correction."
    ]


def _pairs(ranking: Ranking) -> list[str]:
    """The second family, and the third where the run has an average of several benches."""
    tested = [bench for (_, _, bench), p in ranking.pairs.found.items() if p.comparable]
    single = sum(bench != AVERAGE for bench in tested)
    if not tested:
        return []
    said = (
        "Rows are compared with each other where their KV shares differ by at most "
        f"{100 * NEAR:g} points: {text.plural(single, 'such paired test')} over all benches are a "
        "family of their own"
    )
    whole = len(tested) - single
    if whole:
        said += f", and so are the {whole} on the average (by sign flips)"
    return [f"{said}."]


def _verdicts(summary: Summary) -> list[str]:
    margin = summary.run.get("margin", "settings.margin")
    if not any(score.verdict for cell in summary.cells.values() for score in cell.scores):
        return []
    said = "A row is called better or worse where the corrected p is below 0.05"
    if isinstance(margin, int | float):
        unit = "point" if margin == 1 else "points"
        said += (
            f", else non-inferior where its whole interval lies above a loss of {margin:g} {unit} "
            "(without correction for the number of rows)"
        )
    return [f"{said}, else inconclusive."]


def _gaps(summary: Summary) -> list[str]:
    total = len(summary.series) * len(summary.benches)
    said = []
    for status, word in (("failed", "failed"), ("missing", "were not run")):
        if summary.count(status):
            said.append(f"{summary.count(status)} of {total} cells {word} and have no number.")
    return said
