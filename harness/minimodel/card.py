"""The model card of a trained mini model: what it is, how it was made, what it reaches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.common.jsonfile import read_json
from harness.common.roots import DATA
from harness.minimodel.folders import HISTORY
from harness.minimodel.parts import Parts
from harness.minimodel.recipe import Recipe

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [{kind}, mini, token-sparsity]
---
# {title}

A **mini** model for testing token-sparsity methods without a network. Its numbers say nothing about
7B models.

{what}

- **Data**: {data}: emoji, coloured plates, signs, charts and receipts; {held_out} scenes
  held out{measured}. Sources and licences: `NOTICE`. {origin}
- **Command**: `make checkpoints`. Its last step for these weights is `python -m harness.train
  --recipe recipes/{folder}/{name}.yaml`, {done} on {device}.{before}
- **Settings**: {settings}
- **Loss** of that training (up to a step, mean since the one before): {losses}{curve}

Share of held-out questions whose every answer token is the arg max (teacher-forced; the benchmark
accuracies, generated and scored by lmms-eval, stand in the project's docs/results.md):

| kind of question | accuracy |
|---|---|
{rows}

**Limits**: train and test share the kinds of object, words, fonts and backgrounds; only the
compositions are new. The model knows no other pictures, answers in a word or two and has read
nothing but children's stories and these questions.
"""
METHOD = """Low-rank updates (rank {rank}) of the decoder's matrices{routers} for `{method}` on
`assets/{model}`; load with `--checkpoint` or leave it to the default. The dense model it is
compared with had {same} extra steps (`assets/{model}-dense`)."""
REFERENCE = """Low-rank updates (rank {rank}) of the decoder's matrices of `assets/{model}`: the
dense model tuned on for {own:,} steps. `dense` and every training-free method run on it."""


def chain(work: Path, name: str) -> list[dict[str, Any]]:
    """`training.json` of the recipes that one's modules come from, itself first."""
    steps: list[dict[str, Any]] = []
    while name and (work / name / "training.json").exists():
        steps.append({"name": name, **read_json(work / name / "training.json")})
        name = steps[-1]["recipe"].get("modules", "")
    return steps


def history(work: Path, start: str) -> list[dict[str, Any]]:
    """`training.json` of the steps that led to the model `start` in `work`, newest first, each with
    its `name`; what one keeps in `HISTORY` is believed of those before it."""
    steps: list[dict[str, Any]] = []
    while start and (work / start / "training.json").exists():
        facts = read_json(work / start / "training.json")
        steps.append({"name": start, **facts})
        if other := facts["recipe"].get("tower", ""):
            steps += history(work, other)[:1]
        if (noted := work / start / HISTORY).is_file():
            lines = noted.read_text(encoding="utf-8").splitlines()
            return steps + [json.loads(line) for line in lines]
        # A model assembled anew comes from the tower.
        start = facts["recipe"]["start"] or ("tower" if start != "tower" else "")
    return steps


def write_history(out: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Keep beside a whole model, a line each, what cards say of the steps that led to it, so that
    it needs no folder of an earlier one. (Hashes of a model's settings take in every `.json`.)"""
    recipe = ("seed", "start", "modules", "tower", "stage", "max_steps", "until")
    lines = ""
    for step in steps:
        kept = {key: step[key] for key in ("name", "steps", "seconds") if key in step}
        if losses := step.get("losses"):
            kept["losses"] = [losses[0], losses[-1]]
        kept["recipe"] = {key: step["recipe"][key] for key in recipe if key in step["recipe"]}
        lines += json.dumps(kept) + "\n"
    (out / HISTORY).write_text(lines, encoding="utf-8")


def _before(steps: Sequence[Mapping[str, Any]], last: float) -> str:
    """One sentence on the steps before and the hours of all."""
    if not steps:
        return ""
    shown = ", ".join(f"{step['name']} ({_done(step)}{_loss(step)})" for step in steps)
    hours = (last + sum(step["seconds"] for step in steps)) / 3600
    return f" Before it, newest first: {shown}. In all {hours:.1f} hours."


def _done(facts: Mapping[str, Any]) -> str:
    """Steps (where they were noted), seed and time of one training."""
    steps = f"{facts['steps']:,} steps, " if "steps" in facts else ""
    return f"{steps}seed {facts['recipe']['seed']}, {facts['seconds'] / 60:.0f} minutes"


def _loss(facts: Mapping[str, Any]) -> str:
    """Its mean over the first and the last part of a training, where it was noted."""
    losses = facts.get("losses")
    return f", loss {losses[0][1]:.2f} to {losses[-1][1]:.2f}" if losses else ""


def _curve(curve: Sequence[tuple[int, Mapping[str, float]]]) -> str:
    """One line: the mean over the kinds of question at every checkpoint that was measured, without
    those of large pages, which a handful of scenes ask."""
    kinds = [(step, [v for name, v in of.items() if " " not in name]) for step, of in curve]
    means = (f"{step}: {100 * sum(of) / len(of):.1f}" for step, of in kinds)
    words = "\n- **Held-out accuracy on the way** (first held-out scenes, mean of the kinds, %): "
    return words + ", ".join(means) if curve else ""


def _data(data: Mapping[str, Any]) -> str:
    """How many scenes of which sizes, and how they were drawn."""
    sizes = ", ".join(f"{n:,} of {size} px" for size, n in data["scenes"].items())
    words = "".join(f" --{key} {value}" for key, value in data["drawn"].items())
    command = f"`python -m minidata train --out FOLDER{words}`"
    how = command if words else "how they were drawn was not noted"
    return f"rendered scenes, {sizes} ({how}), about {data['questions']:.0f} questions each"


def _measured(data: Mapping[str, Any], held_out: int) -> str:
    """How many held-out scenes are measured: those whose composition no training scene has."""
    count = data.get("measured", held_out)
    return "" if count >= held_out else f", {count} of them in compositions of their own: measured"


def _steps(parts: Parts, name: str) -> int:
    """Of a recipe of tuning and of those that its modules come from."""
    recipe = Recipe.load(DATA / "recipes" / parts.folder / f"{name}.yaml")
    own = recipe.until or recipe.max_steps
    return own + (_steps(parts, recipe.modules) if recipe.modules else 0)


def _dense_steps(parts: Parts) -> int:
    """Of the dense reference."""
    return _steps(parts, next(name for name, suffix in parts.ships.items() if suffix == "-dense"))


def _whole(recipe: Mapping[str, Any]) -> bool:
    """Whether a model comes of it, rather than updates of one."""
    return not recipe["rank"] or recipe["train_tower"]


def _tuned(recipe: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> int:
    """Steps of tuning under the method: a recipe's and those of the ones it goes on from."""
    steps, wanted = _went(recipe), recipe["modules"]
    for step in before:
        if step["name"] == wanted:
            wanted = step["recipe"].get("modules", "")
            steps += _went(step["recipe"]) * (step["recipe"]["stage"] == "tune")
    return steps


def _went(recipe: Mapping[str, Any]) -> int:
    """The steps of a recipe, which may stop on the way."""
    return int(recipe.get("until") or recipe["max_steps"])


def _what(
    recipe: dict[str, Any],
    name: str,
    parts: Parts,
    model: str,
    before: Sequence[Mapping[str, Any]],
) -> str:
    if _whole(recipe):
        return parts.what
    recipe = {**recipe, "model": model}
    if name == "dense":
        return REFERENCE.format(**recipe, own=_tuned(recipe, before))
    stages, dense = recipe.get("stages"), _dense_steps(parts)
    extra = {"llavolta": "", "mqt": " and its resampler"}.get(name, " and its routers")
    rank = recipe.get("stored_rank") or recipe["rank"]
    own = _tuned(recipe, before)
    same = f"the same {own:,}" if own == dense else f"{dense:,} (this one {own:,})"
    text = METHOD.format(**{**recipe, "rank": rank}, routers=extra, same=same)
    if rank != recipe["rank"]:
        text += f" Trained at rank {recipe['rank']}, cut to {rank} before measuring."
    return text + f" Trained in equal stages: `{'`, `'.join(stages)}`." if stages else text


def _plain(value: Any) -> str:
    """A recipe's value without quotes and brackets."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}: {share}" for key, share in value.items())
    return " ".join(dict.fromkeys(value)) if isinstance(value, list | tuple) else str(value)


def write_card(
    out: Path,
    name: str,
    facts: dict[str, Any],
    device: str,
    before: Sequence[Mapping[str, Any]],
    parts: Parts,
    model: str,
) -> None:
    """`out/README.md` from the facts of `training.json`; `device` as the machine names it.

    `name` is the method's, `model` the mini model's; the recipe is the one the folder is named
    after; `before` is its `history`.
    """
    recipe = facts["recipe"]
    shown = ["max_steps", "batch", "learning_rate", "module_learning_rate", "max_text", "rank"]
    shown += ["bf16"]
    shown += [key for key in ("muon", "short", "sizes", "pages") if recipe[key]]
    text = CARD.format(
        title=model if _whole(recipe) else f"{model}-{name}",
        kind=model.removeprefix("tiny-"),
        folder=parts.folder,
        what="\n\n".join(filter(None, (_what(recipe, name, parts, model, before), recipe["note"]))),
        origin=parts.origin,
        data=_data(facts["data"]),
        held_out=recipe["held_out"],
        measured=_measured(facts["data"], recipe["held_out"]),
        name=out.name,
        done=_done(facts),
        before=_before(before, facts["seconds"]),
        device=device,
        settings=", ".join(f"{key} {_plain(recipe[key])}" for key in shown),
        losses=", ".join(f"{step}: {loss:.2f}" for step, loss in facts["losses"]) or "not noted",
        curve=_curve(facts.get("curve", [])),
        rows="\n".join(f"| {k} | {100 * v:.1f} % |" for k, v in facts["held_out"].items()),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
