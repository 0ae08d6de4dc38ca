"""A decoder compiled part by part computes what the uncompiled one does, routed and not."""

from __future__ import annotations

import copy

import pytest
import torch

import methods
from harness.engine import model_info, routed
from harness.minimodel.compiling import compile_parts
from tests.tiny import tiny_llava


def gradients(llava, modules, method, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Hidden states of a routed pass, and the gradients of their squares' mean."""
    with routed(llava, method, modules, record=False):
        hidden = llava.model(**batch, use_cache=False).last_hidden_state
    hidden.square().mean().backward()
    named = {**dict(llava.named_parameters()), **dict(modules.named_parameters())}
    return hidden.detach(), {n: p.grad for n, p in named.items() if p.grad is not None}


@pytest.mark.slow
def test_compiled_parts_compute_what_is_written_at_any_length() -> None:
    llava = tiny_llava(scale=0.1).train()
    llava.set_attn_implementation({"text_config": "eager"})
    method = methods.parse("pmod")
    modules = method.build_modules(model_info(llava))
    assert modules is not None
    for parameter in modules.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    twin, other = copy.deepcopy(llava), copy.deepcopy(modules)
    compile_parts(twin.model.language_model)
    sight, image = llava.config.vision_config, llava.config.image_token_id
    for text in (3, 9):
        torch.manual_seed(text)
        ids = torch.randint(10, 40, (2, text + llava.config.image_seq_length))
        ids[:, 1 : 1 + llava.config.image_seq_length] = image
        pixels = torch.randn(2, 3, sight.image_size, sight.image_size)
        batch = {"input_ids": ids, "pixel_values": pixels}
        plain, there = gradients(llava, modules, method, batch)
        made, here = gradients(twin, other, method, batch)
        torch.testing.assert_close(made, plain, atol=1e-5, rtol=1e-4)
        assert here.keys() == there.keys() and any("q_proj" in name for name in here)
        for name, value in there.items():
            torch.testing.assert_close(here[name], value, atol=1e-6, rtol=1e-3)
