"""Which models are known: foreign families are refused, sizes are the files' or the library's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CONFIG_MAPPING, LlavaConfig, LlavaNextConfig

from harness.command.cli import main
from harness.families.catalog import FAMILIES, completed, shape_from_config, shape_of
from harness.families.decoders import DECODERS
from harness.families.packed_checks import TEXTS
from harness.families.towers import CLASS_TOKENS, TOWERS
from tests.fixtures.bad_input import edit, line_of
from tests.fixtures.hub_models import write_llava

FOREIGN = ["smolvlm", "idefics3", "gemma3", "paligemma", "mllama"]
# config.json of llava-hf/llava-1.5-7b-hf: no size of the decoder but its vocabulary.
RELEASED: dict[str, Any] = {
    "model_type": "llava",
    "image_token_index": 32000,
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5",
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "vocab_size": 32064,
    },
    "vision_config": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "model_type": "clip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
}
SIGLIP = {
    **RELEASED,
    "text_config": {"model_type": "qwen2", "hidden_size": 64, "num_attention_heads": 4,
                    "num_key_value_heads": 4, "num_hidden_layers": 4},
    "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32, "image_size": 56,
                      "num_hidden_layers": 3, "patch_size": 14, "vision_use_head": False},
    "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full",
}  # fmt: skip


def written(folder: Path, config: dict[str, Any]) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def refused(argv: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a command line ends with: exit code 2, nothing written."""
    assert main([*argv, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and not out.exists(), lines
    return lines[0]


# --- families
@pytest.mark.parametrize("job", [["--costs-only"], ["--throughput", "--random-weights"]])
@pytest.mark.parametrize("family", [one for one in FOREIGN if one not in FAMILIES])
def test_nothing_is_computed_for_another_family(
    family: str, job: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    CONFIG_MAPPING[family]().save_pretrained(tmp_path / "model")
    argv = [*job, "--methods", "fastv", "--model", str(tmp_path / "model")]
    line = refused(argv, tmp_path / "out", capsys)
    assert f"type '{family}'" in line and "the types that work are llava, llava_next" in line


def test_its_sizes_are_no_keys_of_a_config() -> None:
    odd = {**RELEASED, "image_tokens": 9, "slow": 1e12}
    assert shape_from_config(odd, "x") == shape_from_config(RELEASED, "x")


# --- sizes
@pytest.mark.parametrize("kind", [*DECODERS, *TEXTS, *TOWERS])
def test_defaults_are_those_of_the_library(kind: str) -> None:
    config = CONFIG_MAPPING[kind]()
    for name, value in {**DECODERS, **TEXTS, **TOWERS}[kind].items():
        if name == "sliding_window" and "use_sliding_window" in {**DECODERS, **TEXTS}[kind]:
            value = None  # the class takes the window away while it is not in use
        elif name == "num_key_value_heads" and value is None:
            value = config.num_attention_heads
        elif name == "head_dim" and value is None:
            value = getattr(config, name, config.hidden_size // config.num_attention_heads)
        assert getattr(config, name) == value if hasattr(config, name) else name == "head_dim", name
    if kind in TOWERS:
        from transformers import AutoModel

        small = {"num_hidden_layers": 1, "hidden_size": 12, "intermediate_size": 8}
        tower = AutoModel.from_config(CONFIG_MAPPING[kind](**small), trust_remote_code=False)
        patches = (config.image_size // config.patch_size) ** 2
        positions = tower.embeddings.position_embedding.num_embeddings
        assert positions == patches + CLASS_TOKENS[kind]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_a_released_config_has_the_sizes_that_the_library_reads(family: str) -> None:
    raw = {**RELEASED, "model_type": family}
    theirs = {"llava": LlavaConfig, "llava_next": LlavaNextConfig}[family](
        **{key: value for key, value in raw.items() if key != "model_type"}
    )
    mine = completed(raw, "released")
    for part, known in (
        ("text_config", DECODERS["llama"]),
        ("vision_config", TOWERS["clip_vision_model"]),
    ):
        for name in known:
            assert mine[part][name] == getattr(getattr(theirs, part), name), name
    for name in FAMILIES[family].says:
        assert mine[name] == getattr(theirs, name)
    renamed = {**raw, "image_token_id": 7}
    del renamed["image_token_index"]
    assert completed(renamed, "released")["image_token_index"] == 7
    named = {"llava": "llava-hf/llava-1.5-7b-hf", "llava_next": "llava-hf/llava-v1.6-vicuna-7b-hf"}
    assert shape_from_config(raw, named[family]) == shape_of(named[family])


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("text_config", {"model_type": None}, "text_config.model_type is missing"),
        ("text_config", {"model_type": "phi3"}, "text_config.model_type is 'phi3'"),
        ("text_config", {"hidden_size": None}, "text_config.hidden_size is missing"),
        ("text_config", {"num_hidden_layers": "32"}, "text_config.num_hidden_layers is '32'"),
        ("text_config", {"num_key_value_heads": 5}, "32 heads cannot share 5 key-value heads"),
        ("vision_config", {"model_type": "pixtral"}, "vision_config.model_type is 'pixtral'"),
        ("vision_config", {"image_size": [448, 448]}, "vision_config.image_size is [448, 448]"),
        ("vision_config", {"patch_size": 0}, "vision_config.patch_size is 0"),
        ("", {"text_config": None}, "text_config.model_type is missing"),
        ("", {"vision_feature_layer": 26}, "vision_feature_layer=26 is no layer"),
        ("", {"vision_feature_select_strategy": "full"}, "leaves its class token among"),
        ("", {"model_type": "llava_next", "image_grid_pinpoints": [[336]]}, "image_grid_pinpoints"),
    ],
)
def test_what_is_nowhere_is_named(part: str, change: dict[str, Any], said: str) -> None:
    config = json.loads(json.dumps(RELEASED))
    (config[part] if part else config).update(change)
    assert said in line_of(lambda: shape_from_config(config, "model"))


def test_a_siglip_tower_whose_first_patch_would_be_cut_is_refused() -> None:
    config = {**SIGLIP, "vision_feature_select_strategy": "default"}
    assert "cuts the first of" in line_of(lambda: shape_from_config(config, "model"))


# --- what the engine cannot run, from the command line
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, "window 4096"),
        ({"model_type": "mistral"}, "window 4096"),  # the class's own default
        ({"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"]}, "ow 8"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}, "window"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 3}, "window"),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, "bidirectional"),
        ({"model_type": "phi3"}, "'phi3'"),
        ({"model_type": "granite"}, "'granite'"),
    ],
)
def test_decoders_that_cannot_be_routed_are_refused_before_loading(
    text: dict[str, Any],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import harness.model.catalog

    folder = write_llava(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | text)
    monkeypatch.setattr(harness.model.catalog, "load_model", lambda *_: pytest.fail("loaded"))
    argv = ["--methods", "fastv", "--model", str(folder)]
    for job in (["--bench", "gqa", "--data", "mini"], ["--costs-only"]):
        assert said in refused([*argv, *job], tmp_path / "out", capsys)


@pytest.mark.parametrize(
    "text",
    [
        {"model_type": "mistral", "sliding_window": None},
        {"model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": False},
        {"model_type": "qwen2", "num_key_value_heads": 2, "use_sliding_window": True},
    ],
)
def test_windows_that_no_layer_uses_are_no_windows(text: dict[str, Any]) -> None:
    size = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
    config = {**RELEASED, "text_config": size | {"num_key_value_heads": 2} | text}
    assert shape_from_config(config, "model").kv_heads == 2


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_what_a_tower_cannot_tell_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(tmp_path / "model", {**RELEASED, "vision_feature_layer": [-2, -4]})
    argv = ["--costs-only", "--methods", "mmtok", "--model", model]
    assert "several tower layers" in refused(argv, tmp_path / "out", capsys)


@pytest.mark.parametrize("name", ["fastervlm", "prumerge", "scope"])
def test_methods_that_need_a_class_token_say_so(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = written(tmp_path / "model", SIGLIP)
    argv = ["--methods", name, "--model", model]
    for job in (["--costs-only"], ["--throughput", "--random-weights"]):
        line = refused([*argv, *job], tmp_path / "out", capsys)
        assert f"{name}: reads the class token of the vision tower" in line


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_the_ledger_of_a_tower_without_class_token(tmp_path: Path) -> None:
    """Tokens of a crop: 16 patches and nothing else."""
    import csv

    model = written(tmp_path / "model", SIGLIP)
    argv = ["--costs-only", "--methods", "blind,illava,mmtok", "--model", model, "--n-text", "8"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "cost.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["scope"] == "vision"]
    d, ffn, n = 32, 3072, 16
    layers = 3 * (8 * n * d * d + 4 * n * n * d + 4 * n * d * ffn)
    found = {r["method"]: float(r["tflops_mean"]) for r in rows if r["convention"] == "causal"}
    assert (
        found["dense"] == found["mmtok"] == pytest.approx((layers + 2 * n * 3 * 14**2 * d) / 1e12)
    )
    assert found["blind"] == 0 and 0 < found["illava"] < found["dense"]
