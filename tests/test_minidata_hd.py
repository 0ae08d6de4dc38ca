"""Mini benchmarks and training scenes on large pages: shipped documents, drawing, storage."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.bench.benches import resolve_bench
from harness.common.errors import UsageError
from harness.minimodel.scenes import Scenes
from harness.minimodel.sizes import SizedScenes
from harness.train.__main__ import SCENE_SEED
from minidata import BENCHES, HD_BENCHES, IMAGE_SIZE, build, hd, scene, sources, tasks, vocab
from minidata.__main__ import main
from tests.fixtures.bad_input import line_of
from tests.fixtures.drawing import made_up_pack
from tests.test_minidata import COLUMNS, MAIN_METRIC, answer_of

each_bench = pytest.mark.parametrize("bench", HD_BENCHES)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {b: pq.read_table(tasks.data_file(b)).to_pylist() for b in HD_BENCHES}


@pytest.fixture(scope="module")
def pack() -> sources.Pack:
    return made_up_pack()


# --- the shipped documents
@each_bench
def test_documents_have_upstreams_columns_and_large_pages(
    bench: str, rows: dict[str, list[Row]]
) -> None:
    docs = rows[bench]
    assert len(docs) == 500
    wanted = {*COLUMNS[tasks.upstream(bench)].split(), "scene_id", "boxes", "template", "evidence"}
    assert wanted <= set(docs[0])
    assert all(scene.is_test(row["scene_id"]) for row in docs)
    assert len({(row["scene_id"], row["question"]) for row in docs}) == len(docs)
    sizes = Counter()
    for row in docs:
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        sizes[picture.size] += 1
        boxes = json.loads(row["boxes"])
        for box in boxes:
            x0, y0, x1, y1 = box["box"]
            assert 0 <= x0 < x1 <= picture.width and 0 <= y0 < y1 <= picture.height, box
        if bench == "textvqa_hd":
            assert (row["image_width"], row["image_height"]) == picture.size
        assert row["evidence"] and all(0 <= i < len(boxes) for i in row["evidence"])
    assert set(sizes) == set(hd.PAGES)
    assert all(384 <= side <= 768 for size in sizes for side in size)
    assert min(sizes.values()) > 60  # of 500 in six sizes


def test_words_are_as_large_as_in_the_small_pictures(rows: dict[str, list[Row]]) -> None:
    """Mean width of a letter, in pixels, by kind of word: the page grows and the letters do not."""

    def letters(docs: list[Row]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for row in docs:
            for box in json.loads(row["boxes"]):
                if box["kind"] == "word":
                    widths = [b - a for a, b in box["chars"]]
                    found.setdefault(str(box["attrs"].get("role")), []).extend(widths)
        return {role: float(np.mean(widths)) for role, widths in found.items()}

    for bench, docs in rows.items():
        large = letters(docs)
        small = letters(pq.read_table(tasks.data_file(tasks.upstream(bench))).to_pylist()[:200])
        shared = large.keys() & small.keys()
        assert shared
        for role in shared - {"category", "shop"}:  # which words they are moves the mean
            assert large[role] == pytest.approx(small[role], rel=0.15), (bench, role)


def derived(row: Row) -> str | None:
    """The answer, found again from boxes alone by other code than the generator's."""
    boxes = json.loads(row["boxes"])
    asked = row["question"].rstrip("?")
    last = asked.split()[-1]
    words = [b for b in boxes if b["kind"] == "word"]
    marks = {b["label"]: b["attrs"] for b in boxes if b["kind"] == "mark"}
    role = {b["attrs"].get("role"): b["label"] for b in words}
    price = {b["attrs"]["item"]: b["label"] for b in words if b["attrs"].get("role") == "price"}
    match row["template"]:
        case "value":
            return str(marks[asked.removeprefix("What is the value of ")]["value"])
        case "highest":
            return max(marks, key=lambda name: marks[name]["value"])
        case "lowest":
            return min(marks, key=lambda name: marks[name]["value"])
        case "count":
            return str(len(marks))
        case "larger":
            one, other = asked.removeprefix("Is ").split(" larger than ")
            return "yes" if marks[one]["value"] > marks[other]["value"] else "no"
        case "by_color":
            (name,) = [n for n, a in marks.items() if a["color"] == asked.split()[-2]]
            return str(name)
        case "price":
            return str(price[last])
        case "which":
            (name,) = [n for n, p in price.items() if p == last]
            return str(name)
        case "line":
            items = sorted((b["box"][1], b["label"]) for b in words if b["attrs"]["role"] == "item")
            return str(items[int(last) - 1][1])
        case "total":
            return f"{sum(map(float, price.values())):.2f}".removesuffix(".00")
        case "on_color":
            (sign,) = [b for b in words if b["attrs"]["color"] == asked.split()[-2]]
            return str(sign["label"])
        case "place" | "beside" | "below_word":
            return _by_place(row, boxes, words)
        case template if template.startswith("form_"):
            return str(role[last])
    return None


def middle(box: Row) -> tuple[float, float]:
    x0, y0, x1, y1 = box["box"]
    return (x0 + x1) / 2, (y0 + y1) / 2


def _by_place(row: Row, boxes: list[Row], words: list[Row]) -> str:
    """The nearest sign beside or below, or the only one whose middle lies in a ninth."""
    asked = row["question"].rstrip("?")
    if row["template"] == "place":
        width, height = row["image_width"], row["image_height"]
        cell = vocab.PLACES.index(asked.removeprefix("What word is in the "))
        found = [
            b
            for b in words
            for x, y in [middle(b)]
            if cell == int(3 * y / height) * 3 + int(3 * x / width)
        ]
        assert len(found) == 1
        return str(found[0]["label"])
    if row["template"] == "beside":
        kind = asked.removeprefix("What does the sign next to the ").removesuffix(" say")
        (thing,) = [b for b in boxes if b["kind"] == "object" and b["label"] == kind]

        def apart(b: Row) -> float:
            side = max(b["box"][0] - thing["box"][2], thing["box"][0] - b["box"][2])
            return abs(middle(b)[1] - middle(thing)[1]) * 4 + max(side, 0)

        return str(min(words, key=apart)["label"])
    above = next(b for b in words if b["label"] == asked.split()[-1])
    left, _, right, low = above["box"]
    below = [
        b
        for b in words
        if low < middle(b)[1] < low + 128 and b["box"][0] < right and left < b["box"][2]
    ]
    return str(min(below, key=lambda b: b["box"][1])["label"])


@each_bench
def test_answers_agree_with_the_boxes(bench: str, rows: dict[str, list[Row]]) -> None:
    upstream, known = tasks.upstream(bench), 0
    for row in rows[bench]:
        said, answer = derived(row), answer_of(upstream, row)
        known += said is not None
        assert said in (None, answer), row["question"]
        boxes = json.loads(row["boxes"])
        shown = {b["label"] for b in boxes} | set(vocab.COLORS)
        assert upstream == "chartqa" or answer in shown
    assert known > 300


def test_no_composition_is_in_both_splits(rows: dict[str, list[Row]]) -> None:
    def composed(family: str, test: bool, count: int) -> set[str]:
        return {
            build.compose(seed, i, test, None, family, hd.page_of(i))[0]
            for seed in (SCENE_SEED, 7)
            for i in range(count)
        }

    shipped = {r["scene_id"] for docs in rows.values() for r in docs}
    for family in ("text", "doc"):
        train, test = composed(family, False, 300), composed(family, True, 60)
        assert len(train) == 600 and len(test & shipped) == 60  # seed 7 made what ships
        assert not train & (test | shipped)


# --- as benches
@each_bench
def test_tasks_are_those_of_the_small_pictures_on_other_data(bench: str) -> None:
    """Word for word, but for the name and the file; those are held against upstream's."""

    def text(name: str) -> str:
        return (tasks.folder() / name / f"{tasks.task_name(name)}.yaml").read_text()

    small = tasks.upstream(bench)
    renamed = text(bench).replace(tasks.task_name(bench), tasks.task_name(small))
    assert renamed.replace(f"../{bench}/", f"../{small}/") == text(small)


@each_bench
def test_upstream_asks_and_scores(bench: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from lmms_eval.tasks import TaskManager, get_task_dict

    name, upstream = tasks.task_name(bench), tasks.upstream(bench)
    manager = TaskManager(include_path=str(tasks.folder()), include_defaults=False)
    task = get_task_dict([name], manager)[name]
    for doc in task.test_docs().select(range(0, 500, 50)):
        assert task.doc_to_visual(doc)[0].size in hd.PAGES
        own = scene.Question(upstream, "", doc["question"], "")
        assert task.doc_to_text(doc) == own.prompt
        for said, expected in ((answer_of(upstream, doc), 1.0), ("xqzkjwvyf", 0.0)):
            value = task.process_results(doc, [said])[MAIN_METRIC[upstream]]
            assert (value["score"] if isinstance(value, dict) else value) == expected


@each_bench
def test_a_drawn_bench_is_mini_whatever_the_model(bench: str) -> None:
    for data, mini_model in (("auto", True), ("auto", False), ("mini", False)):
        found = resolve_bench(bench, data, mini_model)
        assert (found.data, found.documents) == ("mini", 500)
        assert found.metric == MAIN_METRIC[tasks.upstream(bench)]
    line = line_of(lambda: resolve_bench(bench, "hub"))
    assert f"'{bench}'" in line and "--data mini" in line and tasks.upstream(bench) in line


def test_the_listing_says_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from harness.command.cli import main as suite

    assert suite(["--list", "benches"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert all(" mini  " in lines[b] and "384 to 768 px" in lines[b] for b in HD_BENCHES)
    assert all("lost where a model shrinks" in lines[b] for b in HD_BENCHES)


# --- drawing, without the source packages
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


# --- the real material
@pytest.mark.network
@pytest.mark.parametrize("bench", BENCHES + HD_BENCHES)
def test_the_generator_gives_the_shipped_documents_and_pixels(bench: str) -> None:
    """Boxes, questions and pictures; the stored ones have gone through JPEG."""
    from minidata import bench as writer
    from minidata.__main__ import DEFAULT_CACHE

    seed = json.loads((tasks.folder().parent / "manifest.json").read_text())["seed"]
    real = sources.load(DEFAULT_CACHE)
    stored = pq.read_table(tasks.data_file(bench)).slice(0, 40).to_pylist()
    for made, kept in zip(writer.documents(bench, seed, 40, real), stored, strict=True):
        for key in set(made) - {"image"}:
            assert made[key] == kept[key], key
        one, two = (
            np.asarray(Image.open(io.BytesIO(r["image"]["bytes"])), np.int16) for r in (made, kept)
        )
        assert one.shape == two.shape and np.abs(one - two).max() <= 2  # decoders round
