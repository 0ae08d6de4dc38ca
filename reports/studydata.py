"""The CSV files of a study run: several trained arms on several benches, read and checked.

A study trains each arm with several seeds. Whatever contradicts itself is left out and said in a
notice, as everywhere in this package; an arm that failed or never ran stays in the study.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from harness.store.columns import study as columns
from reports.csvio import Spec, read_table, stored
from reports.rundata import Run, blank

AVERAGE = "average"
"""The bench that stands for the mean over all benches."""

MEASURED = ("done", "partial")
"""States whose numbers are shown; a failed or missing line has none, whatever the file says."""

LINES = Spec.of(columns.STUDY, "arm", "bench", "mean", "status")
RUNS = Spec.of(columns.RUNS, "arm", "seed", "status")
CLAIMS = Spec.of(columns.CLAIMS, "claim", "difference", "verdict")
LOSSES = Spec.of(columns.LOSSES, "arm", "seed", "step", "loss")
SLACK = 1e-9
ROUNDED = 0.15
"""Points by which a mean or a difference may miss the numbers it is made of."""


@dataclass
class Files:
    """The four files, every column of their ``Spec`` there."""

    lines: pd.DataFrame
    runs: pd.DataFrame
    claims: pd.DataFrame
    losses: pd.DataFrame


def read(run: Run) -> Files:
    """Read the files of a study; notices go to ``run.notices``."""
    frames = []
    for spec in (LINES, RUNS, CLAIMS, LOSSES):
        frame = read_table(run.path / spec.name, spec, run.notices)
        named = frame[spec.key[0]].str.strip().astype(bool)
        frames.append(frame[named].reset_index(drop=True))
        if stored(run.path / spec.name) is None:
            run.notices.append(f"{spec.name} is missing: what it would show is left empty.")
    files = Files(*frames)
    _drop_unmeasured(run, files)
    _drop_impossible(run, files)
    _drop_contradictions(run, files.lines)
    _drop_foreign_seeds(run, files)
    # What stands on a value that was left out goes with it.
    deltas = ["delta", "delta_ci_low", "delta_ci_high"]
    files.lines.loc[files.lines["mean"].isna(), ["ci_low", "ci_high", *deltas]] = float("nan")
    files.lines.loc[files.lines["delta"].isna(), deltas] = float("nan")
    files.claims.loc[files.claims["difference"].isna(), ["ci_low", "ci_high"]] = float("nan")
    return files


def _drop_unmeasured(run: Run, files: Files) -> None:
    """Numbers of a failed or missing arm are not shown as results."""
    lines, runs = files.lines, files.runs
    numbers = [c for c in LINES.numbers if c != "paper_value"]
    idle = ~lines["status"].isin(MEASURED)
    stray = idle & lines["mean"].notna()
    blank(run, lines, stray, ["mean"], LINES.name, "means of arms that are not done")
    lines.loc[idle, numbers] = float("nan")
    none = (lines["seeds"] == 0) & lines["mean"].notna()
    blank(run, lines, none, numbers, LINES.name, "means over no seed at all")
    unknown = lines["seeds"].isna() & lines["mean"].notna()
    if unknown.any():
        names = ", ".join(lines.loc[unknown, "arm"].unique())
        run.notices.append(f"{LINES.name}: the number of seeds is not recorded ({names}).")
    stray = ~runs["status"].isin(MEASURED) & runs["accuracy_average"].notna()
    blank(run, runs, stray, ["accuracy_average"], RUNS.name, "accuracies of runs not done")


def _drop_impossible(run: Run, files: Files) -> None:
    lines, claims = files.lines, files.claims
    off = "off their value"
    for frame, value, low, high, name, what in (
        (lines, "mean", "ci_low", "ci_high", LINES.name, f"intervals {off}"),
        (
            lines,
            "delta",
            "delta_ci_low",
            "delta_ci_high",
            LINES.name,
            f"difference intervals {off}",
        ),
        (claims, "difference", "ci_low", "ci_high", CLAIMS.name, f"intervals {off}"),
    ):
        outside = (frame[value] < frame[low] - SLACK) | (frame[value] > frame[high] + SLACK)
        outside |= frame[low] > frame[high] + SLACK
        blank(run, frame, outside, [low, high], name, what)
    for frame, name, top, file in (
        (lines, "mean", 100.0, LINES.name),
        (lines, "kv_ratio_vision", 1.0, LINES.name),
        (lines, "tflops_ratio", float("inf"), LINES.name),
        (claims, "p_value", 1.0, CLAIMS.name),
        (claims, "p_adjusted", 1.0, CLAIMS.name),
        (files.runs, "accuracy_average", 100.0, RUNS.name),
    ):
        wrong = (frame[name] < -SLACK) | (frame[name] > top + 1e-6)
        columns = [name, "ci_low", "ci_high"] if name == "mean" else [name]
        blank(run, frame, wrong, columns, file, f"values of {name} outside 0 to {top:g}")


def _drop_contradictions(run: Run, lines: pd.DataFrame) -> None:
    """A mean that is not that of its benches, a difference that is not the means' difference."""
    done = lines["status"] == "done"
    benches = lines[done & (lines["bench"] != AVERAGE)].groupby("arm")["mean"].mean()
    partial = set(lines.loc[~done | lines["mean"].isna(), "arm"])
    own = lines["arm"].map(benches).astype(float)
    wrong = (lines["bench"] == AVERAGE) & ~lines["arm"].isin(partial)
    wrong &= (lines["mean"] - own).abs() > ROUNDED
    columns = ["mean", "ci_low", "ci_high", "delta", "delta_ci_low", "delta_ci_high"]
    blank(run, lines, wrong, columns, LINES.name, "averages that are not the mean of their benches")
    # With fewer seeds on one side the difference may be that of the shared seeds alone.
    if not partial & set(lines.loc[lines["role"] == "reference", "arm"]):
        away = (lines["mean"] - lines["reference_mean"] - lines["delta"]).abs() > ROUNDED
        away &= ~lines["arm"].isin(partial)
        what = "differences that are not mean minus reference"
        blank(run, lines, away, ["delta", "delta_ci_low", "delta_ci_high"], LINES.name, what)


def _drop_foreign_seeds(run: Run, files: Files) -> None:
    """Single seeds must average to what the study says of their arm, else they are not shown."""
    means = files.lines[files.lines["bench"] == AVERAGE].set_index("arm")["mean"]
    seeds = files.runs.groupby("arm")["accuracy_average"].mean()
    apart = (seeds - means.reindex(seeds.index)).abs() > 1.0
    wrong = files.runs["arm"].isin(seeds.index[apart]) & files.runs["accuracy_average"].notna()
    what = f"accuracies of single seeds that {LINES.name} contradicts"
    blank(run, files.runs, wrong, ["accuracy_average"], RUNS.name, what)
