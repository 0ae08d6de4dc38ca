"""What a finished run leaves: a folder for `--checkpoint` or `--model`, and its model card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.engine import model_info
from harness.fitting.guard import last_complete
from harness.model.checkpoints import save_checkpoint
from harness.model.tensorfiles import SHARD
from harness.train.card import write_card
from harness.train.model import InstructModel, trained_state
from harness.train.planning import PLAN
from harness.train.recipe import InstructRecipe
from methods.base import Method

FREE = ("save_steps", "keep", "logging_steps", "workers")  # may change when a run goes on
START = "start_files"


def write_folder(
    out: Path,
    recipe: InstructRecipe,
    method: Method,
    model: InstructModel,
    processor: Any,
    state: dict[str, Tensor],
    base: str | None,
    facts: dict[str, Any],
) -> None:
    """Weights, `training.json` and `README.md`.

    A method with routers leaves `method.json` with routers and learnt tensors (`--checkpoint
    NAME=FOLDER`); one without, such as dense or LLaVolta, a full model folder (`--model FOLDER`).
    `state` is the gathered state dict; learnt tensors are stored in bfloat16 where the run used it.
    """
    dtype = torch.bfloat16 if recipe.bf16 else torch.float32
    out.mkdir(parents=True, exist_ok=True)
    if model.routers is not None:
        full = {k: v.to("cpu", dtype) for k, v in trained_state(model, state).items()}
        info = model_info(model.llava)
        routers = method.build_modules(info)
        assert routers is not None
        routers.load_state_dict({k[8:]: v for k, v in state.items() if k.startswith("routers.")})
        brief = {key: facts[key] for key in ("start", "steps", "processes", "recipe")}
        save_checkpoint(out, method, routers, info, full=full, base=base, training=brief)
    else:
        model.llava.config.use_cache = True
        names = model.llava.state_dict().keys()
        whole = {**model.llava.state_dict(), **_bare(state)}
        weights = {k: whole[k].to("cpu", dtype).contiguous() for k in names}
        model.llava.config.dtype = dtype
        model.llava.save_pretrained(out, state_dict=weights, max_shard_size=SHARD)
        processor.save_pretrained(out)
    text = json.dumps(facts, indent=1, sort_keys=True)
    (out / "training.json").write_text(text + "\n", encoding="utf-8")
    write_card(out, recipe, method, facts, routed=model.routers is not None)


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix("llava."): v for k, v in state.items() if k.startswith("llava.")}


def same_run(
    folder: Path, recipe: InstructRecipe, processes: int, rows: int, start: Mapping[str, str]
) -> str | None:
    """What differs from the run that `folder` holds already, or None; a new run is noted there.

    `start`: hashes of the files that training starts from, by path.
    """
    facts = {**dataclasses.asdict(recipe), "processes": processes, "rows": rows}
    facts |= {START: dict(start)}
    facts = json.loads(json.dumps({k: v for k, v in facts.items() if k not in FREE}))
    path = folder / "recipe.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        return None
    before = json.loads(path.read_text(encoding="utf-8"))
    came = before.get("rows") != rows and last_complete(folder) is None
    if came:  # images, and nothing was trained without them
        before["rows"] = rows
    old = before.get(START, facts.pop(START))  # an older run's note does not have it
    for file in [*old, *start]:
        if old.get(file) != start.get(file):
            return f"{file} of the start model is another file now"
    for key, value in facts.items():
        if before.get(key) != value:
            return f"{key} was {before.get(key)!r}, now {value!r}"
    if came:
        (folder / PLAN).unlink(missing_ok=True)  # measured on the rows of before
        path.write_text(json.dumps(before, indent=1) + "\n", encoding="utf-8")
    return None
