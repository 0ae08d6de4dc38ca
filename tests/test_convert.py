"""Released LLaVA folders as models: the same numbers, whatever does not fit named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.model.convert import folders, registry, use
from harness.model.convert.layout import MODEL, Place, Source, Target, rerouted
from harness.model.convert.llava_original import OriginalLlava
from tests import released_tools as tools
from tests.released_tools import (
    Draw,
    loaded,
    made,
    plain,
    prompt,
    reference,
    write,
    write_tower,
)

STORED = "model.vision_tower.vision_tower.vision_model."


def sight(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return {k: v for k, v in found.items() if not k.endswith("position_ids")}


def same_logits(model: Any, wanted: Any, inputs: dict[str, Tensor]) -> None:
    with torch.no_grad():
        found, known = model(**inputs).logits, wanted(**inputs).logits
    torch.testing.assert_close(found[..., : tools.WORDS], known[..., : tools.WORDS])
    assert (found.argmax(-1) < tools.WORDS).all()  # a spare row never wins


@pytest.mark.parametrize("form", ["bin", "one.bin", "safetensors"])
def test_llava_1_5_with_its_tower_from_elsewhere(tmp_path: Path, form: str) -> None:
    tensors = plain()
    source = write(tmp_path / "src", tools.config(), tensors, form)
    torch.save({"model.mm_projector.0.weight": torch.zeros(2)}, source / "mm_projector.bin")
    tower = write_tower(tmp_path / "clip")
    out = made(source, tmp_path / "out", tower)
    clip = sight(tools.tower(Draw(5), "vision_model."), "vision_model.")
    same_logits(loaded(out), reference(tensors, clip), prompt())
    assert not list(tmp_path.glob("*.partial"))


def test_llava_1_5_pads_to_a_square_and_asks_as_vicuna(tmp_path: Path) -> None:
    from PIL import Image
    from transformers import AutoProcessor

    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    processor = AutoProcessor.from_pretrained(out, trust_remote_code=False)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "the cat"}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    assert text.startswith("A chat between") and text.endswith("USER: <image>\nthe cat ASSISTANT:")
    wide = Image.new("RGB", (64, 16), (255, 0, 0))
    inputs = processor(images=wide, text=text, return_tensors="pt")
    assert int((inputs["input_ids"] == tools.IMAGE).sum()) == 16
    pixels = inputs["pixel_values"][0]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    # The padding is the mean colour, cut to whole steps of 255: next to zero once normalised.
    assert pixels[:, 0].abs().max() < 0.02 and pixels[0, 8].min() > (1 - mean[0]) / 0.3


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_llava_1_6_with_its_own_tower_and_tiles(tmp_path: Path, kind: str) -> None:
    draw = Draw(2)
    tensors = plain(1) | {"model.image_newline": draw(tools.WIDTH)} | tools.tower(draw, STORED)
    tensors[STORED + "embeddings.position_ids"] = torch.arange(17)[None]
    said = tools.config(
        model_type=f"llava_{kind}",
        mm_patch_merge_type="spatial_unpad",
        image_aspect_ratio="anyres",
        image_grid_pinpoints=[[16, 48], [32, 16], [32, 32]],  # (width, height)
    )
    if kind == "mistral":
        said |= {"sliding_window": None, "rope_theta": 1e6}
    source = write(tmp_path / "src", said, tensors, "safetensors")
    # The tower's folder gives its sizes; its weights are other ones and must not be taken.
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip", seed=6))
    grids = [[48, 16], [16, 32], [32, 32]]
    model = loaded(out)
    assert json.loads((out / "config.json").read_text())["image_grid_pinpoints"] == grids
    processor = json.loads((out / "processor_config.json").read_text())
    assert processor["image_processor"]["image_grid_pinpoints"] == grids
    more: dict[str, Any] = {}
    if kind == "mistral":
        rope = {"rope_theta": 1e6, "rope_type": "default"}
        more = {"sliding_window": None, "rope_parameters": rope}
    wanted = reference(tensors, sight(tensors, STORED), True, grids=grids, kind=kind, **more)
    size = torch.tensor([[48, 16]])
    pixels = torch.randn(1, 4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    count = 16 + 12 * (4 + 1)
    inputs = prompt(count=count) | {"pixel_values": pixels, "image_sizes": size}
    same_logits(model, wanted, inputs)


def onevision(tmp_path: Path, blocks: int = 3, **more: Any) -> tuple[Path, dict[str, Tensor]]:
    draw = Draw(4)
    tensors = tools.decoder(draw) | tools.projector(draw) | {"model.image_newline": draw(16)}
    tensors |= tools.tower(draw, STORED, "siglip", blocks)
    for i in range(tools.LAYERS):
        for name, size in (("q", 16), ("k", 8), ("v", 8)):
            tensors[f"model.layers.{i}.self_attn.{name}_proj.bias"] = draw(size)
    del tensors["lm_head.weight"]
    said = tools.config(
        model_type="llava",
        architectures=["LlavaQwenForCausalLM"],
        mm_patch_merge_type="spatial_unpad",
        image_aspect_ratio="anyres_max_9",
        image_grid_pinpoints="(1x1),...,(2x3)",
        tie_word_embeddings=True,
    )
    source = write(tmp_path / "src", said | more, tensors, "safetensors")
    (source / "tokenizer.model").unlink()
    (source / "tokenizer.json").write_text(qwen_words())
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(names))
    return source, tensors


def qwen_words() -> str:
    """A tokenizer.json of Qwen's kind: bytes and three words, 259 of the model's 330 rows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return str(made.to_str())


def test_onevision_has_a_block_less_and_ties_its_head(tmp_path: Path) -> None:
    source, tensors = onevision(tmp_path)
    out = made(source, tmp_path / "out", write_tower(tmp_path / "siglip", "siglip", 4))
    model = loaded(out)
    said = model.config
    assert said.model_type == "llava_onevision" and said.vision_feature_layer == -1
    assert said.vision_config.num_hidden_layers == 3
    grids = [[16, 16], [32, 16], [48, 16], [16, 32], [32, 32], [48, 32]]  # (height, width)
    assert said.image_grid_pinpoints == grids
    assert (said.image_token_id, said.video_token_id) == (259, 260)  # spare rows of the source
    assert said.text_config.vocab_size == tools.ROWS
    processor = json.loads((out / "tokenizer_config.json").read_text())
    assert processor["pad_token"] == "<|endoftext|>"
    tower = model.model.vision_tower
    name = "encoder.layers.2.mlp.fc1.weight"
    assert torch.equal(tower.get_parameter(name), tensors[STORED + name])
    words = tensors["model.embed_tokens.weight"]
    assert torch.equal(model.lm_head.weight[: tools.WORDS], words)
    assert torch.equal(
        model.model.language_model.layers[1].self_attn.k_proj.bias,
        tensors["model.layers.1.self_attn.k_proj.bias"],
    )


def test_onevisions_deleted_block_must_be_gone(tmp_path: Path) -> None:
    source, _ = onevision(tmp_path, blocks=4)
    with pytest.raises(UsageError, match=r"16 tensors that its layout has not: .*layers\.3\."):
        made(source, tmp_path / "out", write_tower(tmp_path / "siglip", "siglip", 4))


class Halved(OriginalLlava):
    """A layout that stores one matrix as two: upper and lower half."""

    name = "halved"

    def target(self, source: Source) -> Target:
        found = super().target(source)
        whole = "model.language_model.layers.1.mlp.up_proj.weight"

        def place(name: str, dense: Any) -> Place | None:
            return Place(MODEL, whole) if "half" in name else dense(name)

        def join(name: str, parts: dict[str, Tensor]) -> Tensor:
            return (
                torch.cat([parts[one] for one in sorted(parts)]) if name == whole else first(parts)
            )

        return replace(found, streams=rerouted(found, place), join=join)


def first(parts: dict[str, Tensor]) -> Tensor:
    (only,) = parts.values()
    return only


def test_a_layout_may_join_what_lies_in_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "DENSE", (Halved(),))
    tensors = plain()
    upper, lower = tensors.pop("model.layers.1.mlp.up_proj.weight").chunk(2)
    stem = "model.layers.1.mlp.half"
    halves = {f"{stem}_0": upper, f"{stem}_1": lower}
    tower = write_tower(tmp_path / "clip")
    source = write(tmp_path / "src", tools.config(), tensors | halves, "bin")
    model = loaded(made(source, tmp_path / "out", tower))
    found = model.model.language_model.layers[1].mlp.up_proj.weight
    assert torch.equal(found, torch.cat([upper, lower]))
    bad = write(tmp_path / "bad", tools.config(), tensors | {f"{stem}_0": upper}, "bin")
    with pytest.raises(UsageError, match=r"half_0 is \[16, 16\] and should be \[32, 16\]"):
        made(bad, tmp_path / "new", tower)


def test_a_folder_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    tower, out = write_tower(tmp_path / "clip"), tmp_path / "out"
    half = tmp_path / "out.partial"  # as a kill leaves it
    half.mkdir()
    (half / folders.MARKER).touch()
    (half / "weights-0.partial").touch()
    with pytest.raises(UsageError, match="half-converted"):
        use.as_model(half)
    made(source, out, tower)
    assert not half.exists() and not list(out.glob("*.partial"))
    before = (out / "model.safetensors").stat().st_mtime_ns
    made(source, out, tower)  # the same files: nothing to do
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    write(source, tools.config(image_aspect_ratio="square"), plain(), "bin")
    with pytest.raises(UsageError, match="made of other files"):
        made(source, out, tower)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(UsageError, match="not empty"):
        made(source, tmp_path / "full", tower)


def test_the_command_says_what_to_do_next(tmp_path: Path, capsys: Any) -> None:
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    tower, out = write_tower(tmp_path / "clip"), tmp_path / "out"
    assert main(["convert", str(source), "--to", str(out), "--tower", str(tower)]) == 0
    assert capsys.readouterr().out == f"{out}: run with --model {out}\n"
    assert main(["convert", str(source)]) == 2
    assert main(["convert", str(tmp_path / "no"), "--to", str(tmp_path / "x")]) == 2
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "--to" in err[0] and "there is no folder" in err[1]


@pytest.mark.slow
def test_a_released_folder_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CACHE", tmp_path / "cache")
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    write_tower(source / "openai" / "tiny-tower")
    run = tmp_path / "run"
    words = ["--model", str(source), "--methods", "fastv", "--bench", "gqa", "--data", "mini"]
    words += ["--limit", "2", "--batch-size", "1", "--out", str(run), "--quiet"]
    assert main(words) == 0
    cells = (run / "cells.csv").read_text()
    assert cells.count("done") == 2
    assert len(list((tmp_path / "cache").iterdir())) == 1
