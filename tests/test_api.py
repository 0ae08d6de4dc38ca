"""The Python interface: what it answers, that it is the command line's, and how it refuses."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import methods as registry
import modsuite as ms
from harness import check
from harness.check import choosing, running
from harness.command.cli import main
from harness.cost import referees
from tests.fakes import CONFIG, without_report

ROOT = Path(__file__).parents[1]
QUESTION = "What colour is the picture?"


@pytest.fixture(scope="module")
def model() -> ms.Model:
    return ms.load("tiny-llava")


@pytest.fixture
def image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_importing_takes_no_torch() -> None:
    code = "import sys, modsuite; assert not {'torch', 'pandas', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "before",
    ["", pytest.param("from transformers import AutoProcessor;", marks=pytest.mark.slow)],
)
def test_torchvision_is_importable_behind_it(before: str) -> None:
    """The obvious script takes its processor from transformers before it calls anything of ours."""
    code = f"import modsuite; {before} import torchvision"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_method_acts_while_it_is_open(model: ms.Model, image: Image.Image) -> None:
    plain = model.ask(image, QUESTION)
    with ms.routed(model, "fastv:kv=0.25") as run:
        model.ask(image, QUESTION)
    assert run.record.kv_ratio_vision == pytest.approx(0.25, abs=0.01)
    with ms.routed(model, "dense") as dense:
        assert dense.ask(image, QUESTION) == plain
    assert dense.record.kv_ratio_vision == 1
    assert run.cost["tflops_prefill"] < dense.cost["tflops_prefill"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"dtype": "bf16"}, "compare: dtype bfloat16 was asked for, the model .* float32: give it"),
        ({"attn": "eager"}, "compare: attn eager was asked for, the model was loaded with sdpa"),
        ({"device": "cuda"}, "compare: device cuda was asked for, the model was loaded with cpu"),
        ({"device_map": "auto"}, "compare: device_map is for the command alone"),
        ({"jobs": 2}, "compare: jobs is for the command alone"),
        ({"cluster": "local:2"}, "compare: cluster is for the command alone"),
        ({"throughput": True}, "compare: throughput is for the command alone"),
    ],
)
def test_comparing_refuses_what_a_loaded_model_cannot_give(
    model: ms.Model, tmp_path: Path, words: dict[str, object], said: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ms.Error, match=said):
        ms.compare(model, "fastv", "gqa", limit=2, out=out, **words)
    assert not out.exists()


def test_weights_of_a_trained_method_are_found(model: ms.Model, image: Image.Image) -> None:
    with ms.routed(model, "pmod") as run:
        run.ask(image, QUESTION)
    assert run.record.kv_ratio_vision == pytest.approx(0.535, abs=0.01)


def test_a_model_of_ones_own(image: Image.Image) -> None:
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = ROOT / "assets" / "tiny-llava"
    own = LlavaForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with ms.routed(own, "random:keep=0.5", processor=processor) as run:
        run.ask(image, QUESTION)
    assert run.record.kv_ratio_vision == pytest.approx(0.5, abs=0.01)
    assert all(bool((before[name] == value).all()) for name, value in own.state_dict().items())
    assert "forward" not in own.model.language_model.__dict__
    with pytest.raises(ms.Error, match="processor="), ms.routed(own, "fastv"):
        pass
    with (
        pytest.raises(ms.Error, match="checkpoint"),
        ms.routed(own, "pmod", processor=processor),
    ):
        pass


@pytest.mark.usefixtures("uncounted")
def test_comparing_is_the_command_lines_run(
    model: ms.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ms.compare(
        model, ["fastv"], bench="pope", limit=3, out=tmp_path / "api", against=["fastv", "dense"]
    )
    without_report(monkeypatch)  # of the command's run nobody reads it
    argv = ["--methods", "fastv", "--bench", "pope", "--limit", "3", "--quiet"]
    assert main([*argv, "--out", str(tmp_path / "cli")]) == 0
    there = pd.read_csv(tmp_path / "cli" / "accuracy.csv")
    pd.testing.assert_frame_equal(table.accuracy, there)
    assert table.report.is_file()
    assert "fastv" in repr(table)
    assert table.averages["label"].tolist() == ["dense", "fastv"]
    (one,) = table.comparisons.itertuples()
    mine = there[(there["label"] == "fastv") & (there["headline"] == 1)].iloc[0]
    assert (one.a, one.b, one.delta, one.p_value) == ("fastv", "dense", mine.delta, mine.p_value)


@pytest.mark.usefixtures("undrawn")
def test_costs_are_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both ask the same counters, which count a layer's sizes once.
    monkeypatch.setattr(referees, "referees_for", functools.cache(referees.referees_for))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    argv = ["--costs-only", "--model", str(folder), "--methods", "fastv"]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    index = ["label", "scope", "convention", "counter"]
    there = pd.read_csv(tmp_path / "run" / "cost.csv").set_index(index)
    here = ms.costs(str(folder), "fastv").set_index(index)
    wanted = there.tflops_mean.dropna()
    assert here.tflops_mean[wanted.index].to_numpy() == pytest.approx(wanted.to_numpy())


def test_what_there_is() -> None:
    table = ms.methods()
    assert table.loc["fastv", "parameters"]["k"] == 2
    assert table.loc["pmod", "trained"]
    assert ms.check("dense").ok.all()
    families = ms.families()
    assert families.loc["llava_next", "runs"] and families.loc["llava_hr", "runs"]
    assert "llava-hf/llava-1.5-7b-hf" in families.loc["llava", "models"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: ms.load("tiny-lava"), "model: unknown model 'tiny-lava': did you mean"),
        (lambda m: ms.parse("fastv:z=1"), "unknown parameter 'z'"),
        (lambda m: m.ask("nowhere.png", "?"), "image: 'nowhere.png' cannot be read"),
        (lambda m: m.ask(3, "?"), "a PIL image or a path expected, not int"),
        (lambda m: ms.costs("nothing", "fastv"), "model: the sizes of 'nothing' are not known"),
        (lambda m: ms.compare(m, "fastv", bench="gqqa"), "bench: unknown bench 'gqqa'"),
        (lambda m: ms.compare(m, "fastv", bench="gqa", limt=1), "did you mean 'limit'"),
    ],
)
def test_refusals_speak_python(call: object, said: str, model: ms.Model) -> None:
    with pytest.raises(ms.Error) as caught:
        call(model)  # type: ignore[operator]
    assert said in str(caught.value)
    assert "--" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_file_takes_its_words_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REGISTRY", dict(registry.REGISTRY))
    page = (ROOT / "docs" / "adding-a-method.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert "import modsuite as ms" in code
    file = tmp_path / "nearest.py"
    file.write_text(code)
    # The page's method conforms as a whole in test_check_file.py.
    monkeypatch.setattr(check, "CHECKS", (running.cache_is_recorded, choosing.best_are_kept))
    assert ms.check(str(file)).ok.tolist() == [True, True]
