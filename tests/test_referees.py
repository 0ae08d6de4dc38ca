"""fvcore and torch against the closed form, and what they do not know is an error."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import methods
from harness.command.cli import main
from harness.cost import counters, referees
from harness.cost.findings import TOLERANCE, RefereeError, described
from harness.cost.ledger import decode_flops, sample_cost
from harness.cost.modules import decoder_like, llama_layer
from harness.cost.referees import Referees, count
from harness.cost.replica import predicted_record
from harness.families.catalog import KNOWN, REGISTRY, shape_from_config, shape_of
from harness.families.shapes import ModelShape
from tests.fakes import FakeRun, run
from tests.tiers import some

SMALL = {
    "model_type": "llava",
    "text_config": {
        "model_type": "llama",
        "num_hidden_layers": 6,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 50,
    },
    "vision_config": {
        "model_type": "clip_vision_model",
        "image_size": 56,
        "patch_size": 14,
        "hidden_size": 8,
        "num_hidden_layers": 2,
    },
}


def shape() -> ModelShape:
    return shape_from_config(SMALL, "small")


A_FAMILY = (
    "tiny-llava",
    "llava-hf/llava-1.5-7b-hf",
    "llava-hf/llava-v1.6-mistral-7b-hf",
    "llava-hf/LLaVA-NeXT-Video-7B-hf",
    "llava-hf/llava-onevision-qwen2-7b-ov-hf",
    "Qwen/Qwen2-VL-7B-Instruct",
    "Qwen/Qwen2.5-VL-7B-Instruct",
    "Qwen/Qwen3-VL-8B-Instruct",
    "OpenGVLab/InternVL3-8B-hf",
    "llava-hr-7b",
    "mini-gemini-hd-7b",
    "moe-llava-2.7b-4e",
)


@pytest.mark.parametrize("model", some(["tiny-llava", *KNOWN], *A_FAMILY))
def test_three_counters_agree_on_every_known_model(model: str) -> None:
    """Multiply-accumulates doubled; layers with a cache, without, and one query behind one."""
    found = Referees(shape_of(model)).examine()
    assert {one.scope for one in found} == {"vision", "projector", "llm_layer", "lm_head"}
    assert max(one.difference for one in found) <= TOLERANCE
    assert max(one.difference for one in found) < 1e-9  # in fact they are equal
    about = described(found)
    assert about["unit"] == "FLOP"
    assert len(about["checked"]) == len(found)


def test_published_anchors() -> None:
    """LLaVA-1.5-7B: 0.40475 GFLOP a token-layer without attention, 0.262144 a head position."""
    counted = Referees(dataclasses.replace(shape_of("llava-hf/llava-1.5-7b-hf"), vocab=32000))
    linear = counted.layer(1, 1).fvcore - 4 * 4096
    assert linear == 404_750_336
    assert counted.head.torch == 262_144_000
    tower = counted.seen(REGISTRY[counted.shape.family].example(counted.shape), "vision")
    assert tower is not None and round(tower.fvcore / 1e12, 3) == 0.382


@cache
def counted() -> Referees:
    """Of every test's samples: each shape of a layer is counted once."""
    return Referees(shape())


@pytest.mark.parametrize("spec", ["dense", "pmod", "llavolta"])
def test_a_sample_is_counted_like_the_closed_form(spec: str) -> None:
    record = predicted_record(methods.parse(spec), SMALL, n_text=8, n_out=6)
    cost = sample_cost(record, shape(), itemsize=2)
    for scopes in counted().sample(record).values():
        assert scopes["vision"] == pytest.approx(cost.vision, rel=1e-9)
        assert scopes["projector"] == pytest.approx(cost.projector, rel=1e-9)
        assert scopes["llm_prefill"] == pytest.approx(cost.prefill["full"], rel=1e-9)
        assert scopes["llm_decode"] == pytest.approx(cost.decode, rel=1e-9)
    decode = decode_flops(shape(), record.processed_per_layer(), record.decode)
    assert cost.decode == decode / 1e12 > 0


def test_each_shape_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = referees.count

    def counting(module: Any, inputs: Any, scope: str) -> Any:
        asked.append((scope, type(module), tuple(one.shape for one in inputs)))
        return real(module, inputs, scope)

    monkeypatch.setattr(referees, "count", counting)
    record = predicted_record(methods.parse("dense"), SMALL, n_text=8, n_out=1)
    counted = Referees(shape())
    assert counted.sample(record) == counted.sample(record)
    assert len(asked) == len(set(asked))


class Spectrum(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).real


class Resize(torch.nn.Module):
    """fvcore has a formula for this one, torch's counter has none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear")


@pytest.mark.parametrize(
    ("module", "size", "said"),
    [
        (Spectrum(), (4, 8), "FLOPs of toy: fvcore cannot count the operator 'fft_fft'"),
        (Resize(), (1, 2, 4, 4), "flop_counter cannot count the operator 'upsample_bilinear2d'"),
    ],
)
def test_an_unknown_operator_is_an_error_that_names_it(
    module: torch.nn.Module, size: tuple[int, ...], said: str
) -> None:
    with pytest.raises(RefereeError, match=said):
        count(module, (torch.zeros(size),), "toy")


def test_a_decoder_of_other_sizes_is_an_error() -> None:
    wider = dataclasses.replace(shape(), ffn=44)
    with pytest.raises(RefereeError, match=r"llm_layer at 1 queries, 635 keys disagree by \d"):
        Referees(wider, lambda: llama_layer(shape())).examine()


def test_a_loaded_models_own_layer_class_is_counted() -> None:
    """Qwen2's layer has biases and two KV heads of four: the same weights, another class."""
    from transformers import Qwen2Config
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

    config = Qwen2Config(
        hidden_size=16,
        intermediate_size=40,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    counted = Referees(shape(), decoder_like(Qwen2DecoderLayer(config, 0), config))
    assert counted.layer(5, 9).difference < 1e-9


def test_costs_only_says_it_in_one_line_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(counters, "LIGHT", counters.LIGHT - {"silu"})
    out = tmp_path / "run"
    argv = ["--costs-only", "--methods", "dense", "--out", str(out)]
    assert main(argv) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["run_suite.py: FLOPs of llm_layer: fvcore cannot count the operator 'silu'"]
    assert not out.exists()


def test_a_run_whose_counters_disagree_starts_nothing(tmp_path: Path) -> None:
    class Disagreeing(FakeRun):
        def counters(self) -> Any:
            return Referees(dataclasses.replace(shape(), ffn=44), small_layer)

    def small_layer() -> torch.nn.Module:
        return llama_layer(shape())

    with pytest.raises(RefereeError, match="disagree"):
        run(tmp_path / "run", Disagreeing())
    assert not (tmp_path / "run").exists()
