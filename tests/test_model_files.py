"""Damaged model folders: found before anything is loaded, each one clear line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.model import weights
from harness.model.catalog import find_model, load_model
from tests.fixtures.bad_input import edit, line_of
from tests.fixtures.hub_models import write_llava

import torch  # isort: skip  after the fixtures, which prepare torchvision
from safetensors.torch import load_file, save_file  # isort: skip

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def copy(llava: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(llava, tmp_path / "model"))


def damage(text: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def mark(function: Callable[[Path], None]) -> Callable[[Path], None]:
        DAMAGES[text] = function
        return function

    return mark


DAMAGES: dict[str, Callable[[Path], None]] = {}


@damage("no config.json")
def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@damage("not readable as JSON")
def _broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@damage("type 'paligemma'")
def _other_family(folder: Path) -> None:
    edit(folder / "config.json", model_type="paligemma")


@damage("original LLaVA layout")
def _original_layout(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "hidden_size": 4096}))


@damage("1 of 2 weight files are missing, the first is " + SHARD)
def _no_shard(folder: Path) -> None:
    (folder / SHARD).unlink()


@damage("not a weight index")
def _broken_index(folder: Path) -> None:
    (folder / weights.INDEX).write_text("[]")


@damage("only safetensors weights are read, it has pytorch_model.bin")
def _pickle(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")


@damage("no weights")
def _no_weights(folder: Path) -> None:
    for path in folder.glob("*.safetensors*"):
        path.unlink()


@damage("no tokenizer")
def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@damage("unreadable header")
def _not_safetensors(folder: Path) -> None:
    path = folder / SHARD
    data = path.read_bytes()
    path.write_bytes(data[:8] + b"x" + data[9:])


@damage("'../stolen.safetensors', a file outside its own folder")
def _index_climbs(folder: Path) -> None:
    shutil.copy(folder / SHARD, folder.parent / "stolen.safetensors")
    _point(folder, "../stolen.safetensors")


@damage("model.safetensors', a file outside its own folder")
def _index_is_absolute(folder: Path) -> None:
    _point(folder, str(folder / "model.safetensors"))


def _point(folder: Path, name: str) -> None:
    table = json.loads((folder / weights.INDEX).read_text())
    moved = {k: name if v == SHARD else v for k, v in table["weight_map"].items()}
    edit(folder / weights.INDEX, weight_map=moved)


@damage("integer or quantised weights, 'language_model.lm_head.weight' is I8")
def _integers(folder: Path) -> None:
    _cast(folder, "lm_head.weight", torch.int8)


@damage("is F8_E4M3")
def _eight_bits(folder: Path) -> None:
    _cast(folder, "lm_head.weight", torch.float8_e4m3fn)


def _cast(folder: Path, end: str, dtype: torch.dtype) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        cast = {k: v.to(dtype) if k.endswith(end) else v for k, v in tensors.items()}
        save_file(cast, path, {"format": "pt"})


CODE = {"AutoProcessor": "processing_own.Own", "AutoModel": "modeling_own.Own"}


@damage("processor_config.json: 'auto_map' asks for code of its own")
def _processor_code(folder: Path) -> None:
    edit(folder / "processor_config.json", auto_map=CODE)


@damage("config.json: 'auto_map' asks for code of its own")
def _code_of_a_part(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config={**text, "auto_map": CODE})


@damage("custom_generate: the model asks for code of its own")
def _generate(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate/generate.py").write_text("raise SystemExit")


@damage("adapter_config.json: the model asks for an adapter")
def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


@damage("'quantization_config' asks for quantised weights")
def _quantised(folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})


@damage("'transformers_weights' asks for weight files under other names")
def _other_names(folder: Path) -> None:
    edit(folder / "config.json", transformers_weights="other.safetensors")


@pytest.mark.parametrize("text", DAMAGES)
def test_damaged_folder(copy: Path, text: str) -> None:
    DAMAGES[text](copy)
    assert text in line_of(lambda: find_model(str(copy)))


@pytest.mark.parametrize("keep", [0.0, 1e-4, 0.1, 0.5, 0.999])
def test_truncated_weights(copy: Path, keep: float) -> None:
    path = copy / SHARD
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    line = line_of(lambda: find_model(str(copy)))
    assert SHARD in line and "cut short" in line


def test_counters_of_old_files_are_no_weights(copy: Path) -> None:
    tensors = load_file(copy / SHARD)
    ids = {"vision_tower.vision_model.embeddings.position_ids": torch.arange(17)[None]}
    save_file({**tensors, **ids}, copy / SHARD, {"format": "pt"})
    assert load_model(str(copy)).dtype == "float32"


def test_a_missing_tensor_is_not_replaced_by_a_random_one(copy: Path) -> None:
    tensors = load_file(copy / SHARD)
    gone = next(name for name in sorted(tensors) if "layers.1" in name)
    save_file({n: t for n, t in tensors.items() if n != gone}, copy / SHARD, {"format": "pt"})
    index = json.loads((copy / weights.INDEX).read_text())
    del index["weight_map"][gone]
    (copy / weights.INDEX).write_text(json.dumps(index))
    assert "1 weights are missing" in line_of(lambda: load_model(str(copy)))


def test_weights_of_another_width(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 80
    (copy / "config.json").write_text(json.dumps(config))
    assert "cannot be loaded" in line_of(lambda: load_model(str(copy)))


def test_broken_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    assert "no usable processor" in line_of(lambda: load_model(str(copy)))
