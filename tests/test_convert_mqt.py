"""Released MQT-LLaVA weights: a small file in their own layout, converted and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import methods
from harness.common.errors import UsageError
from harness.engine import routed
from harness.model.checkpoints import load_checkpoint
from harness.model.convert.use import as_model, convert
from methods import resampler
from tests import released_tools as tools
from tests.released_tools import Draw, prompt, reference, write, write_tower

SAMPLER = "model.query_abstractor."
QUERIES, WIDTH = 9, 16


def sampler(draw: Draw) -> dict[str, Tensor]:
    own = {
        "query": draw(QUERIES, WIDTH),
        "pos_embed": resampler.sincos(3, WIDTH).half(),
        "proj": draw(WIDTH, WIDTH),
        "attn.in_proj_weight": draw(3 * WIDTH, WIDTH),
        "attn.in_proj_bias": draw(3 * WIDTH),
        "attn.out_proj.weight": draw(WIDTH, WIDTH),
        "attn.out_proj.bias": draw(WIDTH),
    }
    for name in ("ln_q", "ln_k", "ln_v"):
        own |= {f"{name}.weight": draw(WIDTH), f"{name}.bias": draw(WIDTH)}
    return own


def published() -> dict[str, Tensor]:
    draw = Draw(9)
    tensors = tools.decoder(draw) | {SAMPLER + k: v for k, v in sampler(draw).items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = draw(2)
    tensors["model.vision_tower.vision_tower.vision_model.post_layernorm.weight"] = draw(WIDTH)
    return tensors


def converted(tmp_path: Path, tensors: dict[str, Tensor], **more: Any) -> Path:
    said = tools.config(mm_projector_type=None, **more)
    source = write(tmp_path / "src", said, tensors, "bin")
    convert(source, tmp_path / "out", write_tower(tmp_path / "clip"), lambda line: None)
    return tmp_path / "out"


def base() -> Any:
    """A LLaVA-1.5 that the resampler and the tuned language model are put on."""
    draw = Draw(1)
    tensors = tools.decoder(draw) | tools.projector(draw)
    return reference(tensors, tools.tower(draw, ""))


def test_the_converted_weights_run_as_the_released_layout_says(tmp_path: Path) -> None:
    tensors, model = published(), base()
    out = converted(tmp_path, tensors)
    loaded = load_checkpoint(out, model, methods.parse("mqt:m=5"))
    assert loaded.method == methods.parse(f"mqt:m=5:queries={QUERIES}")
    own = {k.removeprefix(SAMPLER): v for k, v in tensors.items() if k.startswith(SAMPLER)}
    attention = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
    attention.load_state_dict(
        {k.removeprefix("attn."): v for k, v in own.items() if k.startswith("attn.")}
    )
    inputs = prompt()

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = own[f"{name}.weight"], own[f"{name}.bias"]
        return nn.functional.layer_norm(x, (WIDTH,), weight, bias, 1e-6)

    with torch.no_grad(), loaded.applied(model):
        tower = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        states = tower.hidden_states[-2][:, 1:]
        table = resampler.places(QUERIES, 4, WIDTH)
        query = norm(own["query"] + table[0], "ln_q")[None]
        mixed = attention(query, norm(table[1], "ln_k")[None], norm(states, "ln_v"))[0]
        tokens = (mixed @ own["proj"])[0, :5]
        ids = inputs["input_ids"][0]
        ids = ids.where(ids != tools.IMAGE, 0)  # the released file has no row for it
        words = nn.functional.embedding(ids, tensors["model.embed_tokens.weight"])
        embeds = torch.cat([words[:5], tokens, words[-5:]])[None]
        hidden = model.model.language_model(inputs_embeds=embeds).last_hidden_state
        wanted = hidden[:, -1] @ tensors["lm_head.weight"].T
        with routed(model, loaded.method, loaded.modules):
            found = model(**inputs).logits[:, -1]
    torch.testing.assert_close(found[:, : tools.WORDS], wanted, atol=1e-4, rtol=1e-4)
    assert int(found.argmax()) < tools.WORDS


def spoil(what: str, tensors: dict[str, Tensor]) -> None:
    if what == "missing":
        del tensors[SAMPLER + "ln_k.bias"]
    elif what == "unknown":
        tensors[SAMPLER + "ln_post.weight"] = torch.ones(WIDTH)
    elif what == "stray":
        tensors["model.mm_projector.0.weight"] = torch.ones(2, 2)
    elif what == "layer":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    elif what == "shape":
        tensors[SAMPLER + "proj"] = torch.ones(WIDTH, WIDTH + 1)
    else:
        tensors[SAMPLER + "pos_embed"] = torch.zeros(QUERIES, WIDTH)


@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("missing", r"lacks model\.query_abstractor\.ln_k\.bias"),
        ("unknown", r"has model\.query_abstractor\.ln_post\.weight"),
        ("stray", r"model\.mm_projector\.0\.weight"),
        ("layer", r"layers\.1\.mlp\.up_proj\.weight"),
        ("shape", r"proj\.weight"),
        ("table", "pos_embed"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, what: str, word: str) -> None:
    tensors = published()
    spoil(what, tensors)
    with pytest.raises(UsageError, match=word) as caught:
        converted(tmp_path, tensors)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_tuned_tower_is_refused_and_weights_alone_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="vision tower was tuned"):
        converted(tmp_path, published(), unfreeze_mm_vision_tower=True)
    out = converted(tmp_path, published())
    with pytest.raises(UsageError, match="but weights of mqt: give its base model and --check"):
        as_model(out)
