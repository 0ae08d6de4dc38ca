"""The mini Qwen2.5-VL: its start is exact, its pictures and positions are the library's own."""

from __future__ import annotations

import copy
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import methods
from harness.common.errors import UsageError
from harness.engine import model_info, routed
from harness.families.catalog import REGISTRY
from harness.minimodel.attention import WINDOW
from harness.minimodel.canvas import Canvas, RawScenes
from harness.minimodel.folders import model_at, save_model
from harness.minimodel.labels import Vocabulary
from harness.minimodel.lowrank import add_low_rank
from harness.minimodel.packing import PackedScenes
from harness.minimodel.qwen import PICTURE, build_qwen
from harness.minimodel.qwen_parts import SizedPacker
from harness.minimodel.qwen_tower import MergedTokens
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import IGNORE, Scenes
from harness.minimodel.sizes import read_sizes
from harness.minimodel.tokenizer import train_tokenizer
from harness.minimodel.tune import TuneModel
from tests.tiny import vision_config  # declares operators before the library asks for them

TALL, WIDE = (48, 32), (32, 56)
RECIPE = Recipe(
    "tower", architecture="qwen2_5_vl", patch=4, width=16, layers=3, heads=2, window=16, full=(1,)
)
ASKED = (("What color is the cat?\nAnswer briefly.", "red"), ("How many cats?", "1"))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    texts = [f"USER: <image>\n{q} ASSISTANT: {a}</s>" for q, a in ASKED]
    return train_tokenizer(texts * 4, 500)


@pytest.fixture(scope="module")
def start(tokenizer: Any) -> Any:
    """A random mini LLaVA: four patches of 8 pixels a side, width 32."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    sight = vision_config(4)
    sight.image_size, sight.patch_size = 32, 8
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config=sight, text_config=text, image_token_index=image, tie_word_embeddings=True
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture(scope="module")
def made(start: Any, tokenizer: Any) -> tuple[Any, Any]:
    torch.manual_seed(1)
    model, marked = build_qwen(start, tokenizer, RECIPE)
    with torch.no_grad():
        for value in model.model.visual.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return model.eval(), marked


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: Any) -> Scenes:
    folder: Path = tmp_path_factory.mktemp("scenes")
    rng = np.random.default_rng(0)
    np.save(folder / "images.npy", rng.integers(0, 255, (3, 32, 32, 3), dtype=np.uint8))
    box = {"kind": "object", "label": "cat", "box": [0, 0, 16, 16], "attrs": {"color": "red"}}
    word = {"kind": "word", "label": "ab", "box": [16, 16, 32, 24], "attrs": {}}
    word["chars"] = [[16, 24], [24, 32]]
    qa = [{"bench": "gqa", "prompt": p, "answer": a} for p, a in ASKED]
    line = json.dumps({"scene_id": "0", "boxes": [box, word], "qa": qa})
    (folder / "scenes.jsonl").write_text(f"{line}\n" * 3, encoding="utf-8")
    return Scenes(folder)


def packed(model: Any, marked: Any, scenes: Scenes, size: tuple[int, int], **changes: Any) -> Any:
    """The data of a frozen tower and its packer."""
    data = PackedScenes(scenes, RawScenes(scenes), marked, range(3), mark=PICTURE)
    canvas = Canvas([size], 4, None, 0)
    return data, SizedPacker(canvas, data, Recipe("tune", max_text=128, **changes))


def test_text_alone_gives_the_start_models_logits(made: Any, start: Any, tokenizer: Any) -> None:
    ids = tokenizer("What color is the cat?", return_tensors="pt").input_ids
    with torch.no_grad():
        old, new = start(input_ids=ids).logits, made[0](input_ids=ids).logits
    marked, was = made[1], tokenizer.eos_token_id
    # The end is said by the new mark alone: a row more like it would tie in every answer.
    torch.testing.assert_close(new[..., marked.eos_token_id], old[..., was], atol=1e-6, rtol=1e-6)
    new[..., was] = new[..., marked.eos_token_id]
    torch.testing.assert_close(new[..., : len(tokenizer)], old, atol=1e-6, rtol=1e-6)
    rows = made[0].get_input_embeddings().weight
    assert [int((rows == row).all(1).sum()) for row in rows[[marked.eos_token_id, was]]] == [1, 2]
    assert old.std() > 0.1


def test_a_saved_model_is_found_by_its_family_and_asked_in_qwens_form(
    made: Any, tmp_path: Path
) -> None:
    model, marked = made
    save_model(model, marked, tmp_path)
    model.float()
    processor = AutoProcessor.from_pretrained(tmp_path, trust_remote_code=False)
    config = json.loads((tmp_path / "config.json").read_text())
    family = REGISTRY[config["model_type"]]
    assert family.shape(config, "mini").layers == 4
    family.check_processor(processor, family.completed(config, "mini"), "mini")
    content = [{"type": "image"}, {"type": "text", "text": "How many cats?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith(
        f"{PICTURE}<|vision_end|>How many cats?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = processor(text=[text], images=[Image.new("RGB", (100, 150))], return_tensors="pt")
    assert (inputs["input_ids"] == config["image_token_id"]).sum() == 12 * 19
    again, tokenizer = model_at(str(tmp_path), tmp_path)
    assert again.config.model_type == "qwen2_5_vl"
    assert (
        tokenizer.decode(tokenizer(" red<|im_end|>").input_ids, skip_special_tokens=True) == "red"
    )


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("size", [TALL, WIDE])
def test_a_packed_question_gets_the_logits_of_the_question_alone(
    made: Any, scenes: Scenes, size: tuple[int, int], windowed: bool
) -> None:
    """The reference is the library's own call: pixels in, its numbering of positions, no mask."""
    model, marked = made
    data, packer = packed(model, marked, scenes, size, compile=windowed)
    batch = packer([data[0], data[1]])
    assert batch["attention_mask"].shape[-1] == (
        2 * WINDOW if windowed else len(batch["input_ids"][0])
    )
    assert batch["position_ids"].shape == (3, *batch["input_ids"].shape)
    tuned = TuneModel(model)
    with torch.no_grad():
        model.set_attn_implementation({"text_config": "packed" if windowed else "sdpa"})
        logits = tuned(**batch)["logits"]
        model.set_attn_implementation({"text_config": "sdpa"})
        found = []
        for row in range(2):
            for label in _answers(batch["labels"][row]):
                block = next(b for b in data.blocks(row) if b.ids[-b.answer :] == label)
                ids = torch.tensor([packer.head + block.ids])
                patches = len(batch["pixel_values"]) // 2
                alone = model(
                    input_ids=ids,
                    pixel_values=batch["pixel_values"][row * patches : (row + 1) * patches],
                    image_grid_thw=batch["image_grid_thw"][:1],
                    mm_token_type_ids=(ids == model.config.image_token_id).int(),
                ).logits[0]
                found.append(alone[-block.answer - 1 : -1])
    torch.testing.assert_close(logits, torch.cat(found), atol=2e-5, rtol=1e-5)
    assert logits.std() > 0.1


def _answers(labels: torch.Tensor) -> list[list[int]]:
    """Ids of each run of labels of a row, in order."""
    runs: list[list[int]] = []
    before = IGNORE
    for one in labels.tolist():
        if one != IGNORE:
            runs += [[]] if before == IGNORE else []
            runs[-1].append(one)
        before = one
    return runs


def test_pictures_are_the_processors_and_labels_move_with_the_scene(
    made: Any, scenes: Scenes
) -> None:
    from harness.minimodel.qwen import qwen_processor

    vocabulary = Vocabulary.of(scenes, least=1)
    items = [RawScenes(scenes)[0]]
    processor = qwen_processor(made[1], 4).image_processor
    processor.size = {"shortest_edge": 64, "longest_edge": 10_000}
    for size in (TALL, (32, 32), (64, 64)):
        batch = Canvas([size], 4, vocabulary, 0)(items)
        picture = Image.fromarray(items[0]["image"]).resize(size[::-1], Image.Resampling.BICUBIC)
        wanted = processor([picture], return_tensors="pt")
        assert torch.equal(batch["image_grid_thw"], wanted["image_grid_thw"])
        torch.testing.assert_close(batch["pixel_values"], wanted["pixel_values"])
        assert ("native" in batch) == (size == (32, 32))
    kind, cat = batch["kind"].view(8, 8), vocabulary.index["kinds"]["cat"]
    assert (kind[:4, :4] == cat).all() and (kind == cat).sum() == 16
    glyphs = batch["glyph"].view(8, 8, 2)[4]  # letters are 16 pixels wide here, a token 8
    assert (glyphs[4] == glyphs[5]).all() and (glyphs[6] == glyphs[7]).all()
    assert (glyphs[4] != glyphs[6]).all() and (glyphs[4:] > 0).all()


def test_labels_of_a_placed_scene_lie_on_what_they_name(scenes: Scenes) -> None:
    """A white cat on black: tokens it covers by a third each way are at least a ninth white."""
    vocabulary = Vocabulary.of(scenes, least=1)
    image = np.zeros((32, 32, 3), dtype=np.uint8)
    image[8:24, 8:24] = 255
    box = {"kind": "object", "label": "cat", "box": [8, 8, 24, 24], "attrs": {}}
    canvas, seen = Canvas([(64, 48)], 4, vocabulary, 0, placed=True), set()
    for _ in range(40):
        batch = canvas([{"image": image, "boxes": [box]}])
        cat = batch["kind"][0] == vocabulary.index["kinds"]["cat"]
        pixels = batch["pixel_values"].view(8 * 6, -1)
        dark, white = pixels.min(), pixels.max()
        share = ((pixels - dark) / (white - dark)).mean(-1)
        assert share[cat].min() > 0.1 and share[~cat].max() < 0.75
        seen.add((int(cat.sum()), int(cat.nonzero()[0])))
    assert len(seen) > 5


def test_the_towers_loss_reaches_the_merger_and_asks_the_teacher_at_the_own_size_only(
    made: Any, start: Any, scenes: Scenes
) -> None:
    vocabulary = Vocabulary.of(scenes, least=1)
    model = MergedTokens(copy.deepcopy(made[0].model.visual), vocabulary, start)
    canvas, items = Canvas([(32, 32)], 4, vocabulary, 0), [RawScenes(scenes)[0]]
    own, other = model(**canvas.batch(items, (32, 32))), model(**canvas.batch(items, TALL))
    assert "regression" in own and "regression" not in other
    assert not any("teacher" in name for name, _ in model.named_parameters())
    own["loss"].backward()
    assert model.tower.merger.mlp[2].weight.grad.abs().sum() > 0
    assert start.model.multi_modal_projector.linear_2.weight.grad is None


# Whole windows, and cut ones; both with more than 256 patches, as a scene of 192 px has (576).
@pytest.mark.parametrize("size", [(32, 32), TALL, WIDE, (96, 96), (72, 104)])
def test_the_towers_attention_gives_the_librarys_numbers(
    made: Any, scenes: Scenes, size: tuple[int, int]
) -> None:
    _equal_to_the_librarys(made[0].model.visual, scenes, [size], compiled=False)


@pytest.mark.slow  # two minutes of compiling
def test_a_compiled_tower_gives_the_librarys_numbers(made: Any, scenes: Scenes) -> None:
    _equal_to_the_librarys(made[0].model.visual, scenes, [(32, 32), TALL, (96, 96)], compiled=True)


def _equal_to_the_librarys(
    stock: Any, scenes: Scenes, sizes: list[tuple[int, int]], compiled: bool
) -> None:
    """What comes out, and gradients of the first block and of the patches' embedding."""
    tower, plain = copy.deepcopy(stock), copy.deepcopy(stock)
    plain.set_attn_implementation("eager")
    MergedTokens(tower, Vocabulary.of(scenes, least=1), compiled=compiled)
    assert tower.config._attn_implementation != "eager"
    for size in sizes:
        batch = Canvas([size], 4, None, 0)([RawScenes(scenes)[i] for i in range(2)])
        found = []
        for one in (tower, plain):
            seen = one(batch["pixel_values"], grid_thw=batch["image_grid_thw"]).pooler_output
            weights = [one.blocks[0].attn.qkv.weight, one.patch_embed.proj.weight]
            found.append((seen.detach(), *torch.autograd.grad(seen.square().sum(), weights)))
        torch.testing.assert_close(*found, atol=5e-5, rtol=1e-4)
        assert all(gradient.abs().max() > 1e-3 for gradient in found[1][1:])


@torch.no_grad()
def test_the_towers_attention_keeps_images_of_several_sizes_apart(
    made: Any, scenes: Scenes
) -> None:
    """In one call: more than 256 patches, fewer, and windows of several lengths."""
    tower = copy.deepcopy(made[0].model.visual)
    MergedTokens(tower, Vocabulary.of(scenes, least=1))
    item = RawScenes(scenes)[0]
    batches = [Canvas([size], 4, None, 0)([item]) for size in ((96, 96), WIDE, TALL, (72, 104))]
    pixels = torch.cat([batch["pixel_values"] for batch in batches])
    grids = torch.cat([batch["image_grid_thw"] for batch in batches])
    together = tower(pixels, grid_thw=grids).pooler_output
    tower.set_attn_implementation("eager")
    apart = [tower(b["pixel_values"], grid_thw=b["image_grid_thw"]).pooler_output for b in batches]
    torch.testing.assert_close(together, torch.cat(apart), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", ["pmod", "mod"])
def test_routed_training_reaches_routers_and_low_rank_updates(
    start: Any, tokenizer: Any, scenes: Scenes, spec: str
) -> None:
    torch.manual_seed(2)
    model, marked = build_qwen(start, tokenizer, RECIPE)
    data, packer = packed(model, marked, scenes, TALL)
    method = methods.parse(spec)
    modules: Any = method.build_modules(model_info(model))
    model.train().requires_grad_(False)
    add_low_rank(model.model.language_model, 2)
    with ExitStack() as stack:
        run = stack.enter_context(routed(model, method, modules, record=False))
        tuned = TuneModel(model, modules, run)
        tuned(**packer([data[0], data[1]]))["loss"].backward()
    touched = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in modules.parameters()]
    assert any(touched)
    update = model.model.language_model.layers[0].mlp.up_proj
    assert update.B.grad.abs().sum() > 0


def test_wrong_sizes_and_architectures_are_refused(tmp_path: Path) -> None:
    assert read_sizes([], (192, 192), 16) == [(192, 192)]
    for wrong in ("192", "100x192", "0x16", "ax16"):
        with pytest.raises(UsageError, match="HEIGHTxWIDTH in multiples of 16"):
            read_sizes([wrong], (192, 192), 16)
    (tmp_path / "r.yaml").write_text("stage: tower\narchitecture: qwen\n")
    with pytest.raises(UsageError, match="architecture 'qwen': did you mean 'qwen2_5_vl'"):
        Recipe.load(tmp_path / "r.yaml")
