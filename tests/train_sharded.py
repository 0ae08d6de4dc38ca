"""Run by two processes: gradients of a routed model with FSDP's shards against plain averaging.

`Trainer` shards only on accelerators, so this applies torch's `fully_shard` by itself, to the parts
that `InstructModel` names and to the whole, with gradient checkpointing.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

import methods
from harness.common.torchvision_ops import declare_missing_ops

declare_missing_ops()

from harness.engine import model_info, routed  # noqa: E402
from harness.fitting.guard import bad_weight  # noqa: E402
from harness.train.model import (  # noqa: E402
    InstructModel,
    choose_trained,
    load_start,
    use_checkpointing,
)
from harness.train.samples import Collator, open_samples  # noqa: E402
from tests import train_tools as tools  # noqa: E402


def gradients(folder: Path, spec: str, shard: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss of this process and the averaged gradients, by parameter."""
    torch.manual_seed(0)
    fields = {"data": str(folder / "data.json"), "images": str(folder / "images")}
    recipe = tools.recipe(**fields, model=str(folder / "model"), fsdp="full_shard")
    llava, processor, _ = load_start(recipe)
    samples, _ = open_samples(recipe, processor, "llava", folder / "cache")
    choose_trained(llava, recipe)
    use_checkpointing(llava)
    method = methods.parse(spec)
    routers = method.build_modules(model_info(llava))
    with routed(llava, method, routers, record=False) as run:
        model: Any = InstructModel(llava, routers, run, whole_state=True).train()
        if shard:
            for part in list(model.modules()):
                if type(part).__name__ in model._no_split_modules:
                    fully_shard(part)
            fully_shard(model)
        first = 2 * dist.get_rank()
        batch = Collator(processor.tokenizer.pad_token_id)([samples[first], samples[first + 1]])
        batch.pop("broken")
        counts = torch.stack([(batch["labels"] != -100).sum(), batch["attention_mask"].sum()])
        dist.all_reduce(counts)
        out = model(**batch, num_items_in_batch=counts[0], step_tokens=counts[1])
        out["loss"].backward()
        assert bad_weight(model) is None
    found = {}
    for name, value in model.named_parameters():
        if value.grad is not None:
            found[name] = value.grad.full_tensor() if shard else value.grad
            if not shard:
                dist.all_reduce(found[name])
                found[name] /= dist.get_world_size()
    return out["loss"].item(), found


def main(folder: Path) -> None:
    dist.init_process_group("gloo")
    for spec in ("pmod", "gamma:layers=all"):
        (loss, plain), (other, sharded) = (gradients(folder, spec, s) for s in (False, True))
        assert loss == other and plain.keys() == sharded.keys() and len(plain) > 40
        for name in plain:
            torch.testing.assert_close(plain[name], sharded[name], rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
