"""Prefill, decode, batches, beams, records: every way to one answer gives the same answer."""

from __future__ import annotations

import inspect
from unittest.mock import patch

import pytest
import torch
from transformers import DynamicCache

import methods
from harness.engine import EngineError, encode_images, model_info, routed
from methods.base import Method
from tests.routing_tools import (
    ALL,
    ROWS,
    forced,
    generate,
    random_modules,
    with_positions,
)
from tests.tiny import BOS, EOS, batch, row, tiny_llava


@pytest.mark.parametrize("spec", [*ALL, "fastv:score=all", "pmod:beta=0.3", "gamma:layers=all"])
def test_cache_on_and_off_agree(spec):
    model = tiny_llava(layers=5, dtype=torch.float64)
    method = methods.parse(spec)
    inputs = batch(model, ROWS)
    with routed(model, method, random_modules(method, model)) as run:
        on = generate(model, inputs)
        with_cache = run.records([5] * 4)
        off = generate(model, inputs, use_cache=False)
        without = run.records([5] * 4)
    assert torch.equal(on, off)
    for a, b in zip(with_cache, without, strict=True):
        assert (a.route == b.route).all()
        assert (a.decode == b.decode).all()
        assert a.n_out == b.n_out == 4


@pytest.mark.parametrize("spec", ALL)
def test_one_labelled_forward_equals_prefill_and_decode(spec):
    model = tiny_llava(layers=5, dtype=torch.float64)
    method = methods.parse(spec)
    inputs = batch(model, ROWS[:1])
    answer = torch.tensor([[7, 11, 23]])
    n = inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], answer], dim=1)
    labels = ids.clone()
    labels[:, :n] = -100
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        run.set_samples(["a"])
        stepwise = forced(model, with_positions(inputs), answer)
        at_once = model(**whole, pixel_values=inputs["pixel_values"], labels=labels).logits
    torch.testing.assert_close(at_once[:, n - 1 :], stepwise, rtol=0, atol=1e-6)


@pytest.mark.parametrize("spec", ALL)
def test_right_padding_equals_left_padding(spec):
    model = tiny_llava(layers=5, dtype=torch.float64)
    method = methods.parse(spec)
    left, right = batch(model, ROWS), batch(model, ROWS, padding="right")
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        run.set_samples(list("abcd"))
        a = model(**with_positions(left)).logits[left["attention_mask"].bool()]
        one = run.records()
        b = model(**with_positions(right)).logits[right["attention_mask"].bool()]
        two = run.records()
    same = a.abs().sum(-1) > 0  # dropped tokens have no state
    torch.testing.assert_close(a[same], b[same], rtol=0, atol=1e-6)
    assert all((x.route == y.route).all() for x, y in zip(one, two, strict=True))


def test_logits_keep_their_prompt_positions_and_dropped_tokens_read_zero():
    model = tiny_llava(layers=5)
    inputs = batch(model, ROWS[:1])
    with torch.no_grad(), routed(model, methods.parse("fastv")) as run:
        logits = model(**inputs).logits[0]
        record = run.records()[0]
    gone = torch.from_numpy(record.route[-1] < 0)
    assert logits.shape[0] == inputs["input_ids"].shape[1]
    assert gone.sum() == 8
    assert (logits[gone] == 0).all()
    assert (logits[~gone].abs().sum(-1) > 0).all()


@pytest.mark.parametrize("spec", ["dense", "pmod:beta=0.3", "fastv", "pool", "gamma:threshold=0.5"])
def test_beam_search_with_cache_equals_beam_search_without(spec):
    model = tiny_llava(layers=5, dtype=torch.float64)
    method = methods.parse(spec)
    inputs = batch(model, [(3, [16], 4), (2, [16], 2), (5, [16], 7)])
    with routed(model, method, random_modules(method, model)) as run:
        on = generate(model, inputs, num_beams=3)
        off = generate(model, inputs, num_beams=3, use_cache=False)
        assert torch.equal(on, off)
        generate(model, inputs, num_beams=3)
        with pytest.raises(EngineError, match="beam search"):
            run.records()
    if spec == "dense":
        assert torch.equal(on, generate(model, inputs, num_beams=3))


@pytest.mark.parametrize("spec", ["visionzip", "prumerge", "vscan", "illava", "fastervlm", "mqt"])
@pytest.mark.parametrize(
    "how", [{"num_beams": 2}, {"num_beams": 2, "num_return_sequences": 2}], ids=str
)
def test_what_was_read_of_an_image_is_not_taken_for_repeated_rows(spec, how):
    model = tiny_llava(layers=5)
    method = methods.parse(spec)
    inputs = batch(model, [(3, [16], 4), (2, [16], 2)])
    with (
        routed(model, method, random_modules(method, model)),
        pytest.raises(EngineError, match=r"2 crops were read .* have 4; .* num_beams=1") as error,
    ):
        generate(model, inputs, **how)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("spec", ["dense", "pmod", "fastv", "pool", "gamma:threshold=0.5"])
def test_several_tokens_behind_a_cache_equal_one_at_a_time(spec):
    model = tiny_llava(layers=5, dtype=torch.float64)
    method = methods.parse(spec)
    inputs = with_positions(batch(model, ROWS))
    new = torch.tensor([[7, 11, 23]] * 4)
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        expected = forced(model, inputs, new)[:, 1:]
        steps = run.records()
        out = model(**inputs, use_cache=True)
        mask = torch.cat([inputs["attention_mask"], torch.ones_like(new)], dim=1)
        position = inputs["attention_mask"].sum(1, keepdim=True) + torch.arange(3)
        out = model(
            input_ids=new,
            attention_mask=mask,
            position_ids=position,
            past_key_values=out.past_key_values,
        )
        assert all((a.decode == b.decode).all() for a, b in zip(steps, run.records(), strict=True))
    torch.testing.assert_close(out.logits, expected, rtol=0, atol=1e-6)


def test_cache_reports_the_global_length_and_fills_the_callers_object():
    model = tiny_llava(layers=5)
    method = methods.parse("pmod:beta=0.3")  # layer 0 routes too
    inputs = batch(model, ROWS[:1])
    n = inputs["input_ids"].shape[1]
    mine = DynamicCache()
    with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
        out = model(**inputs, past_key_values=mine, use_cache=True)
        kept = run.records()[0].kv_tokens.tolist()
        assert out.past_key_values.get_seq_length() == n
        assert [layer.keys.shape[2] for layer in mine.layers] == kept
        assert kept[0] < n
        step = {"input_ids": torch.tensor([[5]]), "attention_mask": torch.ones(1, n + 1)}
        again = model(**step, past_key_values=mine)  # the caller's object is recognised
    assert again.past_key_values.get_seq_length() == n + 1


# --- records
def test_wrong_bookkeeping_is_caught_by_the_real_cache():
    model = tiny_llava(layers=5)
    with torch.no_grad(), routed(model, methods.parse("fastv")) as run:
        out = model(**batch(model, ROWS), use_cache=True)
        layer = out.past_key_values.layers[3]
        layer.keys, layer.values = layer.keys[:, :, 1:], layer.values[:, :, 1:]
        with pytest.raises(EngineError, match=r"layer 3: the cache holds|bytes"):
            run.records()


def test_record_counts_kv_bytes_of_the_real_tensors():
    model = tiny_llava(layers=5)
    inputs = batch(model, ROWS[:1])
    info = model_info(model)
    for spec in ALL:
        method = methods.parse(spec)
        with torch.no_grad(), routed(model, method, random_modules(method, model)) as run:
            cache = model(**inputs, use_cache=True).past_key_values
            record = run.records()[0]
            assert record.kv_bytes(info.kv_heads, info.head_dim, 4) == cache.nbytes()


def test_generation_lengths_stop_at_the_stop_token():
    model = tiny_llava()
    inputs = batch(model, ROWS)
    with routed(model, methods.parse("dense")) as run:
        out = model.generate(**inputs, max_new_tokens=8, do_sample=False, eos_token_id=EOS)
        new = out[:, inputs["input_ids"].shape[1] :].tolist()
        automatic = [r.n_out for r in run.records()]
    # A stop token is fed back only while other rows go on, and is no longer part of the answer.
    limit = len(new[0]) - 1
    assert automatic == [min(limit, line.index(EOS) if EOS in line else limit) for line in new]


def test_text_only_rows_and_batches_are_dense_for_vision_methods():
    model = tiny_llava(layers=5)
    inputs = batch(model, [(2, [], 5), (3, [], 1)])
    with torch.no_grad():
        plain = model(**inputs).logits
        for spec in [s for s in ALL if not s.startswith("gamma")]:
            method = methods.parse(spec)
            with routed(model, method, random_modules(method, model)) as run:
                assert torch.equal(model(**inputs).logits, plain), spec
                assert run.records()[1].skip_all_layers == 0


def test_blind_equals_the_text_only_prompt_and_never_runs_the_tower():
    model = tiny_llava(layers=4, dtype=torch.float64)
    inputs = batch(model, ROWS)
    with (
        patch.object(type(model.model.vision_tower), "forward", side_effect=AssertionError),
        routed(model, methods.parse("blind")),
    ):
        blind = generate(model, inputs)[:, inputs["input_ids"].shape[1] :]
        model(**inputs)
    for i in range(4):
        ids = row(inputs, i, [])["input_ids"]
        ids = ids[ids != 60][None]
        assert ids[0, 0] == BOS
        text = generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        assert torch.equal(text[0, ids.shape[1] :], blind[i])


def test_shared_features_give_the_same_answers():
    model = tiny_llava(layers=5)
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this transformers release takes no ready image features")
    inputs = batch(model, ROWS)
    method = methods.parse("fastv")
    with routed(model, method) as run:
        expected = generate(model, inputs)
        first = run.records()
        features = encode_images(model, inputs["pixel_values"])
        text = {k: inputs[k] for k in ("input_ids", "attention_mask")}
        with patch.object(type(model.model.vision_tower), "forward", side_effect=AssertionError):
            shared = generate(model, text, mm_encoder_outputs={"image": features})
        assert torch.equal(expected, shared)
        assert [r.grid for r in run.records()] == [r.grid for r in first]


class Reads(Method):
    reads_tower = True

    def taps(self, info):
        return (-2,)


def test_cls_rows_equal_eager_attention():
    model = tiny_llava(attn="eager")
    pixels = batch(model, ROWS)["pixel_values"]
    tower = model.model.vision_tower
    with torch.no_grad():
        eager = tower(pixels, output_attentions=True).attentions[-2][:, :, 0, 1:]
        crops = encode_images(model, pixels, method=Reads()).crops
    torch.testing.assert_close(torch.stack([crop.cls_row(-2) for crop in crops]), eager)


def test_last_row_equals_eager_attention():
    model = tiny_llava(layers=4, attn="eager")
    inputs = batch(model, ROWS[:1])
    expected = model(**inputs, output_attentions=True).attentions[1][0].mean(0)
    seen = {}
    method = methods.parse("dense")

    def spy(self, layer, seq):
        if layer == 1:
            seen["last"], seen["mean"] = seq.last_row(1)[0], seq.mean_row(1)[0]

    with torch.no_grad(), patch.object(type(method), "layer", spy), routed(model, method):
        model(**inputs)
    torch.testing.assert_close(seen["last"], expected[-1])
    torch.testing.assert_close(seen["mean"], expected.mean(0))


# --- no questions to the device
class Questions:
    """Counts reads of tensor values by the host."""

    def __init__(self):
        self.count = 0

    def __enter__(self):
        names = ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy")
        self.patches = []
        for name in names:
            original = getattr(torch.Tensor, name)

            def counted(tensor, *args, _original=original, **kwargs):
                self.count += 1
                return _original(tensor, *args, **kwargs)

            self.patches.append(patch.object(torch.Tensor, name, counted))
            self.patches[-1].start()
        return self

    def __exit__(self, *error):
        for p in self.patches:
            p.stop()


@pytest.mark.parametrize("spec", [s for s in ALL if s != "random"])
def test_questions_to_the_device_do_not_grow_with_depth(spec):
    counts = {}
    method = methods.parse(spec)
    for layers in (5, 11):
        model = tiny_llava(layers=layers)
        inputs = batch(model, ROWS)
        modules = random_modules(method, model)
        with torch.no_grad(), routed(model, method, modules), Questions() as questions:
            model(**inputs, use_cache=True)
        counts[layers] = questions.count
    growth = counts[11] - counts[5]
    assert growth == (6 if spec.startswith("gamma") else 0)  # one per MoD layer of a threshold rule
    assert 0 < counts[5] < 12
