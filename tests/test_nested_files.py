"""Files of 20,000 brackets, wherever a file of others is read: one line, no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.families.catalog import config_for
from harness.model.catalog import read_config
from harness.model.checkpoints import CheckpointError, read_meta
from harness.model.weights import weight_files
from harness.store.folder import read_run_json
from harness.train.estimate import load_recipe
from tests.fixtures.bad_input import line_of

DEEP = "[" * 20_000
READERS: list[tuple[str, Callable[[Path], object]]] = [
    ("config.json", read_config),
    ("config.json", lambda folder: config_for(str(folder))),
    ("model.safetensors.index.json", weight_files),
    ("run.json", read_run_json),
    ("recipe.yaml", lambda folder: load_recipe(folder / "recipe.yaml")),
]


@pytest.mark.parametrize(("name", "reader"), READERS)
def test_a_deeply_nested_file_is_one_line(
    tmp_path: Path, name: str, reader: Callable[[Path], object]
) -> None:
    (tmp_path / name).write_text(DEEP)
    assert name in line_of(lambda: reader(tmp_path))


def test_a_deeply_nested_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "method.json").write_text(DEEP)
    with pytest.raises(CheckpointError, match="nested too deeply"):
        read_meta(tmp_path)
