"""The CSV files of a run's layer analyses, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.store.columns import layers as columns
from reports.csvio import Spec, read_table, stored
from reports.rundata import Run

ALL = "all"
SHORT = {"probs": "softmax maps", "logits": "Eq. 5"}
"""What the variants of arank.csv are called in figures and tables."""
PROBES = {"skip-layer": "layer skipped", "half-image": "half of the image tokens skip it"}
MEASURES = {"drop": "accuracy lost", "nll_increase": "NLL rises"}

ARANK = Spec.of(columns.ARANK, "bench", "variant", "layer", "n_samples", "arank")
DAMAGE = Spec.of(columns.DAMAGE, "bench", "probe", "layer", "nll_increase")
CORRELATION = Spec.of(columns.CORRELATION, "kind", "x", "y", "rho")
PLANS = Spec.of(columns.PLANS, "bench", "plan", "accuracy")


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


def named(written: str) -> str:
    """``logits on gqa``, ``skip-layer drop`` and so on of the files, in words."""
    first, _, rest = written.partition(" ")
    if first in SHORT:
        return f"ARank ({SHORT[first]}) {rest}".strip()
    if first in PROBES and rest in MEASURES:
        return f"{MEASURES[rest]}, {PROBES[first]}"
    return "block influence" if written == "block_influence" else written
