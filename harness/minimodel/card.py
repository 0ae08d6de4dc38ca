"""The model card of a trained mini model: what it is, how it was made, what it reaches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.minimodel.parts import Parts

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

- **Data**: {scenes:,} rendered scenes (`python -m minidata train --n {scenes} --seed 1`): emoji,
  coloured plates, signs, charts and receipts at 192 px, with about ten questions each; {held_out}
  scenes held out. Sources and licences: `NOTICE`. The decoder starts from stories15M (MIT, via
  llama2.c).
- **Command**: `make checkpoints`. Its last step for these weights is `python -m harness.train
  --recipe recipes/{folder}/{name}.yaml`, seed {seed}, {minutes:.0f} minutes on {device}.{before}
- **Settings**: {settings}

Share of held-out questions whose every answer token is the arg max (teacher-forced; the benchmark
accuracies, generated and scored by lmms-eval, stand in the project's README):

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
dense model tuned for as many extra steps as the trained methods. `dense` and every training-free
method run on it."""

DENSE_STEPS = 1000  # of the dense reference


def history(work: Path, start: str) -> list[str]:
    """The steps that led to the model `start` in `work`, newest first: "align (1 minutes)"."""
    steps: list[str] = []
    while start and (work / start / "training.json").exists():
        facts = json.loads((work / start / "training.json").read_text(encoding="utf-8"))
        steps.append(f"{start} ({facts['seconds'] / 60:.0f} minutes)")
        if other := facts["recipe"].get("tower", ""):
            steps += history(work, other)[:1]
        # A model assembled anew comes from the tower.
        start = facts["recipe"]["start"] or ("tower" if start != "tower" else "")
    return steps


def _what(recipe: dict[str, Any], name: str, parts: Parts) -> str:
    if not recipe["rank"]:
        return parts.what
    recipe = {**recipe, "model": parts.name}
    if name == "dense":
        return REFERENCE.format(**recipe)
    stages = recipe.get("stages")
    extra = {"llavolta": "", "mqt": " and its resampler"}.get(name, " and its routers")
    rank = recipe.get("stored_rank") or recipe["rank"]
    same = "the same" if recipe["max_steps"] == DENSE_STEPS else f"{DENSE_STEPS:,}"
    text = METHOD.format(**{**recipe, "rank": rank}, routers=extra, same=same)
    if rank != recipe["rank"]:
        text += f" Trained at rank {recipe['rank']}, cut to {rank} before measuring."
    return text + f" Trained in equal stages: `{'`, `'.join(stages)}`." if stages else text


def write_card(
    out: Path,
    name: str,
    facts: dict[str, Any],
    scenes: int,
    device: str,
    before: list[str],
    parts: Parts,
) -> None:
    """`out/README.md` from the facts of `training.json`; `device` as the machine names it.

    `name` is the method's; the recipe is the one the folder is named after.
    """
    recipe = facts["recipe"]
    shown = ("max_steps", "batch", "learning_rate", "module_learning_rate", "max_text", "rank")
    text = CARD.format(
        title=parts.name if not recipe["rank"] else f"{parts.name}-{name}",
        kind=parts.name.removeprefix("tiny-"),
        folder=parts.name.replace("-llava", ""),
        what=_what(recipe, name, parts),
        scenes=scenes,
        held_out=recipe["held_out"],
        name=out.name,
        seed=recipe["seed"],
        minutes=facts["seconds"] / 60,
        before=" Before it, newest first: " + ", ".join(before) + "." if before else "",
        device=device,
        settings=", ".join(f"{key} {recipe[key]}" for key in shown),
        rows="\n".join(f"| {k} | {100 * v:.1f} % |" for k, v in facts["held_out"].items()),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
