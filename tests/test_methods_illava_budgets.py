"""iLLaVA's budgets: both halves meet them together, and what it cannot do is said."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

import methods
from harness.engine import EngineError, encode_images
from harness.families.tiny import any_resolution_inputs as any_resolution
from harness.store.record import IMAGE as IMAGE_KIND
from tests.routing_tools import ROWS
from tests.test_methods_illava import info, record_of
from tests.tiny import IMAGE, batch, tiny_llava, tiny_llava_next
from tests.tower_tools import SIZES, big


@pytest.mark.parametrize("kv", [0.05, 0.1111, 0.2222, 0.3333, 0.6, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("tiles", [False, True])
def test_both_halves_meet_a_budget_together(kv: float, tiles: bool) -> None:
    model = tiny_llava_next(side=6, layers=6) if tiles else tiny_llava(side=6, layers=6)
    sizes = [(24, 48), (48, 48)]  # whole tiles
    inputs = any_resolution_of(model, sizes) if tiles else batch(model, big(ROWS))
    method = methods.parse(f"illava:kv={kv}")
    for record in record_of(model, inputs, method.spec):
        if not record.n_image:
            continue
        kept = record.processed_per_layer(IMAGE_KIND)
        newlines = sum(g["rows"] for g in record.grid if g["newline"])
        least = (newlines + sum(g["crops"] for g in record.grid) + 5) / 6
        wanted = max(kv * record.n_image, least)
        assert abs(kept.mean() - wanted) <= 0.5 * 5 / 6 + 1e-9 or kept[1:].max() == 1
        if kv >= (1 + 0.7 * 5) / 6:  # the language half alone
            assert kept[0] == record.n_image


def any_resolution_of(model: Any, sizes: Any) -> Any:
    """``any_resolution`` for a model whose crops have 24 pixels a side."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn((len(sizes), 5, 3, 24, 24), generator=generator).to(model.dtype)
    with torch.no_grad():
        out = model.model.get_image_features(pixels, torch.tensor(sizes), return_dict=True)
    ids = torch.tensor([[1, 7, *[IMAGE] * sum(len(f) for f in out.pooler_output), 9, 11]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "image_sizes": torch.tensor(sizes),
    }


@pytest.mark.parametrize("tokens", [4, 12, 20, 30, 36])
def test_a_number_of_tokens_is_met_by_images_of_one_crop(tokens: int) -> None:
    model = tiny_llava(side=6, layers=6)
    spec = f"illava:tokens={tokens}"
    for record, (_, images, _) in zip(
        record_of(model, batch(model, big(ROWS)), spec), ROWS, strict=True
    ):
        mean = record.processed_per_layer(IMAGE_KIND).mean()
        assert abs(mean - tokens * len(images)) <= 0.5


# --- what it refuses
def test_it_says_what_it_cannot_do() -> None:
    model = tiny_llava_next()
    inputs = any_resolution(model, SIZES)
    with pytest.raises(methods.MethodError, match=r"^illava: tokens= of images in several crops"):
        record_of(model, inputs, "illava:tokens=9")
    record_of(model, inputs, "illava:tokens=9:vit_remove=0")
    model = tiny_llava()
    with pytest.raises(methods.MethodError, match=r"^illava: tower layer 2 lies behind what the"):
        record_of(model, batch(model, ROWS), "illava:vit_layers=1+2")
    with pytest.raises(methods.MethodError, match=r"^illava: the tower has no layer 3, only 3"):
        record_of(model, batch(model, ROWS), "illava:vit_layers=1+3")
    with pytest.raises(methods.MethodError, match=r"^illava: this model's tower cannot merge"):
        methods.parse("illava").merge_layers(info(4, 0))
    with pytest.raises(methods.MethodError, match=r"^illava: vit_layers must rise"):
        methods.parse("illava:vit_layers=2+2")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        return
    inputs = batch(model, ROWS)
    features = encode_images(model, inputs.pop("pixel_values"))
    with pytest.raises(EngineError, match="the vision tower was run for another method"):
        record_of(model, inputs | {"mm_encoder_outputs": {"image": features}}, "illava")
