"""YAML files that people write: hostile ones are refused in a line and at once, by every reader."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.common.yamlfile import read_mapping
from harness.minimodel.recipe import Recipe
from harness.train.__main__ import main as train

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "alias bomb": (BOMB, "line 2: an alias (*a)"),
    "a value inside itself": ("methods: &a [*a]", "an alias (*a)"),
    "20,000 brackets": ("methods: " + "[" * 20_000, "nested deeper"),
    "10,000 braces": ("methods: " + "{a: " * 10_000, "nested deeper"),
    "20,000 dashes": ("methods:\n  " + "- " * 20_000, "nested deeper"),
    "a key twice": ("limit: 1\nbench: gqa\nlimit: 2\n", "line 3: the key 'limit' stands twice"),
    "a key twice, inside": ("checkpoint: {pmod: a, pmod: b}", "the key 'pmod' stands twice"),
    "NUL": ("methods: a\0b", "#x0000"),
    "not UTF-8": (b"methods: \xff\xfe", "not UTF-8 text (byte 9)"),
    "half a character": (r'methods: "\udfff"', "half a character"),
    "NUL, escaped": (r'methods: "\0.py"', "a NUL"),
    "huge": ("# long\n" * 1_000_000, "longer than 64 KiB"),
    "5,000 digits": ("limit: " + "9" * 5_000, "holds no plain value"),
    "a tag that does not fit": ("limit: !!timestamp x", "holds no plain value"),
    "code": ("limit: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "a list as key": ("? [a]\n: b", "unhashable"),
    "a number as key": ("1: 2", "the key '1' is no text"),
    "two documents": ("methods: a\n---\nbench: b", "another document"),
    "nothing": ("", "expected `key: value` lines"),
}


@pytest.mark.parametrize(("content", "said"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("reader", ["suite", "recipe", "estimate"])
def test_hostile_files_get_one_line_at_once(
    reader: str,
    content: str | bytes,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    out = str(tmp_path / "out")
    began = time.process_time()
    if reader == "suite":
        code = main(["--suite", str(file), "--out", out])
    else:
        more = ["--estimate"] if reader == "estimate" else []
        code = train(["--recipe", str(file), "--out", out, *more])
    assert time.process_time() - began < 3  # of CPU; the imports of a first call among them
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert said in line and "mine.yaml" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a file"):
        read_mapping(tmp_path)
    with pytest.raises(UsageError, match="is not a file"):
        read_mapping(Path("/dev/zero"))
    with pytest.raises(UsageError, match="No such file"):
        read_mapping(tmp_path / "none.yaml")


def test_numbers_are_what_they_look_like(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("a: 1e-3\nb: 010\nc: 1:30\nd: 2024-01-02\ne: -1.5\nf: 12\ng: .5\nh: 1_0\n")
    found = read_mapping(file)
    texts = {"b": "010", "c": "1:30", "d": "2024-01-02", "h": "1_0"}
    assert found == {"a": 1e-3, **texts, "e": -1.5, "f": 12, "g": 0.5}
    assert type(found["f"]) is int


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("batch: many", "batch: 'many': .*integer"),
        ("batch: 1.5", "batch: 1.5: .*integer"),
        ("learning_rate: nan", "learning_rate: nan is not a finite number"),
        ("stages: pmod", "stages: 'pmod': .*tuple"),
        ("families: {ocr: much}", "families.ocr: 'much': .*number"),
        ("bf16: perhaps", "bf16: 'perhaps' is no bool"),
        ("start: [a]", "start: .*string"),
    ],
)
def test_a_recipe_s_values_have_their_field_s_type(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"stage: tune\n{line}\n")
    with pytest.raises(UsageError, match=said):
        Recipe.load(file)
