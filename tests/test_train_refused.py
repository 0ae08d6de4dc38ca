"""Recipes that cannot be: one line each."""

from __future__ import annotations

import pytest

from harness.common.errors import UsageError
from harness.train.job import instruct
from tests import train_tools as tools
from tests.fixtures.hub_qwen import write_qwen


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Fields of a recipe: a tiny model and data for it."""
    folder = tmp_path_factory.mktemp("start")
    return {"model": str(tools.model_folder(folder / "model")), **tools.data(folder)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"learning_rat": 1}, "learning_rate"),
        ({"batch": "many"}, "batch: 'many': Input should be a valid integer"),
        ({"bf16": 1}, "bf16: 1 is no bool"),
        ({"batch": True}, "batch: True is no int"),
        ({"train": ["head"]}, "unknown train 'head'"),
        ({"template": "vicuna"}, "vicuna_v1"),
    ],
)
def test_recipe_values_are_checked(values, message):
    with pytest.raises(UsageError, match=message):
        tools.recipe(**values)
    assert tools.recipe(learning_rate="2e-5").learning_rate == 2e-5  # YAML reads it as text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ""}, "no data"),
        ({"data": "no.json"}, "no file no.json"),
        ({"images": "nowhere"}, "no folder nowhere"),
        ({"model": "./nothing"}, "there is no folder"),
        ({"model": ""}, "either a model, or a decoder"),
        ({"method": "pmode"}, "pmod"),
        ({"image_aspect": "anyres"}, "needs a LLaVA-NeXT model"),
        ({"stages": ["pmod", "dense"]}, "stage pmod: its router"),
        ({"train": []}, "nothing learns"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"plan": "arank"}, "layers of dense cannot be chosen"),
        ({"deepspeed": "zero.json"}, "no file zero.json"),
    ],
)
def test_bad_input_is_one_line(start, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as caught:
        instruct(tools.recipe(**{**start, "max_steps": 1, **changes}), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_a_family_whose_images_the_trainer_does_not_know_is_refused(start, tmp_path):
    model = str(write_qwen(tmp_path / "qwen", "qwen2_5_vl"))
    with pytest.raises(UsageError, match="of type qwen2_5_vl, which is not trained here: llava"):
        instruct(tools.recipe(**{**start, "model": model, "max_steps": 1}), tmp_path / "out")


def test_a_folder_of_another_recipe_is_not_continued(start, tmp_path):
    instruct(tools.recipe(**start, max_steps=1), tmp_path / "o")
    with pytest.raises(UsageError, match=r"learning_rate was 0\.005, now 0\.1"):
        instruct(tools.recipe(**{**start, "learning_rate": 0.1}, max_steps=1), tmp_path / "o")
