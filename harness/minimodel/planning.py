"""Choose a method's layers from the ARank of the dense model it starts from (γ-MoD's rule)."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.fitting.plan import by_arank
from harness.minimodel.packing import PackedScenes
from methods.base import Method

SAMPLES = 50  # the paper's number


@torch.no_grad()
def plan_by_arank(
    method: Method, llava: LlavaForConditionalGeneration, data: PackedScenes, head: list[int]
) -> tuple[Method, dict[str, Any]]:
    """`method` with `layers` set to all but the four of highest ARank, and what was measured.

    ARank is the released code's (`probs`), over the first question of `SAMPLES` evenly spaced
    scenes of `data` (features cached); the paper's (`logits`) is measured beside it.
    """
    chosen = range(0, len(data), max(len(data) // SAMPLES, 1))[:SAMPLES]
    samples = []
    for i in chosen:
        item: Any = data[i]
        image = llava.model.multi_modal_projector(item["image"]["features"][None])
        ids = torch.tensor([head + item["blocks"][0].ids[: -item["blocks"][0].answer]])
        samples.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "mm_encoder_outputs": {
                    "image": BaseModelOutputWithPooling(pooler_output=list(image))
                },
            }
        )
    facts = by_arank(llava, lambda: samples)
    return dataclasses.replace(method, layers=facts.pop("layers")), facts  # type: ignore[call-arg]
