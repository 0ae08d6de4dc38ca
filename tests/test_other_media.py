"""Tasks about videos and sounds are refused before anything is fetched; lists of frames are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.bench.benches import resolve_bench
from harness.bench.media import refuse_other_media
from harness.bench.sources import Source
from harness.bench.tasks_index import TaskFile, index, upstream_folder
from harness.command.cli import main
from harness.common.errors import UsageError
from tests.fixtures.bad_input import line_of

# Tasks, groups and tags of lmms-eval; the second half say nowhere in their files what they are of.
VIDEOS = ["videomme", "videomme_long_w_subtitle", "mvbench", "mvbench_action_count", "egoschema"]
VIDEOS += ["egoschema_subset", "longvideobench_val_v", "longvideobench_val_i", "mlvu_dev"]
VIDEOS += ["mlvu_test", "nextqa", "nextqa_mc_test", "activitynetqa", "timelens_activitynet"]
VIDEOS += ["ssv2", "motionbench_full", "egotempo", "intphys2", "hd_epic_gaze_gaze_estimation"]
VIDEOS += ["minerva", "vrbench_mcq", "rcap_test", "sgqa_test", "ovo_backward"]
SOUNDS = ["librispeech_dev_clean", "mmau_test", "omni_bench", "openslr_librispeech_other"]
IMAGES = ["muirbench", "blink_counting", "mmmu_val", "seedbench", "seedbench_reasoning", "mantis"]
IMAGES += ["mirb", "llava_interleave_bench", "worldvqa", "omnispatial_test", "kaleidoscope_cot"]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What reads or fetches data fails the test."""
    monkeypatch.setattr(Source, "of_task", lambda *_: pytest.fail("the data were asked for"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("data were loaded"))


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.usefixtures("offline")
def test_videos_are_refused_with_what_works(name: str) -> None:
    said = line_of(lambda: resolve_bench(name, "hub"))
    if name != "egoschema":  # a group that wants log-likelihoods too
        assert "is about videos" in said and "a list of frames works" in said


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.usefixtures("offline")
def test_sounds_are_refused(name: str) -> None:
    assert "is about sounds; only tasks about images" in line_of(lambda: resolve_bench(name, "hub"))


@pytest.mark.parametrize("name", IMAGES)
def test_several_images_and_frames_in_a_list_are_images(name: str) -> None:
    """No error is raised, and the task resolves."""
    refuse_other_media(index(upstream_folder())[name])
    assert resolve_bench(name, "hub").tasks


@pytest.mark.usefixtures("offline")
def test_the_command_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    argv = ["--methods", "fastv", "--bench", "gqa,ssv2", "--data", "hub", "--out", str(out)]
    assert main(argv) == 2 and not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "task 'ssv2' is about videos" in line


def test_code_is_read_where_a_task_says_nothing(tmp_path: Path) -> None:
    """Helpers are followed, docstrings and other functions are not."""
    (tmp_path / "utils.py").write_text(
        '"""A video bench, once."""\n'
        'ENDING = ".mp4"\n'
        "def path(doc):\n    return doc['clip'] + ENDING\n"
        "def clip(doc):\n    return [path(doc)]\n"
        'def frames(doc):\n    """Frames of a video."""\n    return doc["frames"]\n'
    )
    for function, refused in (("clip", True), ("frames", False), ("absent", False)):
        file = tmp_path / f"{function}.yaml"
        file.write_text(f"task: own\ndoc_to_visual: !function utils.{function}\n")
        task = TaskFile("own", "task", file)
        if refused:
            with pytest.raises(UsageError, match="'own' is about videos"):
                refuse_other_media(task)
        else:
            refuse_other_media(task)
