"""Finding, checking and loading models; every bad input is one clear line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.common.roots import ROOT
from harness.families.catalog import FAMILIES, config_for
from harness.model import weights
from harness.model.catalog import MODELS, find_model, load_model
from tests.fixtures.bad_input import edit, line_of
from tests.fixtures.hub_models import PATCH, SIDE, write_llava, write_llava_next

import torch  # isort: skip  after the fixtures, which prepare torchvision

HUB_7B = "llava-hf/llava-1.5-7b-hf"
SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def llava_next(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llava_next(tmp_path_factory.mktemp("next"))


@pytest.fixture
def copy(llava: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(llava, tmp_path / "model"))


# --- finding --------------------------------------------------------------------------------
def test_names() -> None:
    assert next(iter(MODELS)) == "tiny-llava"
    assert HUB_7B in MODELS
    minis = [name for name, entry in MODELS.items() if entry.mini]
    assert minis == ["tiny-llava", "tiny-qwen"]
    assert all("mini" in MODELS[name].summary for name in minis)


def test_finding_needs_no_torch(llava: Path) -> None:
    code = (
        "import sys; from harness.model.catalog import find_model\n"
        f"source = find_model({str(llava)!r})\n"
        "assert len(source.weight_hashes) == 2 and source.processor_hash and source.info.layers\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_unknown_name_gets_the_nearest() -> None:
    line = line_of(lambda: find_model("tiny-lava"))
    assert "'tiny-lava'" in line and "'tiny-llava'" in line


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere-at-all"])
def test_missing_folder(name: str) -> None:
    assert f"no folder '{name}'" in line_of(lambda: find_model(name))


def test_file_instead_of_folder(llava: Path) -> None:
    assert "is a file" in line_of(lambda: find_model(str(llava / "config.json")))


def test_hub_model_absent_offline(empty_hub: Path) -> None:
    line = line_of(lambda: find_model(HUB_7B))
    assert f"hf download {HUB_7B}" in line and "HF_HOME" in line


def test_hub_unreachable_without_the_offline_switch(
    empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    line = line_of(lambda: find_model("llava-hf/llava-1.5-7b"))
    assert "cannot be reached" in line and f"did you mean '{HUB_7B}'?" in line


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a network that fails at once, as a laptop in a train has it."""
    import huggingface_hub

    # The hub library's HTTP package has changed its name; its errors are no OSErrors.
    failure = type("ConnectError", (Exception,), {"__module__": "httpx"})

    class Api:
        def model_info(self, *args: object, **kwargs: object) -> None:
            raise failure("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_hub_model_from_the_cache(empty_hub: Path, llava: Path) -> None:
    """Laid out as the hub library does: links to blobs, named by their hash where they are big."""
    repo = empty_hub / "models--llava-hf--llava-1.5-7b-hf"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    hashes = {}
    for file in llava.iterdir():
        digest = weights.file_hash(file)
        shutil.copy(file, repo / "blobs" / digest)
        os.symlink(repo / "blobs" / digest, snapshot / file.name)
        hashes[file.name] = digest
    source = find_model(HUB_7B)
    assert source.model_id == HUB_7B and source.revision == commit and not source.mini
    assert source.weight_hashes == {n: h for n, h in hashes.items() if n.startswith("model-")}
    assert load_model(HUB_7B).model.config.text_config.num_hidden_layers == 3
    # A snapshot without all of its weights is not the model.
    (snapshot / SHARD).unlink()
    assert f"hf download {HUB_7B}" in line_of(lambda: find_model(HUB_7B))


def test_blob_name_is_trusted_only_as_a_hash(tmp_path: Path) -> None:
    named = tmp_path / "blobs" / ("a" * 64)
    named.parent.mkdir()
    named.write_bytes(b"content")
    assert weights.file_hash(named) == "a" * 64
    other = tmp_path / "blobs" / "etag-1"
    other.write_bytes(b"content")
    assert weights.file_hash(other) != "etag-1" and len(weights.file_hash(other)) == 64


# --- loading --------------------------------------------------------------------------------
def test_llava_is_loaded_exactly(llava: Path) -> None:
    from safetensors.torch import load_file

    loaded = load_model(str(llava), device="cpu")
    files = {k: v for p in sorted(llava.glob("*.safetensors")) for k, v in load_file(p).items()}
    mine = dict(loaded.model.named_parameters())
    assert len(mine) == len(files)
    for theirs, name in {
        "language_model.lm_head.weight": "lm_head.weight",
        "language_model.model.layers.2.mlp.up_proj.weight": (
            "model.language_model.layers.2.mlp.up_proj.weight"
        ),
        "multi_modal_projector.linear_1.weight": "model.multi_modal_projector.linear_1.weight",
    }.items():
        assert torch.equal(mine[name], files[theirs].float())
    assert (loaded.dtype, loaded.attn, loaded.device_name) == ("float32", "sdpa", "cpu")
    assert loaded.source.family is FAMILIES["llava"]
    info = loaded.info
    assert (info.layers, info.hidden, info.ffn, info.heads, info.kv_heads) == (3, 32, 64, 4, 2)
    assert info.vision.patches == (SIDE // PATCH) ** 2
    assert not loaded.model.training and not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.processor.tokenizer.padding_side == "left"


def test_llava_next_has_its_newline(llava_next: Path) -> None:
    from safetensors.torch import load_file

    loaded = load_model(str(llava_next))
    files = {k: v for p in llava_next.glob("*.safetensors") for k, v in load_file(p).items()}
    assert torch.equal(loaded.model.model.image_newline, files["image_newline"].float())
    assert loaded.source.family is FAMILIES["llava_next"] and (SIDE, 2 * SIDE) in loaded.info.tiles


@pytest.mark.parametrize(("wish", "name"), [("bf16", "bfloat16"), ("float16", "float16")])
def test_half_precision(llava: Path, wish: str, name: str) -> None:
    loaded = load_model(str(llava), device="cpu", dtype=wish, attn="eager")
    assert loaded.dtype == name and loaded.attn == "eager"
    assert {str(p.dtype) for p in loaded.model.parameters()} == {f"torch.{name}"}
    assert loaded.model.model.language_model.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"dtype": "int8"}, "--dtype: unknown dtype 'int8'"),
        ({"attn": "fast"}, "--attn: unknown backend 'fast'"),
        ({"device": "cpu", "attn": "flash"}, "flash_attention_2 needs a CUDA device"),
        ({"device": "toaster"}, "unknown device 'toaster'"),
        ({"device": "cuda:99"}, "no cuda:99 on this machine"),
        ({"device": "xpu"}, "no xpu on this machine"),
    ],
)
def test_wishes_this_machine_cannot_fill(llava: Path, options: dict[str, str], text: str) -> None:
    assert text in line_of(lambda: load_model(str(llava), **options))


def test_old_processor_files_are_completed_from_the_config(copy: Path) -> None:
    (copy / "processor_config.json").write_text(
        json.dumps({"processor_class": "LlavaProcessor", "image_token": "<image>"})
    )
    processor = load_model(str(copy)).processor
    assert processor.patch_size == PATCH
    assert processor.vision_feature_select_strategy == "default"


def test_no_sampling_left_from_the_files(copy: Path) -> None:
    edit(copy / "generation_config.json", do_sample=True, temperature=0.9, top_p=0.6)
    config = load_model(str(copy)).model.generation_config
    assert not config.do_sample and config.temperature is None and config.top_p is None


def test_hashes_follow_the_content(copy: Path) -> None:
    before = find_model(str(copy))
    first = before.weight_hashes, before.processor_hash
    path = copy / SHARD
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    after = find_model(str(copy))
    assert after.weight_hashes != first[0] and after.processor_hash == first[1]
    edit(copy / "preprocessor_config.json", do_center_crop=False)
    assert find_model(str(copy)).processor_hash != first[1]


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.mini])
def test_shipped_model(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From any working directory; before the checkpoint is trained, the line says what to do."""
    monkeypatch.chdir(tmp_path)
    if not (ROOT / MODELS[name].source).is_dir():
        assert "make checkpoints" in line_of(lambda: find_model(name))
        assert "make checkpoints" in line_of(lambda: config_for(name))
        pytest.skip(f"assets/{name} is not trained yet")
    loaded = load_model(name)
    assert loaded.mini and loaded.dtype == "float32" and loaded.info.layers >= 12


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.mini])
def test_the_shipped_weights_of_methods_belong_to_their_model(name: str) -> None:
    """Also where the model is put together from another one's decoder, on whatever processor."""
    if not (ROOT / MODELS[name].source).is_dir():
        pytest.skip(f"assets/{name} is not trained yet")
    (dense,) = find_model(name).weight_hashes.values()
    for path in sorted((ROOT / "assets").glob(f"{name}-*/method.json")):
        assert json.loads(path.read_text())["base"] == dense, path
