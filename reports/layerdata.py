"""The CSV files of a run's layer analyses, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from reports.csvio import Spec, read_table, stored
from reports.rundata import Run

ALL = "all"

ARANK = Spec(
    "arank.csv",
    ("model", "bench", "variant", "data", "device", "dtype"),
    ("layer", "n_samples", "arank", "arank_std", "ci_low", "ci_high", "dense", "tokens_mean")
    + ("batch_size", "seconds"),
    ("model", "bench", "variant", "layer", "n_samples"),
    ("bench", "variant", "layer", "n_samples", "arank"),
)
DAMAGE = Spec(
    "damage.csv",
    ("model", "bench", "probe", "metric", "nll_unit", "data", "device", "dtype"),
    ("layer", "n_samples", "dense_accuracy", "accuracy", "drop", "drop_ci_low", "drop_ci_high")
    + ("nll_dense", "nll_increase", "nll_ci_low", "nll_ci_high", "batch_size", "seconds"),
    ("model", "bench", "probe", "layer"),
    ("bench", "probe", "layer", "nll_increase"),
)
CORRELATION = Spec(
    "layer_correlation.csv",
    ("model", "kind", "bench", "x", "y"),
    ("n_layers", "n_samples", "rho", "ci_low", "ci_high", "p_value", "documents_low")
    + ("documents_high",),
    ("model", "kind", "bench", "x", "y"),
    ("kind", "x", "y", "rho"),
)
PLANS = Spec(
    "plans.csv",
    ("model", "bench", "plan", "source", "spec", "reference", "retention", "data", "device")
    + ("dtype",),
    ("kv_budget", "kv_planned", "kv_measured", "n", "accuracy", "ci_low", "ci_high")
    + ("dense_accuracy", "delta_dense", "delta_dense_ci_low", "delta_dense_ci_high", "delta")
    + ("delta_ci_low", "delta_ci_high", "p_value", "p_adjusted", "made_on", "batch_size"),
    ("model", "bench", "plan"),
    ("bench", "plan", "accuracy"),
)


@dataclass
class Layers:
    """The four files; every column of their `Spec` there, empty where a file is absent."""

    arank: pd.DataFrame
    damage: pd.DataFrame
    correlation: pd.DataFrame
    plans: pd.DataFrame

    @property
    def benches(self) -> list[str]:
        """Benches by themselves, in the order of the files."""
        names = [*self.arank["bench"], *self.damage["bench"], *self.plans["bench"]]
        return [name for name in dict.fromkeys(names) if name != ALL]

    @property
    def mini(self) -> bool:
        """Whether any number comes from the shipped mini data."""
        frames = (self.arank, self.damage, self.plans)
        return any("mini" in str(value) for frame in frames for value in frame["data"].unique())


def load(run: Run) -> Layers | None:
    """The analyses of a run, None without any; notices go to ``run.notices``."""
    specs = (ARANK, DAMAGE, CORRELATION, PLANS)
    if not any(stored(Path(run.path) / spec.name) for spec in specs):
        return None
    arank, damage, correlation, plans = (
        read_table(run.path / spec.name, spec, run.notices) for spec in specs
    )
    arank = _whole(arank, ["layer", "n_samples", "arank"])
    damage = _whole(damage, ["layer", "nll_increase"])
    found = Layers(arank, damage, correlation[correlation["rho"].notna()], _whole(plans, ["n"]))
    return found if any(len(f) for f in (arank, damage, found.correlation, plans)) else None


def _whole(frame: pd.DataFrame, needed: list[str]) -> pd.DataFrame:
    """Rows that have these numbers; layers are whole numbers of at least 0."""
    known = frame[needed].notna().all(axis=1)
    if "layer" in needed:
        known &= (frame["layer"] >= 0) & (frame["layer"] == frame["layer"].round())
    return frame[known].reset_index(drop=True)
