"""The model card of an instruction-tuned model, ready for the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from harness.train.recipe import InstructRecipe
from methods.base import Method

CARD = """---
{front}---
# {title}

{what}

- **Start**: {start}
- **Data**: `{data}`, {kept:,} rows ({with_image:,} with an image), {left_out:,} left out
- **Training**: {steps:,} steps of {global_batch} rows ({processes} processes x {batch} x
  {accumulation}), template `{template}`, images `{image_aspect}`, learnt: {learnt}; last logged
  loss {loss}
- **Settings**: {settings}
- **Software**: {software}

The full recipe, the layer plan and every logged loss stand in `training.json`.

## Load

{load}
"""
ROUTED = "Routers and learnt weights of `{spec}` for a LLaVA-family model."
PLAIN = "A LLaVA-family model, trained with `{spec}`."
WITH_CHECKPOINT = """```
python run_suite.py --model {start} --methods {spec} --checkpoint {name}=THIS_FOLDER
```"""
WITH_MODEL = """```
python run_suite.py --model THIS_FOLDER --methods {spec}
```"""
SHOWN = (
    *("learning_rate", "module_learning_rate", "warmup", "weight_decay", "clip", "epochs"),
    *("max_length", "bf16", "checkpointing", "seed"),
)


def write_card(
    out: Path, recipe: InstructRecipe, method: Method, facts: dict[str, Any], routed: bool
) -> None:
    """`out/README.md`: YAML front matter, then how the weights came about and how to load them."""
    start = facts["start"]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["llava", "token-sparsity", method.name],
    }
    if facts["hub_model"]:
        front["base_model"] = facts["hub_model"]
    losses = [entry["loss"] for entry in facts["log"] if "loss" in entry]
    data = facts["data"]
    text = CARD.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=out.name,
        what=(ROUTED if routed else PLAIN).format(spec=method.spec),
        start=start,
        data=Path(recipe.data).name,
        kept=data["kept"],
        with_image=data["with_image"],
        left_out=data["rows"] - data["kept"],
        steps=facts["steps"],
        global_batch=facts["processes"] * recipe.batch * recipe.accumulation,
        processes=facts["processes"],
        batch=recipe.batch,
        accumulation=recipe.accumulation,
        template=recipe.template,
        image_aspect=recipe.image_aspect,
        learnt=", ".join([*recipe.train, *(["routers"] if routed else [])]),
        loss=f"{losses[-1]:.4f}" if losses else "none",
        settings=", ".join(f"{key} {getattr(recipe, key)}" for key in SHOWN),
        software=", ".join(f"{k} {v}" for k, v in facts["versions"].items()),
        load=(WITH_CHECKPOINT if routed else WITH_MODEL).format(
            start=start if " + " not in start else "WHOLE_MODEL_OF_THESE_PARTS",
            spec=method.spec,
            name=method.name,
        ),
    )
    (out / "README.md").write_text(text, encoding="utf-8")
