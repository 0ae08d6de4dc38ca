"""A training recipe: one YAML file, one frozen dataclass, unknown keys are errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import unknown
from harness.common.typed import make
from harness.common.yamlfile import read_mapping
from harness.minimodel.parts import REGISTRY
from minidata import FAMILIES

STAGES = ("tower", "align", "resample", "tune")
MIX = ("families", "forms", "short")
"""What `mix` takes from another recipe."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one training run.

    `stage` is `tower` (dense pretraining of the vision tower), `align` (the projector learns the
    decoder's words for the patches), `resample` (a resampler learns from the projector) or `tune`
    (instruction tuning).
    `start` names the folder of the model that tuning starts from (empty: assemble a new one from
    the tower and the pretrained decoder); a tower recipe starts from an earlier tower. An align
    recipe with a start puts `tower` into that model and fits its projector to it. A resample recipe
    fits a resampler (`mqt`) to the start model's projector.
    `modules` names an earlier recipe whose result the method's modules start from, and its low-rank
    updates of the decoder, where it has some. `sharpen` multiplies the linear routers, new or not:
    the order of tokens stays, and a threshold on their probabilities cuts closer to a logit of 0.
    `method` is what is saved, and what is trained where there are no `stages`.
    `rank` 0 trains every weight of decoder and projector; a positive rank trains low-rank updates
    of the decoder's matrices plus the method's modules; with `train_tower` the tower too, and a
    whole model comes of it (the updates that its start model keeps are gone on with).
    """

    stage: str
    method: str = "dense"
    stages: tuple[str, ...] = ()  # method specs, one an equal part of the schedule (LLaVolta)
    start: str = ""
    modules: str = ""
    sharpen: float = 1.0
    tower: str = ""
    plan: str = ""  # "arank": all layers but the four of highest ARank route
    epochs: float = 1.0
    max_steps: int = -1
    until: int = 0  # stop after this step of the schedule; a later recipe goes on from there
    batch: int = 16
    learning_rate: float = 1e-3
    module_learning_rate: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float = 1.0
    muon: float = 0.0  # learning rate of the layers' matrices, a tower's too; 0: AdamW for all
    bf16: bool = True  # taken back where a processor has none (`precision`)
    seed: int = 0
    save_steps: int = 200
    held_out: int = 400
    scenes: int = 6000  # of these the projector is aligned on
    # tower and tuning
    first: int = 0  # tuning sees only the first so many scenes and the held-out ones (0: all)
    families: dict[str, float] = field(default_factory=dict)  # times a scene is shown an epoch
    shift: int = 0  # pixels each image is moved by at random
    width: int = 192
    layers: int = 6
    heads: int = 3
    patch: int = 16
    architecture: str = next(iter(REGISTRY))  # of a tower recipe; tuning goes by its start model
    # mini Qwen2.5-VL
    window: int = 64  # pixels, of the tower's attention
    full: tuple[int, ...] = ()  # tower layers that attend to the whole image; every third
    # "HEIGHTxWIDTH" in pixels that scenes are scaled to, one drawn a batch (none: their own)
    sizes: tuple[str, ...] = ()
    # "HEIGHTxWIDTH" of large pages, where the data have them -> share of the batches
    pages: dict[str, float] = field(default_factory=dict)
    # mini LLaVA whose projected patches the merged tokens are regressed on (none: the start model,
    # if it is one)
    teacher: str = ""
    teacher_weight: float = 1.0  # 0: no teacher
    # decoder
    depth: int = 12
    vocabulary: int = 2048
    max_text: int = 160
    captions: bool = False  # add a description of the scene to its questions
    short: float = 0.0  # share of questions asked without the line that says how to answer
    forms: dict[str, float] = field(default_factory=dict)  # bench/template drawn so much sooner
    mix: str = ""  # recipe, seen from this one's folder, whose `MIX` holds where this says nothing
    drills: bool = False  # ask one multiple-choice question of each scene by the option's words
    train_tower: bool = False  # tune the tower too, on the answers and its dense labels
    tower_learning_rate: float = 3e-4
    dense_weight: float = 0.5
    rank: int = 0
    stored_rank: int = 0  # updates are cut to this rank before they are measured and saved
    note: str = ""  # what the model's card adds about it
    # compile the decoder (where it is `packed`, whole and of fixed shapes) and a Qwen2.5-VL tower
    compile: bool = False

    @property
    def packed(self) -> bool:
        """Whether the decoder is compiled whole, on batches of one length and the attention of
        `harness.minimodel.attention`; a method that routes changes lengths from layer to layer."""
        return self.compile and self.method == "dense" and not self.stages

    @property
    def builds_on(self) -> dict[str, str]:
        """Field -> the earlier result that it names, where it names one."""
        fields = ("start", "modules", "tower", "teacher")
        found = {key: name for key in fields if (name := getattr(self, key))}
        if self.is_new:
            found["tower"] = self.tower or "tower"  # `folders.assemble` builds around that one
        return found

    @property
    def is_new(self) -> bool:
        """Whether it puts a new model together, around a decoder."""
        return not self.start and self.stage != "tower"

    @classmethod
    def load(cls, path: Path, **changes: object) -> Recipe:
        """Read `path`; `changes` override it. Raises UsageError, one line."""
        shown = f"recipe {path}"
        given = {k: v for k, v in changes.items() if v is not None}
        settings = {**read_mapping(path, shown), **given}
        recipe = make(cls, {**_mix(path, settings), **settings}, shown)
        if recipe.stage not in STAGES:
            raise UsageError(
                f"{shown}: stage {recipe.stage!r}, expected {', '.join(STAGES[:-1])} or tune"
            )
        if recipe.architecture not in REGISTRY:
            raise UsageError(f"{shown}: {unknown('architecture', recipe.architecture, REGISTRY)}")
        if recipe.pages and recipe.stage != "tune":
            raise UsageError(f"{shown}: pages in stage {recipe.stage}: expected stage: tune")
        recipe._check(shown)
        if recipe.sharpen <= 0:
            raise UsageError(f"{shown}: sharpen {recipe.sharpen}: expected a positive number")
        if recipe.plan not in ("", "arank"):
            raise UsageError(f"{shown}: plan {recipe.plan!r}, expected arank or nothing")
        return recipe

    def _check(self, shown: str) -> None:
        """Raises UsageError for numbers that no training has, and what its stage would not read."""
        least = {"batch": 1, "held_out": 1, "rank": 0, "stored_rank": 0, "first": 0, "until": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(
                    f"{shown}: {name} {getattr(self, name)}: expected at least {bound}"
                )
        if self.until and self.stage not in ("tower", "tune"):
            raise UsageError(f"{shown}: until in stage {self.stage}: expected stage tower or tune")
        if self.stage == "align" and bool(self.start) != bool(self.tower):
            raise UsageError(f"{shown}: start and tower go together in stage align: one is missing")
        for name in self.families:
            if name not in FAMILIES:
                raise UsageError(f"{shown}: families: {unknown('family', name, FAMILIES)}")

    def check_amounts(self, scenes: int) -> None:
        """Raises UsageError where held-out ones of so many scenes would be trained on."""
        if self.first + self.held_out > scenes:
            asked = f"first {self.first} and held_out {self.held_out}"
            raise UsageError(f"recipe: {asked}: there are {scenes:,} scenes")


def _mix(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Families, forms and share of short questions of the recipe that `settings` name by `mix`."""
    if not (name := settings.get("mix")):
        return {}
    beside = path.parent / f"{name}.yaml"
    if not beside.is_file():
        raise UsageError(f"recipe {path}: mix {name!r}: no recipe {beside}")
    other = read_mapping(beside, f"recipe {beside}")
    return {key: other[key] for key in MIX if key in other}
