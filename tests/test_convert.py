"""Released LLaVA folders as models: the same numbers, whatever does not fit named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.model.convert import folders, use
from harness.model.convert.use import convert
from tests import released_tools as tools
from tests.released_tools import Draw, loaded, prompt, reference, write, write_tower

STORED = "model.vision_tower.vision_tower.vision_model."


def made(source: Path, to: Path, tower: Path | None = None) -> Path:
    convert(source, to, tower, lambda line: None)
    return to


def plain(seed: int = 0, **more: Any) -> dict[str, Tensor]:
    """LLaVA-1.5's tensors, without a tower."""
    draw = Draw(seed)
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": draw(2)}
    return tools.decoder(draw, **more) | tools.projector(draw) | old


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
    processor = AutoProcessor.from_pretrained(out)
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
        **({"sliding_window": None, "rope_theta": 1e6} if kind == "mistral" else {}),
    )
    if kind == "mistral":
        said["sliding_window"] = None
    source = write(tmp_path / "src", said, tensors, "safetensors")
    # The tower's folder gives its sizes; its weights are other ones and must not be taken.
    out = made(source, tmp_path / "out", write_tower(tmp_path / "clip", seed=6))
    grids = [[48, 16], [16, 32], [32, 32]]
    model = loaded(out)
    assert json.loads((out / "config.json").read_text())["image_grid_pinpoints"] == grids
    processor = json.loads((out / "processor_config.json").read_text())
    assert processor["image_processor"]["image_grid_pinpoints"] == grids
    wanted = reference(tensors, sight(tensors, STORED), True, grids=grids, kind=kind)
    if kind == "mistral":
        assert model.config.text_config.rope_parameters["rope_theta"] == 1e6
        return  # the reference has the library's default
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
    return write(tmp_path / "src", said | more, tensors, "safetensors"), tensors


def test_onevision_has_a_block_less_and_ties_its_head(tmp_path: Path) -> None:
    source, tensors = onevision(tmp_path)
    out = made(source, tmp_path / "out", write_tower(tmp_path / "siglip", "siglip", 4))
    model = loaded(out)
    said = model.config
    assert said.model_type == "llava_onevision" and said.vision_feature_layer == -1
    assert said.vision_config.num_hidden_layers == 3
    grids = [[16, 16], [32, 16], [48, 16], [16, 32], [32, 32], [48, 32]]  # (height, width)
    assert said.image_grid_pinpoints == grids
    assert (said.image_token_id, said.video_token_id) == (330, 331)
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


def _spoil(what: str, tensors: dict[str, Tensor]) -> None:
    if what == "missing":
        for i in range(tools.LAYERS):
            del tensors[f"model.layers.{i}.mlp.up_proj.weight"]
    elif what == "extra":
        tensors["model.mm_projector.4.weight"] = torch.ones(2)
        tensors["model.vision_resampler.query"] = torch.ones(2)
    elif what == "shape":
        tensors["model.layers.2.mlp.up_proj.weight"] = torch.ones(3, 16)
    elif what == "words":
        tensors["lm_head.weight"] = torch.ones(400, 16)
    else:
        tensors["model.norm.weight"] = torch.ones(16, dtype=torch.int8)


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize(
    ("what", "word"),
    [
        ("missing", r"4 parameters are in no tensor .*layers\.0\.mlp.*layers\.2\.mlp.* and 1 more"),
        ("extra", r"2 tensors that its layout has not: .*mm_projector\.4\.weight, .*resampler"),
        ("shape", r"layers\.2\.mlp\.up_proj\.weight is \[3, 16\] and should be \[32, 16\]"),
        ("words", r"lm_head\.weight is \[400, 16\] and should be \[384, 16\]"),
        ("whole", r"model\.norm\.weight is of whole numbers"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, form: str, what: str, word: str) -> None:
    tensors = plain()
    _spoil(what, tensors)
    source = write(tmp_path / "src", tools.config(), tensors, form)
    with pytest.raises(UsageError, match=word) as caught:
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear'.*read is 'mlp2x_gelu'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True"),
        ({"mm_vision_select_feature": "cls_patch"}, "cls_patch"),
        ({"mm_patch_merge_type": "spatial"}, "mm_patch_merge_type is 'spatial'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio is 'anyres'"),
        ({"vision_tower_slow": "convnext"}, "LLaVA-HR"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"vocab_size": 200}, "tokenizer has a word of id 33"),
        ({"model_type": "llava_mpt"}, "type 'llava_mpt' in no layout.*original LLaVA"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    source = write(tmp_path / "src", tools.config(**change), plain(), "one.bin")
    with pytest.raises(UsageError, match=word) as caught:
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


class _Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_that_runs_code_is_refused_unrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "src", tools.config(), plain(), "one.bin")
    torch.save({"lm_head.weight": _Bomb()}, source / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"pytorch_model\.bin: holds more than tensors"):
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))
    assert not (tmp_path / "exploded").exists()


def test_folders_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    (source / "pytorch_model-00002-of-00002.bin").rename(source / "away")
    with pytest.raises(UsageError, match="1 of 2 weight files are missing, the first is pytorch"):
        made(source, tmp_path / "out")
    (source / "pytorch_model-00002-of-00002.bin").write_bytes(b"PK\x03\x04cut")
    with pytest.raises(UsageError, match="damaged"):
        made(source, tmp_path / "out")
    (source / "non_lora_trainables.bin").touch()
    with pytest.raises(UsageError, match="LoRA"):
        made(source, tmp_path / "out")
    lone = tmp_path / "lone"
    lone.mkdir()
    (lone / "config.json").write_text(json.dumps(tools.config()))
    (lone / "mm_projector.bin").touch()
    with pytest.raises(UsageError, match="a projector alone"):
        made(lone, tmp_path / "out")


def test_an_index_that_says_otherwise_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    path = source / "pytorch_model.bin.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["model.norm.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"also holds model\.norm\.weight"):
        made(source, tmp_path / "out", write_tower(tmp_path / "clip"))


def test_a_tower_that_is_nowhere_is_asked_for(tmp_path: Path) -> None:
    source = write(tmp_path / "src", tools.config(), plain(), "bin")
    with pytest.raises(UsageError, match=r"weights of .*'openai/tiny-tower'.*--tower"):
        made(source, tmp_path / "out")
    # A tower that lies where the config says is found.
    write_tower(source / "openai" / "tiny-tower")
    made(source, tmp_path / "out")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match="type 'vit'; vision towers that work are clip"):
        made(source, tmp_path / "new", tmp_path / "other")


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
