"""The closed-form ledger against published tables and against counters of real modules."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.cost.ledger import (
    MIB,
    decode_flops,
    gamma_rule,
    sample_cost,
    tokens_at_head,
)
from harness.families.catalog import KNOWN, shape_from_config
from harness.families.shapes import ModelShape
from harness.families.sight import crop_count, projector_part, summed, tower_parts
from harness.store.record import DROPPED, IMAGE, SKIPPED, RoutingRecord, dense_record
from harness.train.sizes import tower_parameters

VICUNA_7B = shape_from_config(
    {**KNOWN["llava-hf/llava-1.5-7b-hf"], "text_config": {"model_type": "llama"}}, "7B"
)
VICUNA_13B = shape_from_config(KNOWN["llava-hf/llava-1.5-13b-hf"], "13B")
TEXT = 58
NEXT, SMALL = 2928, 576  # image tokens of LLaVA-NeXT (square image) and LLaVA-1.5


def record_of(image_counts: list[int], n_image: int, gone: bool, n_out: int = 0) -> RoutingRecord:
    """A record that keeps the first `image_counts[l]` image tokens in layer l."""
    record = dense_record(TEXT, n_image, len(image_counts), n_out=n_out, prefix=35)
    image = np.flatnonzero(record.kinds == IMAGE)
    for layer, count in enumerate(image_counts):
        record.route[layer, image[count:]] = DROPPED if gone else SKIPPED
        record.mod_layers[layer] = count < n_image
    return record


def dense(n_image: int) -> RoutingRecord:
    return record_of([n_image] * 32, n_image, gone=False)


def after_layer_2(n_image: int, left: int) -> RoutingRecord:
    """FastV K=2, LLaVolta (2, S): everything in two layers, `left` image tokens from then on."""
    return record_of([n_image] * 2 + [left] * 30, n_image, gone=True)


def pmod(n_image: int, shift: float, low: float = 0.15, high: float = 0.85) -> RoutingRecord:
    """p-MoD's cosine schedule; a layer above `high` stays dense, k is truncated."""
    counts = []
    for layer in range(32):
        raw = 0.5 * math.cos(math.pi * layer / 31) + shift
        counts.append(n_image if raw > high else math.trunc(n_image * max(raw, low)))
    return record_of(counts, n_image, gone=False)


def tflops(record: RoutingRecord, convention: str, shape: ModelShape = VICUNA_7B) -> float:
    return sample_cost(record, shape, itemsize=2).prefill[convention]


def test_one_token_through_everything() -> None:
    weights = VICUNA_7B.layers * VICUNA_7B.layer_weights + VICUNA_7B.head_weights
    assert 2 * weights == 13_214_154_752
    assert VICUNA_7B.layer_weights == 202_375_168
    assert VICUNA_13B.layer_weights == 317_194_240


@pytest.mark.parametrize(
    ("record", "published"),
    [
        (dense(SMALL), 8.378),
        (dense(NEXT), 39.457),
        (pmod(SMALL, 0.5), 4.923),
        (pmod(NEXT, 0.5), 21.914),
        (pmod(NEXT, 0.4), 19.534),
        (pmod(NEXT, 0.3, high=0.75), 17.749),
        (after_layer_2(NEXT, NEXT // 2), 21.297),
        (record_of([1445] * 32, 1445, gone=True), 19.861),
    ],
)
def test_paper_pmod_rule(record: RoutingRecord, published: float) -> None:
    assert tflops(record, "paper-pmod") == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(
    ("record", "causal", "full", "entries", "vision_kv"),
    [
        (dense(NEXT), 41.01, 43.35, 95_552, 1.0),
        (after_layer_2(NEXT, NEXT // 2), 21.61, 22.33, 51_632, 0.53125),
        (pmod(NEXT, 0.5), 22.09, 23.05, 52_208, 0.5374),
        (pmod(NEXT, 0.4), 19.53, 20.31, 46_328, 0.4746),
        (dense(SMALL), 8.317, 8.423, 20_288, 1.0),
        (after_layer_2(SMALL, SMALL // 2), 4.751, 4.787, 11_648, 0.53125),
        (after_layer_2(SMALL, SMALL // 8), 2.103, 2.113, 5_168, 0.1797),
        (pmod(SMALL, 0.5), 4.802, 4.848, 11_752, 0.5369),
    ],
)
def test_one_rule(
    record: RoutingRecord, causal: float, full: float, entries: int, vision_kv: float
) -> None:
    cost = sample_cost(record, VICUNA_7B, itemsize=2)
    digits = 3 if causal < 10 else 2
    assert round(cost.prefill["causal"], digits) == causal
    assert round(cost.prefill["full"], digits) == full
    assert cost.kv_mib == entries * 16_384 / MIB
    assert cost.kv_ratio_all == pytest.approx(entries / (32 * record.n))
    assert cost.kv_ratio_vision == pytest.approx(vision_kv, abs=5e-5)


@pytest.mark.parametrize(
    ("n", "skip", "dense_layers", "published"),
    [
        (1400, 0.0, 4, 19.160),
        (1400, 0.379, 4, 12.590),
        (1400, 0.577, 4, 9.265),
        (800, 0.310, 4, 7.733),
        (4000, 0.581, 4, 27.807),
        (1400, 0.347, 0, 12.276),
        (1400, 0.175, 16, 17.41),
    ],
)
def test_paper_gamma_rule(n: int, skip: float, dense_layers: int, published: float) -> None:
    digits = 2 if published == 17.41 else 3
    assert round(gamma_rule(VICUNA_7B, n, skip, dense_layers) / 1e12, digits) == published


def test_paper_gamma_rule_13b_and_from_a_record() -> None:
    assert round(gamma_rule(VICUNA_13B, 1400, 0.349, 4) / 1e12, 3) == 25.130
    record = record_of([400] * 16 + [SMALL] * 16, SMALL, gone=False)
    skip = (SMALL - 400) / (SMALL + TEXT)
    expected = gamma_rule(VICUNA_7B, SMALL + TEXT, skip, dense_layers=16) / 1e12
    assert tflops(record, "paper-gamma") == pytest.approx(expected)
    assert tflops(dense(SMALL), "paper-gamma") == pytest.approx(
        gamma_rule(VICUNA_7B, SMALL + TEXT, 0.0, 32) / 1e12
    )


def test_skipped_tokens_reach_the_head_and_dropped_ones_do_not() -> None:
    counts = [SMALL] * 2 + [100] * 30
    assert tokens_at_head(record_of(counts, SMALL, gone=False)) == SMALL + TEXT
    assert tokens_at_head(record_of(counts, SMALL, gone=True)) == 100 + TEXT


def test_merged_tokens_cost_nothing_below_their_slot() -> None:
    record = dense(SMALL)
    record.route[4:, 35:611] = 35 + 2 * (np.arange(576) // 2)  # pairs, from layer 4 on
    same = record_of([SMALL] * 4 + [288] * 28, SMALL, gone=True)
    assert tokens_at_head(record) == 288 + TEXT
    assert tflops(record, "causal") == tflops(same, "causal")


def test_vision_line() -> None:
    cost = sample_cost(dense(SMALL), VICUNA_7B, itemsize=2)
    assert round(cost.vision, 3) == 0.382
    assert round(cost.projector, 3) == 0.024
    nothing = sample_cost(dense(SMALL), VICUNA_7B, itemsize=2, vision_runs=False)
    assert nothing.vision == nothing.projector == 0.0


def test_crops_of_an_unpadded_grid() -> None:
    vision = VICUNA_7B.vision
    base = {"kind": "base", "rows": 24, "cols": 24}
    tall = {"kind": "tile", "rows": 48, "cols": 32}
    wide = {"kind": "tile", "rows": 14, "cols": 72}
    assert crop_count([base, tall], vision, 2352) == 5
    assert crop_count([base, wide], vision, 1598) == 4
    # Un-padding may remove a whole tile again; then only the model's own count tells.
    assert crop_count([base, {**base, "kind": "tile", "crops": 2}], vision, 1176) == 3
    assert crop_count([], vision, 576) == 1
    assert crop_count([], vision, 0) == 0


def test_decode_counts_every_entry_it_attends_to() -> None:
    counts = np.array([10, 4])
    decode = np.array([[True, True, True], [True, False, True]])
    shape = ModelShape("toy", 2, 8, 16, 2, 1, 4, 100, VICUNA_7B.vision, 8)
    pairs = (11 + 12 + 13) + (5 + 6)
    expected = 2 * shape.layer_weights * 5 + 4 * 8 * pairs + 2 * 800 * 3
    assert decode_flops(shape, counts, decode) == expected
    assert shape.layer_weights == 2 * 64 + 2 * 8 * 4 + 3 * 8 * 16  # one KV head of two


def test_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="32 layers"):
        sample_cost(dense(SMALL), VICUNA_13B, itemsize=2)


# --- referees: counters on real modules, meta device, no weights -------------------------------


@pytest.fixture(autouse=True)
def _operators() -> None:
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()


def _decoder_layer(tokens: int):  # type: ignore[no-untyped-def]
    import torch
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    config = LlamaConfig(attn_implementation="eager")

    class Layer(torch.nn.Module):
        """Positional inputs only, as a tracer wants them."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = LlamaDecoderLayer(config, 0)

        def forward(self, hidden, cos, sin):  # type: ignore[no-untyped-def]
            return self.layer(hidden, position_embeddings=(cos, sin), attention_mask=None)

    with torch.device("meta"):
        hidden = torch.empty(1, tokens, config.hidden_size)
        angle = torch.empty(1, tokens, config.hidden_size // config.num_attention_heads)
        return Layer().eval(), (hidden, angle, angle)


def test_one_decoder_layer_against_torch_and_fvcore() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    tokens = 640
    layer, inputs = _decoder_layer(tokens)
    record = dense_record(64, tokens - 64, VICUNA_7B.layers)
    head = 2 * VICUNA_7B.head_weights / 1e12
    ours = (tflops(record, "full") - head) / VICUNA_7B.layers * 1e12
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(*inputs)
    assert ours == pytest.approx(counter.get_total_flops(), rel=1e-9)
    assert ours * VICUNA_7B.layers / 1e12 == pytest.approx(8.5040, abs=5e-5)

    fvcore = pytest.importorskip("fvcore.nn")
    analysis = fvcore.FlopCountAnalysis(layer, inputs)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert ours == pytest.approx(2 * analysis.total(), rel=1e-9)
    missed = " ".join(analysis.unsupported_ops())
    assert not any(word in missed for word in ("matmul", "linear", "bmm", "attention"))


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("clip_vision_model", {}),
        ("siglip_vision_model", {"vision_use_head": False}),
        ("siglip_vision_model", {}),  # the pooling head, which runs by default
    ],
)
def test_tower_and_projector_against_torch(kind: str, more: dict[str, bool]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModel

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "image_size": 28,
        "patch_size": 7,
        **more,
    }
    config = {
        "model_type": "llava",
        "vision_feature_select_strategy": "default" if kind[0] == "c" else "full",
        "text_config": {"model_type": "llama", "hidden_size": 48, "num_attention_heads": 4},
        "vision_config": {"model_type": kind, **small},
    }
    shape = shape_from_config(config, "toy")
    made = AutoConfig.for_model(kind, **small)
    tower = AutoModel.from_config(made, attn_implementation="eager", trust_remote_code=False).eval()
    assert tower_parameters(shape.vision) == sum(p.numel() for p in tower.parameters())
    projector = torch.nn.Sequential(torch.nn.Linear(32, 48), torch.nn.Linear(48, 48))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tower(torch.zeros(1, 3, 28, 28))
    assert summed(tower_parts(shape.vision, 1), "vision") == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        projector(torch.zeros(16, 32))
    assert projector_part(shape, 1).flops == counter.get_total_flops()
