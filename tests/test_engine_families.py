"""Towers without class token, and arguments of other families: exact, or refused in a line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import methods
from harness.command.cli import main
from harness.engine import EngineError, encode_images, find_parts, routed
from harness.families.catalog import REGISTRY, shape_from_config
from harness.store.csvfile import read_rows
from methods.base import Method, MethodError
from tests.fixtures.hub_models import write_llava
from tests.routing_tools import IMAGES, ROWS, generate
from tests.tiny import IMAGE, batch, next_tokens, row, tiny_llava, tiny_llava_next


def siglip(**options: Any) -> Any:
    """What llava-interleave-qwen is: a SigLIP tower read whole, and a Qwen2 decoder."""
    return tiny_llava("qwen2", layers=5, tower="siglip", **options)


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    line = str(error.value)
    assert line and "\n" not in line
    return line


# --- arguments that would get lost
@pytest.mark.parametrize(
    "name", ["deepstack_visual_embeds", "visual_pos_masks", "token_type_ids", "cu_seq_lens_q"]
)
def test_unknown_decoder_arguments_are_refused(name: str) -> None:
    model = tiny_llava()
    inputs = batch(model, ROWS[:1])
    with torch.no_grad(), routed(model, methods.parse("dense")):
        model(**inputs, **{name: None})  # nothing is nothing
        with pytest.raises(EngineError, match=f"'{name}'") as error:
            model(**inputs, **{name: torch.ones_like(inputs["input_ids"])})
        one_line(error)


def test_arguments_of_a_tower_that_does_not_run_are_refused() -> None:
    model = tiny_llava()
    pixels = batch(model, ROWS[:1])["pixel_values"]
    with torch.no_grad(), routed(model, methods.parse("blind")):
        model.model.get_image_features(pixels, interpolate_pos_encoding=True)
        with pytest.raises(EngineError, match="'image_sizes'"):
            model.model.get_image_features(pixels, image_sizes=torch.tensor([[16, 16]]))


def test_features_of_another_layer_than_the_config_s_are_refused() -> None:
    """By position too, where LLaVA has the layer and LLaVA-NeXT the image sizes."""
    model = tiny_llava()
    pixels = batch(model, ROWS[:1])["pixel_values"]
    with torch.no_grad(), routed(model, methods.parse("mmtok")):
        with pytest.raises(EngineError, match="vision_feature_layer=-1 differs") as error:
            model.model.get_image_features(pixels, -1)
        one_line(error)
        with pytest.raises(EngineError, match="vision_feature_select_strategy=full differs"):
            model.model.get_image_features(pixels, vision_feature_select_strategy="full")


def test_engine_errors_are_bad_usage() -> None:
    with pytest.raises(EngineError, match="cuts the first of") as error:
        find_parts(tiny_llava(tower="siglip", select="default"))
    assert error.value.exit_code == 2
    with pytest.raises(EngineError, match="leaves its class token among"):
        find_parts(tiny_llava(select="full"))


def test_the_embedding_is_no_layer() -> None:
    model = tiny_llava()
    for layer in (0, -4):  # hidden_states[0], of three layers
        model.config.vision_feature_layer = layer
        with pytest.raises(EngineError, match="reads no layer") as error:
            routed(model, methods.parse("mmtok")).__enter__()
        one_line(error)
        with routed(model, methods.parse("fastv")):  # asks nothing of the tower
            pass


# --- a tower without class token
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_dense_is_bit_equal_on_siglip_and_qwen2(attn: str) -> None:
    model = siglip(attn=attn)
    bias = model.model.language_model.layers[0].self_attn.q_proj.bias
    with torch.no_grad():
        bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
    inputs = batch(model, ROWS)
    options = {"return_dict_in_generate": True, "output_logits": True}
    plain = generate(model, inputs, **options)
    with routed(model, methods.parse("dense")):
        mine = generate(model, inputs, **options)
    assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("heads", [2, 4])
@pytest.mark.parametrize("text", ["llama", "mistral", "qwen2"])
def test_dense_is_bit_equal_on_every_decoder_of_llava_next(
    text: str, heads: int, attn: str
) -> None:
    """Alone and in a ragged batch, with key-value heads shared (Mistral, Llama 3, Yi) and not."""
    model = tiny_llava_next(text, attn=attn)
    if heads == 4:
        config = model.config
        config.text_config.num_key_value_heads = 4
        torch.manual_seed(0)
        model = type(model)._from_config(config, attn_implementation=attn).eval()
        model.generation_config.pad_token_id = 0
    sizes = [(20, 30), (14, 32), (30, 9), (16, 16)]
    counts = [next_tokens(model, size) for size in sizes]
    rows = [(3, counts[:1], 4), (2, [], 5), (2, counts[1:3], 2), (5, counts[3:], 7)]
    options = {"return_dict_in_generate": True, "output_logits": True}
    single = batch(model, rows[:1], sizes=sizes[:1])
    for inputs in (batch(model, rows, sizes=sizes), single):
        plain = generate(model, inputs, **options)
        with routed(model, methods.parse("dense")):
            mine = generate(model, inputs, **options)
        assert all(torch.equal(a, b) for a, b in zip(plain.logits, mine.logits, strict=True))


@pytest.mark.parametrize("top", [None, False, True])
@pytest.mark.parametrize("text", [None, False, True])
@pytest.mark.parametrize("name", ["llava", "llava_next", "llava_next_video", "llava_onevision"])
def test_shared_tables_are_known_where_the_library_shares_them(
    name: str, text: bool | None, top: bool | None
) -> None:
    """The config may say so in two places, of which not every class reads both."""
    family = REGISTRY[name]
    config = family.tiny()
    config["text_config"] |= {} if text is None else {"tie_word_embeddings": text}
    config |= {} if top is None else {"tie_word_embeddings": top}
    with torch.device("meta"):
        model = family.model_class()(family.config_class()(**config))
    shared = model.lm_head.weight is model.get_input_embeddings().weight
    assert shape_from_config(config, name).tied == shared


def test_blind_answers_as_to_the_text_alone() -> None:
    model = siglip(dtype=torch.float64)
    inputs = batch(model, ROWS[:1])
    ids = inputs["input_ids"]
    text = {"input_ids": ids[ids != IMAGE][None]}
    text["attention_mask"] = torch.ones_like(text["input_ids"])
    options = {"return_dict_in_generate": True, "output_logits": True}
    plain = generate(model, text, **options)
    with routed(model, methods.parse("blind")):
        mine = generate(model, inputs, **options)
    torch.testing.assert_close(plain.logits, mine.logits, rtol=0, atol=1e-6)


@dataclass(frozen=True)
class Reader(Method):
    """Keeps what it is given."""

    name: ClassVar[str] = "reader"
    found: ClassVar[list[Any]] = []

    @property
    def reads_tower(self) -> bool:
        return True

    def before(self, seq: Any) -> None:
        self.found[:] = [seq.crops, seq.origins, seq.hidden, seq.project]


@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_patches_are_what_the_projector_reads_and_stand_behind_their_tokens(tower: str) -> None:
    model = tiny_llava(tower=tower)
    inputs = batch(model, ROWS)
    with torch.no_grad(), routed(model, Reader()):
        model(**inputs)
        crops, origins, hidden, project = Reader.found
        plain = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
        states = plain.hidden_states[model.config.vision_feature_layer]
        patches = torch.cat([crop.patches for crop in crops])
        cut = states[:, 1:] if tower == "clip" else states
        torch.testing.assert_close(patches, cut.flatten(0, 1), rtol=0, atol=1e-6)
        behind = origins >= 0
        assert int(behind.sum()) == len(patches) == int((inputs["input_ids"] == IMAGE).sum())
        made = project(patches)[origins[behind]]
    torch.testing.assert_close(made, hidden[behind], rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", ["illava", "mmtok", "mmtok:tokens=5", "divprune", "pool", "fastv"])
def test_a_batch_is_routed_as_its_rows_alone(spec: str) -> None:
    model = siglip(dtype=torch.float64)
    inputs, method = batch(model, ROWS), methods.parse(spec)
    options = {"return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad(), routed(model, method) as run:
        together = generate(model, inputs, **options)
        records = run.records([5] * len(ROWS))
        for i, images in enumerate(IMAGES):
            alone = generate(model, row(inputs, i, images), **options)
            (record,) = run.records([5])
            assert (record.route == records[i].route).all() and record.tower == records[i].tower
            for a, b in zip(together.logits, alone.logits, strict=True):
                torch.testing.assert_close(a[i], b[0], rtol=0, atol=1e-5)
    assert all(record.skip_all_layers > 0 for record in records if record.n_image)


def test_any_resolution_with_a_siglip_tower() -> None:
    model = tiny_llava_next(tower="siglip")
    inputs = batch(model, [(3, [70], 4)], sizes=[(20, 30)])
    for spec in ("dense", "illava", "mmtok", "blind"):
        with torch.no_grad(), routed(model, methods.parse(spec)) as run:
            model(**inputs)
            (record,) = run.records()
        assert record.n_image == 70
        assert [grid["crops"] for grid in record.grid] == [1, 4]


@pytest.mark.parametrize("name", methods.names())
def test_every_method_runs_or_says_that_it_needs_a_class_token(name: str) -> None:
    model, method = siglip(), methods.parse(name)
    modules = method.build_modules(find_parts(model).info)
    needs = method.needs_class_token and not method.reads_received
    with torch.no_grad():
        if needs:
            with pytest.raises(MethodError, match="class token") as error:
                routed(model, method, modules).__enter__()
            assert one_line(error).startswith(f"{name}: ")
            with pytest.raises(MethodError, match="class token"):
                encode_images(model, torch.zeros(1, 3, 16, 16), method=method)
            return
        with routed(model, method, modules) as run:
            generate(model, batch(model, ROWS))
            assert len(run.records()) == len(ROWS)


# --- from the command line
@pytest.mark.slow
def test_the_methods_that_need_no_class_token_run_on_such_a_model(tmp_path: Path) -> None:
    folder = write_llava(tmp_path / "model", tower="siglip")
    argv = ["--model", str(folder), "--bench", "gqa", "--data", "mini", "--limit", "2", "--quiet"]
    out = tmp_path / "out"
    argv += ["--device", "cpu", "--dtype", "float32", "--out", str(out)]
    assert main([*argv, "--methods", "blind,illava,mmtok"]) == 0
    rows = {row["method"]: row for row in read_rows(out / "cells.csv")}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(
        ("dense", "blind", "illava", "mmtok"), "done"
    )


def test_those_that_do_are_refused_before_it_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import harness.model.catalog

    folder = write_llava(tmp_path / "model", tower="siglip")
    monkeypatch.setattr(harness.model.catalog, "load_model", lambda *_: pytest.fail("loaded"))
    argv = ["--model", str(folder), "--bench", "gqa", "--data", "mini", "--methods", "fastervlm"]
    assert main([*argv, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "fastervlm: reads the class token" in line and not (tmp_path / "out").exists()
