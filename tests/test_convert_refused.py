"""Released folders that are not what they say: refused in one line, nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.common.errors import UsageError
from tests import released_tools as tools
from tests.released_tools import made, plain, write, write_tower


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
        ({"vision_tower_slow": "convnext"}, "expected clip-vit-large-patch14-336"),
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
