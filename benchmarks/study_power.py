"""Which claims some seeds and documents can decide, from the scores of finished studies.

    python benchmarks/study_power.py [--looks 3,5,8] [--documents 100,500,2000] [--out CSV]

The difference of two arms is taken as (difference of claim) + seed + document + rest, documents
within their bench, and the three variances are estimated from the paired scores (two-way analysis
of variance). With them 1,000 studies a claim are drawn, the difference being what was found, and
judged as `harness.study` does: at the looks, on t tests over seeds and documents, at 5 % over the
number of the study's claims (Holm's strictest step). The fixed number of seeds is statsmodels' for
80 % power at that level, without looks and without the documents' share.

Read it as a plan, not as a result: a difference and an sd from three seeds are themselves uncertain
(the sd's own 95 % interval reaches from half to six times of it), and other trainings have others.
"""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t
from statsmodels.stats.power import TTestPower

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from harness.statistics.sequential import Looks  # noqa: E402
from harness.statistics.stats import ALPHA  # noqa: E402
from harness.study.spec import Claim, Study, load_study  # noqa: E402

SCORES = ROOT / "results/cpu-intel-xeon-2-cores/studies/scores.parquet"
DRAWS, POWER, MOST = 1000, 0.8, 100
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """A paired difference in points, its sds, and what they were estimated from."""

    found: float
    observed: float  # of the seeds' means, with the documents at hand
    seed: float
    document: float
    rest: float
    seeds: int
    documents: int

    @classmethod
    def of(cls, scores: pd.DataFrame, claim: Claim) -> Spread:
        better, worse = (
            scores[scores["arm"] == name].pivot_table(
                "score", "seed", ["bench", "doc_id"], observed=True
            )
            for name in (claim.better, claim.worse)
        )
        both = better.index.intersection(worse.index)
        away = better.loc[both] - worse.loc[both]
        rest, between, freedom = 0.0, 0.0, 0
        for _, bench in away.T.groupby(level="bench", observed=True):
            x = bench.to_numpy().T  # [seeds, documents]
            means = x.mean(axis=0)
            rest += float(((x - x.mean(axis=1, keepdims=True) - means + x.mean()) ** 2).sum())
            between += len(x) * float(((means - means.mean()) ** 2).sum())
            freedom += x.shape[1] - 1
        count, documents = away.shape
        rest /= freedom * (count - 1)
        document = max(0.0, (between / freedom - rest) / count)
        observed = float(away.mean(axis=1).var(ddof=1))
        seed = max(0.0, observed - rest / documents)
        sds = (math.sqrt(v) for v in (observed, seed, document, rest))
        return cls(float(away.to_numpy().mean()), *sds, count, documents)

    def of_seeds(self, documents: int) -> float:
        """The sd of the seeds' means over so many documents."""
        return math.hypot(self.seed, self.rest / math.sqrt(documents))

    def decided(
        self, study: Study, claim: Claim, looks: Looks, documents: int, tests: int
    ) -> list[float]:
        """The share of drawn studies that decide the claim by each look."""
        rng = np.random.default_rng(0)
        seeds = rng.normal(0, self.of_seeds(documents), (DRAWS, looks.sizes[-1]))
        shift = self.found + rng.normal(0, self.document / math.sqrt(documents), DRAWS)
        lower, upper = (0.0, study.margin) if claim.kind == "higher" else (-study.margin, 0.0)
        is_decided, shares = np.zeros(DRAWS, dtype=bool), []
        for look, n in enumerate(looks.sizes, start=1):
            means = shift + seeds[:, :n].mean(axis=1)
            parts = (
                seeds[:, :n].var(axis=1, ddof=1) / n,
                np.full(DRAWS, (self.document**2 + self.rest**2 / n) / documents),
            )
            above = _adjusted(means - lower, parts, n, documents, looks, look)
            below = _adjusted(upper - means, parts, n, documents, looks, look)
            is_decided |= np.minimum(above, below) < ALPHA / tests
            shares.append(float(is_decided.mean()))
        return shares

    def fixed(self, study: Study, claim: Claim, documents: int, tests: int) -> int | None:
        """Seeds for 80 % power at one look; None beyond `MOST`."""
        lower, upper = (0.0, study.margin) if claim.kind == "higher" else (-study.margin, 0.0)
        size = max(self.found - lower, upper - self.found) / self.of_seeds(documents)
        for n in range(2, MOST + 1):
            if TTestPower().power(size, n, ALPHA / tests) >= POWER:
                return n
        return None


def _adjusted(
    away: Floats, parts: tuple[Floats, Floats], n: int, documents: int, looks: Looks, look: int
) -> Floats:
    """p-values, adjusted for the looks, of `away` being above zero; 1 where it is not."""
    variance = parts[0] + parts[1]
    freedom: Floats | int = n - 1  # as `harness.study.effects` has them: fewer with several looks
    if not looks.several:
        freedom = variance**2 / (parts[0] ** 2 / (n - 1) + parts[1] ** 2 / (documents - 1))
    p = np.where(away > 0, 2 * t.sf(away / np.sqrt(variance), freedom), 1.0)
    return np.array([looks.adjusted(float(one), look) for one in p])


def rows(scores: pd.DataFrame, looks: Looks, documents: list[int]) -> list[dict[str, object]]:
    """A row a claim; `documents` are numbers a bench."""
    found: list[dict[str, object]] = []
    for path in sorted((ROOT / "suites").glob("*.yaml")):
        own = scores[scores["study"] == path.stem]
        if own.empty:
            continue
        study, benches = load_study(path), own["bench"].nunique()
        compared = [claim for claim in study.claims if claim.kind != "overflow"]
        for claim in compared:
            spread = Spread.of(own, claim)
            row: dict[str, object] = {"study": path.stem, "claim": claim.claim}
            row |= {"seeds": spread.seeds, "difference": round(spread.found, 1)}
            row |= {"sd": round(spread.observed, 1), "sd_seed": round(spread.seed, 1)}
            row |= {f"sd_{n}": round(spread.of_seeds(n * benches), 1) for n in documents}
            for n in documents:
                count = n * benches
                shared = math.hypot(spread.document, spread.rest / math.sqrt(looks.sizes[-1]))
                row[f"documents_se_{n}"] = round(shared / math.sqrt(count), 2)
                decided = spread.decided(study, claim, looks, count, len(compared))
                row |= {f"decided_{n}_{size}": round(share, 2)
                        for size, share in zip(looks.sizes, decided, strict=True)}  # fmt: skip
            row["fixed"] = spread.fixed(study, claim, documents[-1] * benches, len(compared))
            found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scores", type=Path, default=SCORES, help="study_scores of studies")
    parser.add_argument("--looks", default="3,5,8")
    parser.add_argument("--documents", default="100,500,2000", help="a bench")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    documents = [int(n) for n in args.documents.split(",")]
    looks = Looks(tuple(int(n) for n in args.looks.split(",")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # statsmodels, at power 1
        table = pd.DataFrame(rows(pd.read_parquet(args.scores), looks, documents))
    table["fixed"] = table["fixed"].astype("Int64")
    if args.out:
        table.to_csv(args.out, index=False)
    print(table.to_string(index=False))
    spent, levels = ([round(a, 4) for a in parts] for parts in (looks.spent, looks.levels))
    print(f"\n{len(table)} claims; looks {looks.sizes}, alpha spent {spent}, levels {levels}")
    for n in documents:
        columns = [f"decided_{n}_{size}" for size in looks.sizes]
        likely = int((table[columns[-1]] >= POWER).sum())
        sums = ", ".join(f"{table[c].sum():.1f}" for c in columns)
        print(f"{n} documents a bench: claims decided by each look, expected {sums}; {likely} "
              f"with a chance of {POWER:.0%} or more by the last")  # fmt: skip


if __name__ == "__main__":
    main()
