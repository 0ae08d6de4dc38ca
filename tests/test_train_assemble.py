"""Putting a start model together from a language model, a CLIP tower and a projector."""

from __future__ import annotations

import pytest
import torch
import transformers as t
from safetensors.torch import save_file
from tokenizers import Tokenizer

from harness.common.errors import UsageError
from harness.minimodel.tokenizer import train_tokenizer
from harness.model.catalog import load_model
from harness.train.assemble import assemble
from harness.train.job import instruct
from harness.train.templates import VICUNA
from tests import train_tools as tools


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a Llama without image token and of a CLIP tower."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(1)
    tokenizer = train_tokenizer(["USER: What is red? ASSISTANT: a cat</s>"] * 4, 400)
    text = tokenizer.backend_tokenizer.to_str()
    backend = Tokenizer.from_str(text.replace("<image>", "<one>").replace("<pad>", "<two>"))
    plain = t.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    assert plain.pad_token is None
    t.LlamaForCausalLM(tools.text_config(2, len(plain))).save_pretrained(folder / "llm")
    plain.save_pretrained(folder / "llm")
    t.CLIPVisionModel(tools.vision_config()).save_pretrained(folder / "clip")
    tools.processor().image_processor.save_pretrained(folder / "clip")
    return {"decoder": str(folder / "llm"), "vision": str(folder / "clip")}


def mlp(prefix):
    torch.manual_seed(2)
    shapes = {"0.weight": (16, 16), "0.bias": (16,), "2.weight": (16, 16), "2.bias": (16,)}
    return {f"{prefix}.{k}": torch.randn(s) for k, s in shapes.items()}


def test_tokens_config_and_embeddings_follow_the_conversion(parts):
    recipe = tools.recipe(**parts, vision_layer=-1)
    model, processor = assemble(recipe)
    tokenizer = processor.tokenizer
    assert model.config.image_token_id == tokenizer.convert_tokens_to_ids("<image>")
    assert tokenizer.pad_token not in (None, tokenizer.eos_token)
    assert model.config.vision_feature_layer == -1
    rows = model.get_input_embeddings().weight.shape[0]
    assert rows % 64 == 0 and rows >= len(tokenizer) == model.config.image_token_id + 2
    text = t.LlamaForCausalLM.from_pretrained(parts["decoder"])
    old = text.model.embed_tokens.weight
    assert torch.equal(model.get_input_embeddings().weight[: len(old)], old)
    assert torch.equal(model.lm_head.weight[: len(old)], text.lm_head.weight)
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a cat"}]},
    ]
    assert processor.apply_chat_template(chat, tokenize=False) == (
        f"{VICUNA} USER: <image>\nHi ASSISTANT: a cat</s>"
    )


@pytest.mark.parametrize("kind", ["bin", "safetensors", "transformers"])
def test_projector_weights_in_either_naming(parts, tmp_path, kind):
    state = mlp("model.mm_projector")
    path = tmp_path / f"p.{'bin' if kind == 'bin' else 'safetensors'}"
    if kind == "bin":
        torch.save(state, path)
    elif kind == "safetensors":
        save_file(state, path)
    else:
        names = {"0": "linear_1", "2": "linear_2"}
        head = "multi_modal_projector"
        save_file({f"{head}.{names[k[19]]}{k[20:]}": v for k, v in state.items()}, path)
    model, _ = assemble(tools.recipe(**parts, projector=str(path)))
    loaded = model.model.multi_modal_projector
    assert torch.equal(loaded.linear_1.weight, state["model.mm_projector.0.weight"])
    assert torch.equal(loaded.linear_2.bias, state["model.mm_projector.2.bias"])


def test_wrong_parts_are_one_line(parts, tmp_path):
    save_file({"model.mm_projector.0.weight": torch.zeros(2, 2)}, tmp_path / "p.safetensors")
    for changes, message in (
        ({"vision": "nowhere"}, "vision nowhere"),
        ({"decoder": "nowhere"}, "decoder nowhere"),
        ({"vision": ""}, "has one only"),
        ({"projector": "p.bin"}, "no file p.bin"),
        ({"projector": str(tmp_path / "p.safetensors")}, "it lacks linear_1.bias"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            assemble(tools.recipe(**{**parts, **changes}))
        assert "\n" not in str(caught.value)


def test_both_of_llavas_stages(parts, tmp_path):
    """Stage 1 trains the projector on captions; its folder is what stage 2 starts from."""
    rows = [tools.row(i, True) for i in range(4)]
    for i in range(4):
        tools.image(tmp_path / f"images/a/{i}.png", seed=i)
    fields = {
        "data": str(tools.write(tmp_path / "d.json", rows)),
        "images": str(tmp_path / "images"),
    }
    first = tools.recipe(**parts, **fields, template="plain", train=["projector"], max_steps=2)
    instruct(first, tmp_path / "one")
    second = tools.recipe(**fields, model=str(tmp_path / "one"), method="pmod", max_steps=2)
    instruct(second, tmp_path / "two")
    assert (tmp_path / "two/method.json").exists()
    llava = load_model(str(tmp_path / "one"), device="cpu").model
    old = t.LlamaForCausalLM.from_pretrained(parts["decoder"]).model.norm.weight
    assert torch.equal(llava.model.language_model.norm.weight, old)


def test_any_resolution_makes_a_llava_next(parts):
    model, processor = assemble(tools.recipe(**parts, image_aspect="anyres"))
    assert model.config.model_type == "llava_next"
    assert [16, 32] in model.config.image_grid_pinpoints
    assert processor.image_processor.image_grid_pinpoints == model.config.image_grid_pinpoints
