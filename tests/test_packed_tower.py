"""The towers of Qwen2-VL, Qwen2.5-VL and Qwen3-VL, read by methods: against plain loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

import methods
from harness.check import running
from harness.check.case import Case
from harness.engine import encode_images, routed
from methods.base import Method, MethodError, ModelInfo
from tests import test_qwen
from tests.naive_qwen import NaiveQwen
from tests.packed_tools import seen, visionzip, vscan
from tests.qwen_tools import FAMILIES, ROWS, batched, forced, rows_of, sample_of, tiny_qwen
from tests.tiers import some

STEPS = 3
REFERENCES = {"vscan": vscan, "visionzip": visionzip}
exact_softmax = test_qwen.exact_softmax  # a fixture for every test
ALL = [*ROWS, (1, [(4, 4), (1, 1)], 3)]  # an image of one window, one of a single token


@dataclass(frozen=True)
class Reader(Method):
    """Reads every layer of the tower and does nothing."""

    name: ClassVar[str] = "reader"

    @property
    def reads_tower(self) -> bool:
        return True

    @property
    def reads_joined(self) -> bool:
        return True

    def taps(self, info: ModelInfo) -> tuple[int, ...]:
        return tuple(range(info.tower_layers))


def images_of(rows: list[dict[str, Any]]) -> list[tuple[torch.Tensor, int, int]]:
    """(pixels, rows and columns of tokens) of every image, in the order of the prompts."""
    found = []
    for one in rows:
        if "pixel_values" not in one:
            continue
        grids = one["image_grid_thw"]
        parts = one["pixel_values"].split(grids.prod(1).tolist())
        found += [(p, int(h) // 2, int(w) // 2) for p, (_, h, w) in zip(parts, grids, strict=True)]
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_token_has_the_attention_that_its_patches_receive(family: str, attn: str) -> None:
    """Every layer, windowed ones too; images of a batch apart; features as without a reader."""
    model = tiny_qwen(family, attn)
    rows = rows_of(model, ALL)
    inputs = batched(rows)
    given = inputs["pixel_values"], None
    grids = {"image_grid_thw": inputs["image_grid_thw"]}
    with torch.no_grad():
        out = encode_images(model, *given, method=Reader(), **grids)
        plain = encode_images(model, *given, **grids)
        images = images_of(rows)
        assert len(out.crops) == len(images)
        assert torch.equal(torch.cat(out.pooler_output), torch.cat(plain.pooler_output))
        for crop, (pixels, high, wide) in zip(out.crops, images, strict=True):
            for layer, (expected, _) in enumerate(seen(model, pixels, high, wide)):
                torch.testing.assert_close(crop.received(layer), expected, rtol=0, atol=1e-6)
                torch.testing.assert_close(crop.received(layer), expected, rtol=1e-5, atol=0)
            alone = model.model.visual(pixels, grid_thw=torch.tensor([[1, 2 * high, 2 * wide]]))
            tokens = model.model.visual.merger(crop.patches.view(-1, crop.states.shape[1]))
            torch.testing.assert_close(tokens, alone.pooler_output, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "spec",
    some(
        [
            "vscan:keep=300:later=100",
            "vscan:keep=400:later=150:local=1:tower=1:k=2:positions=original",
            "visionzip:dominant=150:contextual=100",
            "visionzip:dominant=100:contextual=150:tower=1:positions=original",
            "visionzip:dominant=200:contextual=0",
        ],
        "vscan:keep=400:later=150:local=1:tower=1:k=2:positions=original",
        "visionzip:dominant=100:contextual=150:tower=1:positions=original",
    ),
)
def test_methods_equal_loops_in_prefill_and_decode(family: str, spec: str) -> None:
    """Alone and in a ragged batch, with several images, on both backends."""
    method = methods.parse(spec)
    models = {attn: tiny_qwen(family, attn) for attn in ("sdpa", "eager")}
    model = models["sdpa"]
    rows = rows_of(model, ROWS)
    answer = torch.randint(3, 50, (len(rows), STEPS), generator=torch.Generator().manual_seed(5))
    expected = []
    with torch.no_grad():
        for one, said in zip(rows, answer, strict=True):
            naive = NaiveQwen(model, sample_of(model, one, said, "doc"))
            REFERENCES[method.name](naive, method, [seen(model, *i) for i in images_of([one])])
            expected.append(naive.logits())
        for attn, model in models.items():
            with routed(model, method):
                together = forced(model, batched(rows), answer)
                for i, single in enumerate(rows):
                    torch.testing.assert_close(together[i], expected[i], rtol=0, atol=1e-6)
                    if attn == "sdpa":
                        alone = forced(model, single, answer[i : i + 1])[0]
                        torch.testing.assert_close(alone, expected[i], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "spec", ["vscan:keep=300:local=1", "visionzip:dominant=200:contextual=200"]
)
def test_what_runs_is_what_the_ledger_says(spec: str, family: str) -> None:
    running.work_is_counted(Case(methods.parse(spec), family=family))


def test_layers_and_counts_of_the_port() -> None:
    """Layers 7 and 31 of 32; a sixth of any image, then a third of that at half depth."""
    info = ModelInfo(28, 8, 2, 2, 4, 32, class_tokens=0, unread="joined", joins=4)
    method = methods.parse("vscan")
    assert method.taps(info) == (7, -1) and method.at(28) == 14
    method.fits(info)
    assert method.request(info, 576) == [96] * 14 + [32] * 14
    with pytest.raises(MethodError, match=r"^vscan: tower layer 32 does not exist"):
        methods.parse("vscan:local=32").fits(info)
