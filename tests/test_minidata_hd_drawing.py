"""Large pages: drawing them without the source packages, and training scenes of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.common.errors import UsageError
from harness.minimodel.scenes import Scenes
from harness.minimodel.sizes import SizedScenes
from minidata import IMAGE_SIZE, build, hd, scene, sources
from minidata.__main__ import main
from tests.fixtures.drawing import made_up_pack


@pytest.fixture(scope="module")
def pack() -> sources.Pack:
    return made_up_pack()


@pytest.mark.parametrize("family", hd.SHARES)
def test_pages_are_full_and_repeat(family: str, pack: sources.Pack) -> None:
    marks = []
    for i in range(24):
        page = hd.page_of(i)
        shown = build.make(3, i, False, pack, family, page=page)
        again = build.make(3, i, False, pack, family, page=page)
        assert shown.image.size == page and shown.image.tobytes() == again.image.tobytes()
        assert shown.questions == again.questions and shown.boxes == again.boxes
        assert len(shown.boxes) >= {"text": 4, "chart": 16, "doc": 20}[family]
        for box in shown.boxes:
            x0, y0, x1, y1 = box.box
            assert 0 <= x0 < x1 <= page[0] and 0 <= y0 < y1 <= page[1], box
        words = [b.box for b in shown.boxes if b.kind == "word"]
        if family != "chart":  # there a number may stand on a bar's edge
            for n, a in enumerate(words):
                assert not any(
                    a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
                    for b in words[n + 1 :]
                )
        assert all(q.evidence and q.prompt for q in shown.questions)
        marks.append(sum(b.kind == "mark" for b in shown.boxes))
    assert family != "chart" or (min(marks) >= 8 and max(marks) > 12)


def test_a_bar_of_several_series_is_found_by_category_and_legend(pack: sources.Pack) -> None:
    found = 0
    for i in range(40):
        shown = build.make(5, i, False, pack, "chart", page=hd.page_of(i))
        legend = {b.label: n for n, b in enumerate(shown.boxes) if b.attrs.get("role") == "legend"}
        for q in shown.questions if legend else ():
            if q.template == "value":
                category, series = q.question[len("What is the value of ") : -1].split()
                at = {shown.boxes[n].label for n in q.evidence if n != legend[series]}
                assert legend[series] in q.evidence
                assert category in at and f"{category} {series}" in at
                found += 1
    assert found > 10


# --- training scenes
@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, pack: sources.Pack) -> Callable[..., int]:
    """`python -m minidata train` with made-up material, in this process."""
    monkeypatch.setattr(sources, "download", lambda cache: {})
    monkeypatch.setattr(sources, "load", lambda cache: pack)
    return lambda out, *words: main(["train", "--out", str(out), "--workers", "1", *words])


def test_a_share_of_the_scenes_lies_in_a_folder_a_size(drawn: Any, tmp_path: Path) -> None:
    assert drawn(tmp_path / "all", "--n", "20", "--hd", "0.4") == 0
    assert drawn(tmp_path / "small", "--n", "12") == 0
    for name in ("images.npy", "scenes.jsonl"):  # the small ones are those there are without
        one, two = ((tmp_path / d / name).read_bytes() for d in ("all", "small"))
        assert one == two
    folders = sorted(p.name for p in (tmp_path / "all").iterdir() if p.is_dir())
    assert folders == sorted(f"{h}x{w}" for w, h in hd.PAGES)
    found = SizedScenes(tmp_path / "all")
    assert len(found) == 20 and len(found.images) == 20
    assert found.size(0) == (IMAGE_SIZE, IMAGE_SIZE) and len(found.parts) == 7
    for i, record in enumerate(found.records):
        size = found.size(i)
        part, row = found.parts[size], i - found.start[size]
        assert found.images[i].shape == (*size, 3)
        assert np.array_equal(found.images[i], part.images[row])
        assert record == part.records[row] and not scene.is_test(record["scene_id"])
    alone = Scenes(tmp_path / "all" / "384x576")
    assert alone.images.shape[1:] == (384, 576, 3) and len(alone) == len(alone.images) >= 1
    assert len(found.prompts()) == sum(len(r["qa"]) for r in found.records) > 100
    assert set(found.pick(20, {"doc": 2.0}, 0)) == {
        i for i, r in enumerate(found.records) if r["family"] == "doc"
    }


def test_all_scenes_may_be_large(drawn: Any, tmp_path: Path) -> None:
    assert drawn(tmp_path, "--n", "7", "--hd", "1") == 0
    assert not (tmp_path / "images.npy").exists()
    assert len(SizedScenes(tmp_path)) == 7
    assert len(SizedScenes(tmp_path).parts) == 6


def test_wrong_words_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["train", "--hd", "3"], "'3' is not a share from 0 to 1"),
        (["sheet", "--hd", "--family", "objects"], "no large pages of objects"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--out", str(tmp_path)])
        assert stop.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(UsageError, match="no scenes"):
        SizedScenes(tmp_path)
    (tmp_path / "10x20").mkdir()
    np.save(tmp_path / "10x20" / "images.npy", np.zeros((1, 20, 10, 3), np.uint8))
    (tmp_path / "10x20" / "scenes.jsonl").write_text('{"family": "doc"}\n')
    with pytest.raises(UsageError, match="its pictures are 20x10"):
        SizedScenes(tmp_path)
