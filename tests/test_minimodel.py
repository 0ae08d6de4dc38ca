"""Training: packed questions are asked exactly as single ones, and the decoder's start is exact."""

from __future__ import annotations

import copy
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from harness.common.errors import UsageError
from harness.minimodel.attention import WINDOW
from harness.minimodel.labels import DenseScenes, Vocabulary
from harness.minimodel.llama2c import deepen, read_bundle
from harness.minimodel.llava_parts import tower_key
from harness.minimodel.lowrank import (
    LowRankLinear,
    add_low_rank,
    cut_low_rank,
    low_rank_state,
    take_low_rank,
)
from harness.minimodel.packing import PackedScenes, Packer, block_mask
from harness.minimodel.precision import in_float32
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import IGNORE, Scenes
from harness.minimodel.tokenizer import train_tokenizer

CHAT = "USER: <image>\nWhat color is the cat?\nAnswer briefly. ASSISTANT: {}</s>"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([CHAT.format(word) for word in ("red", "blue", "3.50")] * 4, 500)


def llama(**changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "vocab_size": 500, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **changes})).eval()


def test_tokenizer_round_trips_any_text_and_generation_prefix(tokenizer):
    prompt, whole = CHAT.split("{}")[0].rstrip(), CHAT.format("red")
    start, full = tokenizer(prompt).input_ids, tokenizer(whole).input_ids
    assert full[: len(start)] == start
    for text in ("zebra 3.50", "naïve ☕ cup", "a\nb"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def scene_folder(folder: Path, rounds: int = 1) -> Path:
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 255, (2, 64, 64, 3), dtype=np.uint8))
    boxes = [
        {"kind": "object", "label": "cat", "box": [0, 0, 32, 32], "attrs": {"color": "red"}},
        {"kind": "word", "label": "ab", "box": [34, 36, 62, 46], "attrs": {}},
    ]
    questions = ["What color is the cat?\nAnswer briefly.", "What is the word?", "How many cats?"]
    answers = ["red", "ab", "1"]
    qa = [
        {"bench": "gqa", "prompt": f"{p}{' again' * i}", "answer": a}
        for i in range(rounds)
        for p, a in zip(questions, answers, strict=True)
    ]
    with open(folder / "scenes.jsonl", "w", encoding="utf-8") as out:
        for i in range(2):
            out.write(json.dumps({"scene_id": str(i), "boxes": boxes, "qa": qa}) + "\n")
    return folder


@pytest.mark.parametrize("windowed", [False, True])
def test_a_packed_question_gets_the_logits_of_the_question_alone(tmp_path, tokenizer, windowed):
    """The independent reference is one ordinary causal forward a question, no mask, no packing."""
    scenes = Scenes(scene_folder(tmp_path, 6))
    features = np.zeros((2, 16, 8), dtype=np.float16)
    data = PackedScenes(scenes, features, tokenizer, range(2), longest=WINDOW)
    image = tokenizer.convert_tokens_to_ids("<image>")
    settings = {"fixed": windowed, "windowed": windowed}
    packer = Packer(data.prefix, (image, 16), tokenizer.pad_token_id, 640, 0, **settings)
    batch = packer([data[0], data[1]])
    assert not windowed or batch["attention_mask"].shape == (2, 10, WINDOW, 2 * WINDOW)
    model = llama(vocab_size=len(tokenizer))
    with torch.no_grad():
        model.set_attn_implementation("packed" if windowed else "sdpa")
        packed = model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
        ).logits
        model.set_attn_implementation("sdpa")
        head = data.prefix[:-1] + [image] * 16
        for row in range(2):
            marked = (batch["labels"][row] != IGNORE).nonzero()[:, 0].tolist()
            for block in data.blocks(row):
                alone = model(torch.tensor([head + block.ids])).logits[0, len(head) :]
                ids = batch["input_ids"][row].unfold(0, len(block.ids), 1)
                at = (ids == torch.tensor(block.ids)).all(-1).nonzero()[0, 0].item()
                torch.testing.assert_close(
                    packed[row, at : at + len(block.ids)], alone, atol=1e-5, rtol=1e-5
                )
                answer_at = at + len(block.ids) - block.answer
                assert set(range(answer_at, at + len(block.ids))) <= set(marked)
        assert len(marked) == sum(b.answer for b in data.blocks(1))


@pytest.mark.parametrize("windowed", [False, True])
def test_a_fixed_batch_is_as_wide_as_the_packer_says(tmp_path, tokenizer, windowed):
    """A compiled decoder runs as written whatever is wider, so that one too many is never compiled:
    100 tokens of questions are two windows of 64."""
    data = PackedScenes(
        Scenes(scene_folder(tmp_path, 6)), np.zeros((2, 16, 8), np.float16), tokenizer, range(2)
    )
    image = (tokenizer.convert_tokens_to_ids("<image>"), 16)
    packer = Packer(data.prefix, image, 4, 100, 0, fixed=True, windowed=windowed)
    assert packer([data[0], data[1]])["input_ids"].shape[1] == packer.widest
    assert packer.widest == len(packer.head) + (2 * WINDOW if windowed else 100)


def test_block_mask_separates_questions_and_padding():
    mask = block_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0]
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    assert torch.equal(mask, expected)


def test_dense_labels_stand_on_the_right_patches(tmp_path):
    scenes = Scenes(scene_folder(tmp_path))
    vocabulary = Vocabulary.of(scenes, least=1)
    item = DenseScenes(scenes, vocabulary, 16)[0]
    kind = item["kind"].reshape(4, 4)
    cat = vocabulary.index["kinds"]["cat"]
    assert (kind[:2, :2] == cat).all() and (kind == cat).sum() == 4
    word = kind == vocabulary.index["kinds"]["'ab'"]
    assert word.nonzero().tolist() == [[2, 2], [2, 3]]
    spelled = item["spell"].reshape(4, 4, -1)
    assert (spelled[2, 2, :3] > 0).tolist() == [True, True, False]
    assert (spelled[~word] == IGNORE).all()
    assert item["present"].sum() == 2


def bundle_file(folder: Path, layers: int = 2) -> Path:
    """A random llama2.c bundle: header, weights in file order, two rotary tables, 6 pieces."""
    dim, ffn, heads, vocab, seq = 16, 24, 2, 6, 4
    rng = np.random.default_rng(1)
    sizes = [vocab * dim, layers * dim, *[layers * dim * dim] * 4, layers * dim]
    sizes += [*[layers * dim * ffn] * 3, dim, seq * dim // heads]
    weights = [rng.normal(0, 0.3, size).astype(np.float32).tobytes() for size in sizes]
    model = struct.pack("7i", dim, ffn, layers, heads, heads, vocab, seq) + b"".join(weights)
    pieces = b"".join(
        struct.pack("fi", 0.0, len(p)) + p for p in (b"<unk>", b" r", b"ed", b"a", b"b", b" ")
    )
    path = folder / "bundle"
    path.write_bytes(model + struct.pack("i", 5) + pieces)
    return path, len(model)


def test_deepening_keeps_the_function_of_the_bundle(tmp_path, tokenizer):
    """A 2-layer bundle read at depth 2 and at depth 6 must give the same logits."""
    path, size = bundle_file(tmp_path)
    bundle = read_bundle(path, size)
    ids = torch.tensor([[1, 5, 9, 300, 7]])
    with torch.no_grad():
        shallow, deep = (deepen(bundle, depth, tokenizer).eval()(ids).logits for depth in (2, 6))
    torch.testing.assert_close(shallow, deep, atol=1e-5, rtol=1e-5)
    assert shallow.std() > 0
    red = deepen(bundle, 2, tokenizer).model.embed_tokens.weight[
        tokenizer.convert_tokens_to_ids("▁red")
    ]
    rows = bundle.weights["embed"][[bundle.pieces[" r"], bundle.pieces["ed"]]]
    torch.testing.assert_close(red.detach(), torch.from_numpy(rows.mean(0)))


def test_low_rank_updates_start_at_zero_and_describe_the_change():
    model = llama()
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    ids = torch.arange(6)[None]
    plain = model(ids).logits
    add_low_rank(model.model, rank=3)
    assert torch.equal(model(ids).logits, plain)
    model(ids).logits.square().mean().backward()
    update = model.model.layers[0].mlp.up_proj
    assert update.B.grad.abs().sum() > 0
    with torch.no_grad():
        update.B.normal_()
    state = low_rank_state(model)
    a, b = (part.float() for part in state["model.layers.0.mlp.up_proj.weight"])
    now = model.model.layers[0].mlp.up_proj.updated_weight
    torch.testing.assert_close(now, before + b @ a, atol=1e-2, rtol=1e-2)  # stored in float16
    assert (now - before).abs().max() > 0.1
    assert len(state) == sum(isinstance(m, nn.Linear) for m in model.model.modules())
    whole = update.B.detach() @ update.A.detach()
    cut_low_rank(model, 2)
    a, b = low_rank_state(model)["model.layers.0.mlp.up_proj.weight"]
    assert a.shape[0] == b.shape[1] == 2
    now = model.model.layers[0].mlp.up_proj.updated_weight
    error = torch.linalg.svdvals(whole - (now - before))
    torch.testing.assert_close(error[0], torch.linalg.svdvals(whole)[2])  # the nearest of rank 2
    assert error[1] < 1e-4


def test_a_second_part_goes_on_from_the_updates_of_the_first():
    first, second = llama(), llama()
    second.load_state_dict(first.state_dict())
    add_low_rank(first.model, rank=3)
    with torch.no_grad():
        for module in first.modules():
            if isinstance(module, LowRankLinear):
                module.B.normal_()
    add_low_rank(second.model, rank=3)
    ids = torch.arange(6)[None]
    away = (second(ids).logits - first(ids).logits).abs().max()
    take_low_rank(second, low_rank_state(first))
    near = (second(ids).logits - first(ids).logits).abs().max()
    assert near < away / 50  # float16 in between
    other = llama()
    add_low_rank(other.model, rank=2)
    with pytest.raises(UsageError, match="rank 2, but what it goes on from has rank 3"):
        take_low_rank(other, low_rank_state(first))


def test_routers_are_computed_in_float32_under_autocast():
    """In bfloat16 the predictions of neighbours tie, and the first of the tied tokens is kept."""
    routers = nn.ModuleDict({"3": nn.Linear(16, 1)})
    tokens = torch.randn(1, 500, 16)
    exact = routers["3"](tokens)
    in_float32(routers)
    with torch.autocast("cpu", torch.bfloat16):
        found = routers["3"](tokens)
    assert torch.equal(found, exact)
    found.sum().backward()
    assert routers["3"].weight.grad.abs().sum() > 0
    other = copy.deepcopy(routers)
    with torch.no_grad():
        other["3"].weight.zero_()
        other["3"].bias.zero_()
    assert other["3"](tokens).abs().max() == 0 and routers["3"](tokens).abs().max() > 0


def test_recipe_rejects_unknown_keys_and_stages(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("stage: tune\nlearning_rat: 1\n")
    with pytest.raises(UsageError, match="learning_rate"):
        Recipe.load(path)
    path.write_text("stage: bake\n")
    with pytest.raises(UsageError, match="tower, align, resample or tune"):
        Recipe.load(path)


def test_a_recipe_takes_the_mix_of_another_where_it_says_nothing_itself(tmp_path):
    for name, text in {
        "dense": "stage: tune\nshort: 0.75\nseed: 7\nforms: {gqa/where_is: 5}",
        "pmod": "stage: tune\nmix: dense\nmethod: pmod",
        "mod": "stage: tune\nmix: dense\nforms: {gqa/where_is: 2}",
        "lost": "stage: tune\nmix: dens",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    pmod, mod = (Recipe.load(tmp_path / f"{name}.yaml") for name in ("pmod", "mod"))
    assert (pmod.forms, pmod.short, pmod.seed) == ({"gqa/where_is": 5}, 0.75, 0)
    assert (mod.forms, mod.short) == ({"gqa/where_is": 2}, 0.75)
    with pytest.raises(UsageError, match="mix 'dens': no recipe"):
        Recipe.load(tmp_path / "lost.yaml")


def test_scenes_are_told_apart_by_name_order_and_picture(tmp_path):
    def scenes(names, fill):
        images = np.full((len(names), 8, 8, 3), fill, dtype=np.uint8)
        np.save(tmp_path / "images.npy", images)
        lines = [json.dumps({"scene_id": name, "qa": [], "boxes": []}) for name in names]
        (tmp_path / "scenes.jsonl").write_text("\n".join(lines), encoding="utf-8")
        return Scenes(tmp_path)

    first = scenes("abc", 0)
    keys = [first.key, first.only([0, 1, 2]).key, first.only([0, 2]).key, first.only([0, 1]).key]
    keys += [scenes("acb", 0).key, scenes("abc", 1).key]
    assert keys[0] == keys[1] and len(set(keys)) == 5


def test_kept_features_belong_to_the_whole_tower_and_the_layer():
    from tests.tiny import tiny_llava

    tower = tiny_llava().model.vision_tower
    keys = {tower_key(tower, -2), tower_key(tower, -1)}
    with torch.no_grad():
        next(p for name, p in tower.named_parameters() if "layers.0" in name).add_(1)
    keys.add(tower_key(tower, -2))
    tower.config.layer_norm_eps = 0.5
    keys.add(tower_key(tower, -2))
    assert len(keys) == 4
