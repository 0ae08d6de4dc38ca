"""Rendered scenes: whole folders are trained on, the default one is drawn, `--data` only read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.train import __main__ as command
from harness.train.scenes import lacking
from tests.fixtures.bad_input import line_of

PAGES, SMALL = {"rounds": 4, "share": 0.1}, {"rounds": 4}
NOTE = {"n": command.SCENES, "seed": command.SCENE_SEED, "rounds": 4, "hd": 0.1}


def scenes(folder: Path, images: int = 2, lines: int = 2, size: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", np.zeros((images, size, size, 3), dtype=np.uint8))
    (folder / "scenes.jsonl").write_text('{"boxes": [], "qa": []}\n' * lines)
    return folder


def note(folder: Path, **values: Any) -> Path:
    (folder / "drawn.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Path]:
    """Where scenes that are drawn so are kept by default."""
    monkeypatch.setattr(command, "BUILD", tmp_path)
    return command.scenes_place


@pytest.fixture
def drawings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were drawn; drawing is made of nothing and quick."""
    found = []

    def write(
        out: Path, n: int, seed: int, workers: int, cache: Path, rounds: int = 1, share: float = 0
    ) -> None:
        (out / "drawn.json").unlink(missing_ok=True)
        found.append(scenes(out))
        if share:
            scenes(out / "16x16", size=16)
        note(out, n=n, seed=seed, rounds=rounds, hd=share)

    monkeypatch.setattr("minidata.train.write", write)
    return found


def whole(folder: Path) -> None:
    scenes(folder / "16x16", size=16)
    note(scenes(folder), **NOTE)


def interrupted(folder: Path) -> None:
    """While the large pages were drawn: those of 192 px are complete."""
    scenes(folder / "16x16", lines=1, size=16)
    scenes(folder)


def pages_removed(folder: Path) -> None:
    """As a message of before told people to."""
    scenes(folder)


def told_but_gone(folder: Path) -> None:
    note(scenes(folder), **NOTE)


def half_a_note(folder: Path) -> None:
    whole(folder)
    (folder / "drawn.json").write_text('{"n": 60')


def cut_short(folder: Path) -> None:
    whole(folder)
    images = folder / "images.npy"
    images.write_bytes(images.read_bytes()[:-5])


@pytest.mark.parametrize(
    "left", [interrupted, pages_removed, told_but_gone, half_a_note, cut_short]
)
def test_what_is_not_whole_is_drawn_again(
    left: Callable[[Path], None],
    place: Callable[..., Path],
    drawings: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = place(PAGES)
    left(folder)
    assert command._scenes(None, PAGES, True) == folder
    assert drawings == [folder] and lacking(folder, True, 0.1) == ""
    assert "not whole and are drawn again" in capsys.readouterr().err
    command._scenes(None, PAGES, True)
    assert drawings == [folder]


def test_what_is_whole_is_not_drawn_again(place: Callable[..., Path], drawings: list[Path]) -> None:
    whole(place(PAGES))
    scenes(place(SMALL))  # of a version that left no note
    scenes(place({}), images=5, lines=5)
    note(place({}), n=5, seed=9, rounds=2)  # a recipe of one's own asks for none in particular
    for drawn in (PAGES, SMALL, {}):
        assert command._scenes(None, drawn, "share" in drawn) == place(drawn)
    assert drawings == []


@pytest.mark.parametrize("other", [{"rounds": 1}, {"n": 100}, {"seed": 2}, {"hd": 0.2}])
def test_scenes_that_were_drawn_otherwise_are_refused(
    other: dict[str, Any], place: Callable[..., Path], drawings: list[Path]
) -> None:
    folder = place(PAGES)
    whole(folder)
    note(folder, **NOTE | other)
    with pytest.raises(UsageError, match="its scenes were drawn with") as caught:
        command._scenes(None, PAGES, True)
    assert "\n" not in str(caught.value) and not drawings
    assert command._scenes(folder, PAGES, True) == folder  # one's own choice


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (lambda folder: None, "no scenes"),
        (lambda folder: folder.mkdir(), "no scenes"),
        (interrupted, "16x16: 2 images but 1 scene lines, so drawing them was interrupted"),
        (half_a_note, "drawn.json: not readable"),
        (cut_short, "not readable as scenes"),
    ],
)
def test_data_is_never_drawn_into(
    left: Callable[[Path], None], said: str, tmp_path: Path, drawings: list[Path]
) -> None:
    folder = tmp_path / "typo"
    left(folder)
    line = line_of(lambda: command._scenes(folder, PAGES, True))
    assert said in line and not drawings
    flags = "--n 60000 --seed 1 --rounds 4 --hd 0.1"
    how = f"(python -m minidata train --out FOLDER {flags} draws scenes)"
    assert line.startswith("--data: ") and line.endswith(how)
    from minidata.__main__ import main as minidata

    with pytest.raises(SystemExit, match="0"):  # those are flags it has
        minidata([*re.findall("-m minidata (.*) draws", line)[0].split(), "--help"])


def test_ones_own_scenes_need_no_note(tmp_path: Path) -> None:
    own = scenes(tmp_path / "own")
    assert command._scenes(own, PAGES, True) == own
    scenes(tmp_path / "large/16x16", size=16)  # large pages alone
    assert command._scenes(tmp_path / "large", {}, True) == tmp_path / "large"
    told_but_gone(own)  # trained at the small sizes, and a line says so
    assert command._scenes(own, PAGES, True) == own
    interrupted(own)
    assert command._scenes(own, SMALL, False) == own  # torn pages that nobody reads


def test_what_drawing_does_not_mend_is_said_once(
    place: Callable[..., Path], drawings: list[Path]
) -> None:
    """Else every command would draw 60,000 scenes again."""
    folder = place(PAGES)
    whole(folder)
    scenes(folder / "32x32", lines=1, size=32)  # of another's drawing
    line = line_of(lambda: command._scenes(None, PAGES, True))
    assert "32x32: 2 images but 1 scene lines" in line and line.endswith("remove it")


def test_two_commands_do_not_draw_into_one_folder(
    place: Callable[..., Path], drawings: list[Path]
) -> None:
    from harness.store.folder import RunLock

    folder = place(SMALL)
    folder.mkdir()
    said = "another process is drawing scenes there"
    with RunLock(folder / "drawing.lock"), pytest.raises(UsageError, match=said):
        command._scenes(None, SMALL, False)
    assert not drawings
    assert command._scenes(None, SMALL, False) == folder and drawings == [folder]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("stage: tune\nstart: nowhere", "start 'nowhere'"),
        ("stage: tune\nstart: assets/tiny-llava\nmodules: first", "modules 'first'"),
        ("stage: align\nstart: assets/tiny-llava\ntower: numbers", "tower 'numbers'"),
        ("stage: align", "tower 'tower'"),
    ],
)
def test_what_a_recipe_builds_on_is_asked_for_before_scenes_are_drawn(
    text: str,
    said: str,
    tmp_path: Path,
    place: Callable[..., Path],
    drawings: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert command.main(["--recipe", str(path), "--work", str(tmp_path / "work")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and "expected the result of an earlier recipe" in line
    assert not drawings


def test_the_benchmark_takes_the_scenes_of_the_shipped_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As its text says, and as the two benchmarks of routers do."""
    from benchmarks import mini_training

    asked = []

    def measure(recipe: Any, data: Path, *more: Any) -> dict[str, Any]:
        asked.append(data)
        return {}

    words = ["x", "--recipe", str(ROOT / "recipes/tiny/dense.yaml"), "--small-pages", "--no-heap"]
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(mini_training, "measure", measure)
    assert mini_training.main() == 0
    assert asked == [command.scenes_place(SMALL)]
