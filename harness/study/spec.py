"""The `study:` part of a suite file: arms, seeds, the paper's figures and claims. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.typed import make
from harness.common.yamlfile import read_mapping
from harness.statistics.sequential import Looks

REFERENCE = "dense, tuned as long"
KINDS = ("higher", "not lower", "overflow")


@dataclass(frozen=True)
class Arm:
    """One row of the study's table: what is trained, and what runs at inference.

    `paper` is the paper's figure for this row in percent, None where it printed none.
    """

    name: str
    train: str
    test: str = ""  # method spec at inference; empty: as trained
    stages: tuple[str, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)  # keys of the recipe this arm changes
    paper: float | None = None
    note: str = ""

    @property
    def tested(self) -> str:
        return self.test or self.train


@dataclass(frozen=True)
class Claim:
    """What the paper says: `better` beats `worse` (or is not below it), or `arm` overflows."""

    claim: str
    kind: str  # one of KINDS
    better: str
    worse: str = ""
    source: str = ""


@dataclass(frozen=True)
class Study:
    """A whole study; `recipe` is the file every arm trains by, `seeds` those of the training.

    `looks`: at how many seeds the claims are judged. Empty: once, with all seeds. Declared alone,
    the seeds are 1 to the last look.
    """

    name: str
    title: str
    paper: str
    table: str
    recipe: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    paper_metric: str = ""
    paper_dense: float | None = None  # the paper's dense model in the same table, percent
    seeds: tuple[int, ...] = (1, 2, 3)
    looks: tuple[int, ...] = ()
    margin: float = 1.0  # points
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe keys all arms change

    @property
    def everyone(self) -> tuple[Arm, ...]:
        """The arms with the reference in front: dense, tuned for the same steps."""
        return (Arm(REFERENCE, "dense", paper=self.paper_dense), *self.arms)

    @property
    def design(self) -> Looks:
        return Looks(self.looks or (len(self.seeds),))


def load_study(path: Path) -> Study:
    """The `study:` of a suite file. Raises UsageError, one line, for whatever is wrong with it."""
    values = read_mapping(path).get("study")
    if not isinstance(values, dict):
        raise UsageError(f"{path}: study is not a mapping with arms and claims")
    values = dict(values)
    arms = tuple(make(Arm, item, f"{path}: arm") for item in _list(values, "arms", path))
    claims = tuple(make(Claim, item, f"{path}: claim") for item in _list(values, "claims", path))
    values |= {"name": path.stem, "arms": arms, "claims": claims}
    study = make(Study, values, f"{path}: study")
    if study.looks:
        _check_looks(study, path)
        if "seeds" not in values:
            study = replace(study, seeds=tuple(range(1, study.looks[-1] + 1)))
    _check(study, path)
    return study


def _list(values: dict[str, Any], key: str, path: Path) -> list[Any]:
    items = values.get(key) or []
    if not isinstance(items, list) or not items:
        raise UsageError(f"{path}: study has no list of {key}")
    return items


def _check(study: Study, path: Path) -> None:
    names = [arm.name for arm in study.everyone]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{path}: the arm '{name}' stands twice")
    for claim in study.claims:
        if claim.kind not in KINDS:
            raise UsageError(f"{path}: {unknown('kind of claim', claim.kind, KINDS)}")
        needed: Sequence[str] = (claim.better,) if claim.kind == "overflow" else (
            claim.better,
            claim.worse,
        )  # fmt: skip
        for name in needed:
            if name not in names:
                raise UsageError(f"{path}: claim '{claim.claim}': {unknown('arm', name, names)}")
    if not study.seeds or len(set(study.seeds)) != len(study.seeds):
        raise UsageError(f"{path}: seeds must be a list of different whole numbers")
    if study.looks and study.looks[-1] != len(study.seeds):
        raise UsageError(
            f"{path}: the last look is at {study.looks[-1]} seeds and the study has "
            f"{len(study.seeds)}; leave seeds out, or end the looks with {len(study.seeds)}"
        )


def _check_looks(study: Study, path: Path) -> None:
    looks = list(study.looks)
    if looks != sorted(set(looks)) or looks[0] < 2:
        raise UsageError(
            f"{path}: looks: {looks} are no rising numbers of seeds from 2 on, such as [3, 5, 8]"
        )
