"""What a study declares before its first look, and may not change after it. Torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from harness.common.errors import UsageError
from harness.common.roots import DATA
from harness.model.convert.use import as_model
from harness.model.source import ModelSource
from harness.model.weights import weight_hashes
from harness.study.spec import Study
from harness.study.trainings import Training, settings_of

Places = Mapping[tuple[str, int], tuple[Training, str]]  # (arm, seed) -> its job, what it runs as
BESIDE = ("seed", "bf16")  # declared, and refused, in words of their own


def require_start(places: Places, source: ModelSource) -> None:
    """Raise UsageError where an arm starts from other weights than the one it is examined on."""
    for recipe in {job.recipe.start: job.recipe for job, _ in places.values()}.values():
        found = [f for f in (Path(recipe.start), DATA / recipe.start) if f.exists()]
        starts = weight_hashes(as_model(found[0])) if found else {}
        if recipe.modules or starts != source.weight_hashes:
            raise UsageError(
                f"--model: the study's arms start from {recipe.modules or recipe.start}, and would "
                f"be examined on '{source.model_id}': expected the model that they start from"
            )


def declared(study: Study, places: Places) -> str:
    """16 hex digits over what each arm trains and runs as, and the claims."""
    arms = {}
    for (name, _), (job, test) in places.items():
        settings = settings_of(job.recipe)
        arms[name] = [{k: v for k, v in settings.items() if k not in BESIDE}, test]
    claims = [(c.claim, c.kind, c.better, c.worse) for c in study.claims]
    about = json.dumps([arms, claims], sort_keys=True)
    return hashlib.sha256(about.encode()).hexdigest()[:16]
