"""LLaVA-HR's vision path equals a naive re-statement of the published one, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.families.llava_hr import LlavaHr
from tests import naive_towers
from tests.two_towers_tools import build, pixels

TALL = {**LlavaHr().tiny()["vision_config"], "num_hidden_layers": 8}
SMALL = {"image_size": 64, "position_size": 16}  # 2 x 2 slow positions, 4 x 4 CLIP tokens


@pytest.mark.parametrize(
    "changes",
    [
        {},  # positions resized from 3 x 3 to 4 x 4
        {"vision_config": TALL},  # adapters two layers apart
        {"adapters": False},  # towers that training left alone
        SMALL,  # the slow map interpolated up, positions as they are
        {**SMALL, "adapters": False},
    ],
    ids=["usual", "tall", "frozen", "upsampled", "stage-1"],
)
def test_features_are_the_published_ones(changes: dict[str, Any]) -> None:
    model = build("llava_hr", **changes)
    images = pixels(model, 3)
    with torch.no_grad():
        found = model.model.get_image_features(pixel_values=images, return_dict=True)
        expected = naive_towers.llava_hr(model, images)
    assert [tuple(one.shape) for one in found.pooler_output] == [(16, 16)] * 3
    torch.testing.assert_close(torch.stack(found.pooler_output), expected, rtol=0, atol=1e-9)


def test_images_of_a_batch_do_not_meet() -> None:
    model = build("llava_hr")
    images = pixels(model, 2)
    with torch.no_grad():
        both = model.model.get_image_features(images).pooler_output
        alone = model.model.get_image_features(images[1:]).pooler_output[0]
    torch.testing.assert_close(both[1], alone, rtol=0, atol=1e-12)


def test_new_adapters_add_nothing() -> None:
    """Both last convolutions start at zero, so the towers are joined by the fusion alone."""
    import transformers

    family = LlavaHr()
    said = {k: v for k, v in family.tiny().items() if k != "model_type"}
    model = family.model_class()(family.config_class()(**said)).double().eval()
    tower, images = model.model.vision_tower, pixels(model.double(), 1)
    with torch.no_grad():
        usual = tower(images)
        tower.adapters = torch.nn.ModuleList()
        torch.testing.assert_close(tower(images), usual, rtol=0, atol=0)
    assert isinstance(tower.fast, transformers.CLIPVisionModel)


def test_xxl_norms_have_their_own_epsilon() -> None:
    """timm's large ConvNeXt has 1e-6, its xxlarge 1e-5."""
    family = LlavaHr()
    for name, epsilon in (("llava-hr-7b", 1e-6), ("llava-hr-x-13b", 1e-5)):
        said = {k: v for k, v in family.published[name].items() if k != "model_type"}
        said["text_config"] = family.tiny()["text_config"]
        with torch.device("meta"):
            model = family.model_class()._from_config(family.config_class()(**said))
        norms = [m for n, m in model.model.vision_tower.slow.named_modules() if "norm" in n]
        found = {m.eps for m in norms if isinstance(m, torch.nn.LayerNorm)}
        assert found == {epsilon}
