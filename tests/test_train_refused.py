"""Recipes that cannot be: one line each."""

from __future__ import annotations

import pytest

from harness.common.errors import UsageError
from tests import train_tools as tools


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
