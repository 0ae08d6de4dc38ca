"""The figures of a study: accuracy of every arm, on average and by bench, and its losses."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from reports import points, text
from reports.points import Level, Row
from reports.sheet import Drawn, Sheet
from reports.study import Arm, Line, Study
from reports.studydata import AVERAGE
from reports.studytables import STATES, seeds_named
from reports.studytext import captioned
from reports.style import HUES, INK, MUTED

OURS, THEIRS, BAD = HUES[0], HUES[1], HUES[1]
NAME = 24
"""Characters of an arm's name on one line of a figure."""

DOTS = ("source", "bench", "arm", "role", "status", "mean", "ci_low", "ci_high", "seeds") + (
    "significant",
)
CURVES = ("arm", "seed", "status", "step", "loss")
NOTE = (
    "A filled dot differs from dense tuned for as long by more than its interval, a hollow one "
    "does not; the line is that dense model."
)


def average(study: Study, folder: Path) -> Drawn | None:
    """Our averages with every seed, and the paper's values on an axis of their own."""
    if not any(arm.average.known for arm in study.arms):
        return None
    theirs = any(not math.isnan(arm.average.paper) for arm in study.arms)
    sheet = _sheet("study_average", study, 2 if theirs else 1)
    axes = sheet.panel("Ours", True)
    _dots(axes, study, AVERAGE, "average accuracy (%)")
    alts = [_alt("Ours, average accuracy in percent", study, AVERAGE)]
    table = [[*DOTS], *_rows(study, AVERAGE)]
    for arm in study.arms:
        for run in arm.runs:
            if not math.isnan(run.accuracy):
                row: list[object] = ["ours, one seed", AVERAGE, arm.name, arm.role, run.status]
                table.append([*row, run.accuracy, "", "", run.seed, ""])
    if theirs:
        _papers(sheet.panel("The paper, its own scale", False), study)
        known = [a for a in study.arms if not math.isnan(a.average.paper)]
        said = ", ".join(f"{a.name} {text.number(a.average.paper)}" for a in known)
        alts.append(f"The paper, {study.said('paper_metric') or 'its own metric'}: {said}.")
        table += [["paper", AVERAGE, a.name, a.role, "", a.average.paper, "", "", "", ""]
                  for a in known]  # fmt: skip
    caption = f"Average accuracy with 95 % CI; small marks are single seeds. {NOTE} "
    if theirs:
        caption += (
            "The paper's panel has its own axis: its model and data are others, so levels do not "
            "compare. "
        )
    return sheet.save(
        folder, "Accuracy of every arm", caption + captioned(study) + ".", alts, table
    )


def benches(study: Study, folder: Path) -> Drawn | None:
    """One panel a bench."""
    shown = [b for b in study.benches if any(arm.line(b).known for arm in study.arms)]
    if not shown:
        return None
    sheet = _sheet("study_benches", study, len(shown))
    table: list[list[object]] = [[*DOTS]]
    for bench in shown:
        metric = next(li.metric for a in study.arms if (li := a.line(bench)).known)
        name = metric.partition(",")[0].replace("_", " ") or "score"
        _dots(sheet.panel(bench, True), study, bench, f"{name} (%)")
        table += _rows(study, bench)
    alts = [_alt(f"{bench}, percent", study, bench) for bench in shown]
    caption = f"Accuracy by bench with 95 % CI. {NOTE} {captioned(study)}."
    return sheet.save(folder, "Accuracy by bench", caption, alts, table)


def losses(study: Study, folder: Path) -> Drawn | None:
    """The training loss of every arm: thin lines for seeds, a thick one for their mean."""
    known = study.losses.dropna(subset=["step", "loss"]).sort_values("step", kind="stable")
    shown = [arm for arm in study.arms if (known["arm"] == arm.name).any()]
    if not shown:
        return None
    sheet = Sheet("study_losses", len(shown), width=3.8, height=2.3)
    top = _top(known["loss"])
    right = float(known["step"].max())
    table: list[list[object]] = [[*CURVES]]
    alts = []
    for arm in shown:
        axes = sheet.panel(textwrap.shorten(arm.name, 42, placeholder=" …"), True)
        curves = known[known["arm"] == arm.name]
        failed = _curves(axes, arm, curves, top)
        axes.set(xlim=(0, right * 1.02 or 1), ylim=(min(0.0, float(known["loss"].min())), top))
        axes.set(xlabel="step", ylabel="training loss")
        table += [[arm.name, r.seed, _status(arm, r.seed), r.step, r.loss]
                  for r in curves.itertuples()]  # fmt: skip
        last = curves.groupby("seed")["loss"].last()
        said = ", ".join(f"seed {s} ends at {text.number(v, 3)}" for s, v in last.items())
        alts.append(f"Training loss, {arm.name}: {said}{failed}.")
    others = [arm.name for arm in study.arms if arm not in shown]
    nothing = f"No losses of {'; '.join(others)}. " if others else ""
    caption = (
        "Training loss over optimiser steps on one scale. Thin lines: single seeds; thick line: "
        "mean over the seeds that finished, where all of them have a value; × where a seed that "
        f"failed stopped. {nothing}{captioned(study)}."
    )
    return sheet.save(folder, "Training loss", caption, alts, table)


def _curves(axes: Axes, arm: Arm, curves: pd.DataFrame, top: float) -> str:
    """Draw an arm's losses; says what of them is not a finished curve in the axes."""
    colour = INK if arm.is_reference else OURS
    failed = {s for s in curves["seed"].unique() if _status(arm, str(s)) == "failed"}
    seeds = list(curves["seed"].unique())
    sns.lineplot(curves, x="step", y="loss", hue="seed", hue_order=seeds, estimator=None,
                 palette=[BAD if s in failed else colour for s in seeds], linewidth=0.7,
                 alpha=0.55, legend=False, ax=axes)  # fmt: skip
    stops: dict[float, list[str]] = {}
    for seed in failed:
        last = curves[curves["seed"] == seed].iloc[-1]
        x, y = float(last["step"]), min(float(last["loss"]), top)
        axes.scatter([x], [y], marker="x", s=34, color=BAD, zorder=4, clip_on=False)
        stops.setdefault(x, []).append(str(seed))
    done = [curves[curves["seed"] == s].set_index("step")["loss"] for s in seeds if s not in failed]
    if done:
        mean = pd.concat(done, axis=1).dropna().mean(axis=1).sort_index()
        sns.lineplot(x=mean.index, y=mean, color=colour, linewidth=1.8, ax=axes)
    said = [f"{seeds_named(seeds)} failed at step {x:.0f}" for x, seeds in stops.items()]
    if float(curves["loss"].max()) > top:
        said.append("some of it above the axis")
    if said:
        axes.text(0.98, 0.95, "\n".join(said), transform=axes.transAxes, ha="right", va="top",
                  color=MUTED, style="italic", zorder=5)  # fmt: skip
    return "".join(f"; {words}" for words in said)


def _top(values: pd.Series) -> float:
    """Upper end of the loss axis: all of it, unless a few points would flatten the rest."""
    most, usual = float(values.max()), float(values.quantile(0.97))
    return 1.05 * (most if most <= 4 * usual else 1.5 * usual) or 1.0


def _status(arm: Arm, seed: str) -> str:
    return next((run.status for run in arm.runs if run.seed == seed), "")


def _sheet(name: str, study: Study, count: int) -> Sheet:
    two = any("\n" in _name(study, arm) for arm in study.arms)
    return Sheet(name, count, width=4.2, height=1.2 + (0.34 if two else 0.21) * len(study.arms))


def _name(study: Study | None, arm: Arm) -> str:
    """An arm's name on one line or two, cut short after that, and the seeds it falls short of."""
    short = study.short_of(arm) if study else ""
    lines = textwrap.wrap(arm.name, NAME) or [text.GAP]
    if len(lines) > (1 if short else 2):
        keep = 0 if short else 1
        lines = [*lines[:keep], lines[keep][: NAME - 2].rstrip() + " …"]
    return "\n".join([*lines, short] if short else lines)


def _dots(axes: Axes, study: Study, bench: str, label: str) -> None:
    rows = []
    for arm in study.arms:
        line, colour = arm.line(bench), INK if arm.is_reference else OURS
        word = STATES.get(line.status, line.status)
        filled = arm.is_reference or line.significant
        values = line.mean, line.low, line.high
        rows.append(Row(_name(study, arm), *values, colour, filled=filled, word=word))
    if bench == AVERAGE:
        seeds = [(run.accuracy, row + 0.3) for row, arm in enumerate(study.arms)
                 for run in arm.runs if not math.isnan(run.accuracy)]  # fmt: skip
        axes.scatter([value for value, _ in seeds], [row for _, row in seeds], marker="|", s=22,
                     color=MUTED, linewidths=1.0, zorder=2)  # fmt: skip
    reference = study.reference.line(bench) if study.reference else None
    level = [Level("", reference.mean)] if reference and reference.known else []
    points.draw(axes, rows, _label(label), level)


def _papers(axes: Axes, study: Study) -> None:
    """The paper's values, with what it says where it gives none."""
    rows = []
    for arm in study.arms:
        note = textwrap.shorten(arm.average.paper_note or "no value", 34, placeholder=" …")
        rows.append(Row(_name(None, arm), arm.average.paper, colour=THEIRS, marker="D",
                        filled=False, word=note))  # fmt: skip
    points.draw(axes, rows, _label((study.said("paper_metric") or "the paper's metric") + " (%)"))


def _label(said: str) -> str:
    lines = textwrap.wrap(said, 28)
    return "\n".join(lines[:2]) + (" …" if len(lines) > 2 else "")


def _alt(what: str, study: Study, bench: str) -> str:
    parts = []
    for arm in study.arms:
        line = arm.line(bench)
        shown = text.number(line.mean) if line.known else STATES.get(line.status, line.status)
        parts.append(f"{arm.name} {shown}")
    return f"{what}: {', '.join(parts)}."


def _rows(study: Study, bench: str) -> list[list[object]]:
    rows: list[list[object]] = []
    for arm in study.arms:
        line: Line = arm.line(bench)
        numbers = [line.mean, line.low, line.high, line.seeds]
        shown: list[object] = ["" if math.isnan(v) else v for v in numbers]
        mark = "" if not line.known or arm.is_reference else str(line.significant).lower()
        rows.append(["ours", bench, arm.name, arm.role, line.status, *shown, mark])
    return rows
