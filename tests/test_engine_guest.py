"""The engine as a guest in a model: exact where nothing is routed, gone without a trace."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from transformers import DynamicCache

import methods
from harness.engine import EngineError, model_info, routed
from harness.families.decoders import DECODERS
from harness.families.tiny import Clip
from methods.base import MethodError
from tests.routing_tools import (
    ALL,
    ROWS,
    generate,
    random_modules,
)
from tests.tiny import batch, tiny_llava, tiny_llava_next

NEUTRAL = [n for n in methods.names() if methods.load(n).neutral is not None]


def state(model):
    """Everything the engine could leave behind on a model."""
    return {
        name: (set(module.__dict__), dict(module._forward_pre_hooks), dict(module._forward_hooks))
        for name, module in model.named_modules()
    }


# --- nothing to drop
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "name", [n for n in methods.names() if methods.load(n).neutral is not None]
)
def test_neutral_setting_is_bit_equal(name, attn):
    model = tiny_llava(layers=5, attn=attn)
    cls = methods.load(name)
    method = methods.build(name, cls.neutral)
    modules = method.build_modules(model_info(model))
    for inputs in (batch(model, ROWS), batch(model, ROWS[:1]), batch(model, ROWS, padding="right")):
        with torch.no_grad():
            plain = model(**inputs).logits
            with routed(model, method, modules, clip=Clip(model)) as run:
                mine = model(**inputs).logits
                assert run.records()[0].skip_all_layers == 0
        assert torch.equal(plain, mine)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("text", DECODERS)
def test_dense_generation_is_bit_equal(text, attn):
    model = tiny_llava(text, attn=attn)
    inputs = batch(model, ROWS)
    options = {"return_dict_in_generate": True, "output_logits": True}
    plain = generate(model, inputs, **options)
    with routed(model, methods.parse("dense")):
        mine = generate(model, inputs, **options)
    assert torch.equal(plain.sequences, mine.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))


def test_dense_any_resolution_and_loss_are_bit_equal():
    model = tiny_llava_next()
    inputs = batch(model, [(3, [70], 4), (2, [66], 2)], sizes=[(20, 30), (40, 16)])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= 58, -100)
    plain = model(**inputs, labels=labels)
    with routed(model, methods.parse("dense")):
        mine = model(**inputs, labels=labels)
    assert torch.equal(plain.loss, mine.loss)
    assert torch.equal(plain.logits, mine.logits)


# --- no trace
@pytest.mark.parametrize("spec", ALL)
def test_context_leaves_no_trace(spec):
    model = tiny_llava(layers=5)
    inputs = batch(model, ROWS)
    method = methods.parse(spec)
    model.get_image_features(inputs["pixel_values"])  # the library installs its own hooks once
    before, plain = state(model), generate(model, inputs)
    classes = {type(m): type(m).forward for m in model.modules()}
    with routed(model, method, random_modules(method, model)):
        generate(model, inputs)
    assert state(model) == before
    context = routed(model, method, random_modules(method, model))
    with pytest.raises(ZeroDivisionError), context:
        raise ZeroDivisionError
    assert state(model) == before
    assert all(cls.forward is forward for cls, forward in classes.items())
    assert torch.equal(generate(model, inputs), plain)


def test_failure_inside_a_method_leaves_no_trace():
    model = tiny_llava()
    generate(model, batch(model, ROWS))  # the library installs its own hooks once
    before = state(model)
    method = methods.parse("fastv")
    with (
        patch.object(type(method), "kept", side_effect=ArithmeticError),
        routed(model, method),
        pytest.raises(ArithmeticError),
    ):
        generate(model, batch(model, ROWS))
    assert state(model) == before


def test_contexts_nest_with_other_shadows_of_the_same_seam():
    model = tiny_llava()
    calls = []
    original = model.model.get_image_features

    def counted(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    model.model.get_image_features = counted
    with routed(model, methods.parse("fastv")):
        model(**batch(model, ROWS))
    assert model.model.get_image_features is counted
    assert calls == [1]


# --- what cannot be done is said in one line
def one_line(error):
    assert "\n" not in str(error.value)


def test_trained_method_without_weights_says_what_to_pass():
    with pytest.raises(EngineError, match="--checkpoint pmod=PATH") as error:
        routed(tiny_llava(), methods.parse("pmod")).__enter__()
    one_line(error)


def test_parameters_that_do_not_fit_the_depth():
    with pytest.raises(MethodError, match="more than 4 layers") as error:
        routed(tiny_llava(layers=4), methods.parse("fastv:k=4")).__enter__()
    one_line(error)


def test_refusals():
    model = tiny_llava(layers=4)
    inputs = batch(model, ROWS[:1])
    with routed(model, methods.parse("fastv")):
        with pytest.raises(EngineError, match="StaticCache is not supported") as error:
            generate(model, inputs, cache_implementation="static")
        one_line(error)
        with pytest.raises(EngineError, match="output_attentions"):
            model(**inputs, output_attentions=True)
        filled = DynamicCache()
        one = torch.zeros(1, 2, 3, 4)
        filled.update(one, one, 0)
        with pytest.raises(EngineError, match="filled outside"):
            model(**inputs, past_key_values=filled)
        with pytest.raises(EngineError, match="assisted decoding"):
            model(**inputs, use_cache=True).past_key_values.crop(-1)
        embeds = model.get_input_embeddings()(torch.tensor([[1, 5, 6]]))
        with pytest.raises(EngineError, match="input_ids"):
            model(inputs_embeds=embeds)
        cache = model(**inputs, use_cache=True).past_key_values
        n = inputs["input_ids"].shape[1]
        chunk = {"input_ids": torch.tensor([[60, 60]]), "attention_mask": torch.ones(1, n + 2)}
        chunk["mm_encoder_outputs"] = {"image": encode_images_of(model, 2)}
        with pytest.raises(EngineError, match="chunked prefill"):
            model(**chunk, past_key_values=cache)
    with routed(model, methods.parse("dense")), pytest.raises(EngineError, match="another"):
        model(input_ids=torch.tensor([[5]]), past_key_values=cache)


def encode_images_of(model, tokens):
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    width = model.config.text_config.hidden_size
    return BaseModelOutputWithPooling(pooler_output=[torch.zeros(tokens, width)])


def test_unsupported_models_are_refused():
    with pytest.raises(EngineError, match="sliding-window attention"):
        routed(tiny_llava("mistral", sliding_window=8), methods.parse("dense")).__enter__()
    with pytest.raises(EngineError, match="no model of a family"):
        routed(torch.nn.Linear(1, 1), methods.parse("dense")).__enter__()
