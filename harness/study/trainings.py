"""What a study has to compute, named by content, and where the results are kept. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from harness.common.roots import BUILD, DATA
from harness.minimodel.precision import in_format_of_here
from harness.minimodel.recipe import Recipe
from harness.store.csvfile import write_json
from harness.study.spec import Arm, Study

CACHE = BUILD / "study"
# Results are kept by recipe, weights, data and the method's own source. Raise this number when a
# change of the training code or the engine changes what a run computes.
CODE = 2


@dataclass(frozen=True)
class Exam:
    """What is asked of a trained model: the first `limit` documents of each bench."""

    benches: tuple[str, ...]
    limit: int | None
    batch_size: int
    fingerprints: tuple[str, ...]  # one a bench: its data and task version


@dataclass(frozen=True, eq=False)
class Training:
    """One training with one seed, and the methods its weights are examined with.

    Jobs are compared by identity: `gather` makes one a training.
    """

    recipe: Recipe
    tests: tuple[str, ...]
    exam: Exam
    data: str  # folder of the training scenes
    scenes: str  # fingerprint of them
    start: str  # sha256 of the weights training starts from
    files: Mapping[str, str]  # and of every other file of that model, by path
    model: str  # the model the weights belong to, by name
    device: str = "cpu"  # the kind that trains and examines

    @property
    def name(self) -> str:
        staged = " in stages" if self.recipe.stages else ""
        return f"{self.recipe.method}{staged}, seed {self.recipe.seed}"

    @property
    def folder(self) -> Path:
        """Where the weights and the results of this training are."""
        sources = {spec: source_of(spec) for spec in (self.recipe.method, *self.recipe.stages)}
        about = [CODE, settings_of(self.recipe), sources, self.scenes, self.start]
        about += [dict(self.files)]
        about += [self.device] if self.device != "cpu" else []
        return CACHE / _digest(about)

    def exam_file(self, test: str) -> Path:
        """The answers of this training under the method `test`."""
        about = [CODE, test, source_of(test), asdict(self.exam)]
        return self.folder / f"exam-{_digest(about)}.json"

    def missing(self) -> list[str]:
        """The methods whose answers are not there yet."""
        return [test for test in self.tests if read(self.exam_file(test)) is None]

    @property
    def outcome(self) -> Path:
        """`training.json`: seconds, losses, or what stopped the training."""
        return self.folder / "training.json"

    @property
    def done(self) -> bool:
        trained = read(self.outcome)
        return trained is not None and (bool(trained.get("overflow")) or not self.missing())


def read(path: Path) -> dict[str, Any] | None:
    """A JSON object, None where there is none or only half of one."""
    try:
        value = read_json(path)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON object, whole or not at all."""
    write_json(path, dict(value))


def source_of(spec: str) -> str:
    """Hash of the files that define a method. Raises UsageError for a bad spec."""
    return parse(spec).source_hash()


def parse(spec: str) -> Any:
    """A method. Raises UsageError, one line."""
    import methods
    from methods.base import MethodError

    try:
        return methods.parse(spec)
    except MethodError as error:
        raise UsageError(f"study: {one_line(error)}") from None


def recipe_of(study: Study, arm: Arm, seed: int) -> Recipe:
    """What trains `arm` with `seed`, as this machine carries it out. Raises UsageError."""
    path = DATA / study.recipe
    changes = {**study.settings, **arm.recipe, "stages": arm.stages or None}
    return in_format_of_here(Recipe.load(path, **changes, method=arm.train, seed=seed))


def gather(
    study: Study,
    seeds: Sequence[int] | None = None,
    arms: Collection[str] | None = None,
    **how: Any,
) -> dict[tuple[str, int], tuple[Training, str]]:
    """(arm, seed) -> its job and the method it is examined with; equal trainings are one job.

    `seeds`, `arms`: these only, None for all.
    """
    recipes: dict[str, Recipe] = {}
    tests: dict[str, list[str]] = {}
    places = []
    chosen = [arm for arm in study.everyone if arms is None or arm.name in arms]
    for seed in study.seeds if seeds is None else seeds:
        for arm in chosen:
            for spec in (arm.train, *arm.stages, arm.tested):
                parse(spec)  # before anything is written
            recipe = recipe_of(study, arm, seed)
            key = _digest(settings_of(recipe))
            recipes[key] = recipe
            wanted = tests.setdefault(key, [])
            if arm.tested not in wanted:
                wanted.append(arm.tested)
            places.append((arm, seed, key))
    jobs = {key: Training(recipe, tuple(tests[key]), **how) for key, recipe in recipes.items()}
    return {(arm.name, seed): (jobs[key], arm.tested) for arm, seed, key in places}


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """What a recipe says; a key that recipes get later leaves the names of older results alone."""
    return {
        f.name: getattr(recipe, f.name)
        for f in fields(recipe)
        if f.name != "note" and (f.default is MISSING or getattr(recipe, f.name) != f.default)
    }


def unique(jobs: Iterable[tuple[Training, str]]) -> list[Training]:
    """Each job once, in order."""
    return list(dict.fromkeys(job for job, _ in jobs))


def _digest(about: Any) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
