"""Mini benchmarks on large pages: the shipped documents, and how they are asked and listed."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.bench.benches import resolve_bench
from harness.train.__main__ import SCENE_SEED
from minidata import BENCHES, HD_BENCHES, build, hd, scene, sources, tasks, vocab
from minidata.rows import read
from tests.fixtures.bad_input import line_of
from tests.test_minidata import COLUMNS, MAIN_METRIC, answer_of

each_bench = pytest.mark.parametrize("bench", HD_BENCHES)
Row = dict[str, Any]


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return {b: read(tasks.data_files(b)).to_pylist() for b in HD_BENCHES}


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
        small = letters(read(tasks.data_files(tasks.upstream(bench))).slice(0, 200).to_pylist())
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


# --- the real material
@pytest.mark.network
@pytest.mark.parametrize("bench", BENCHES + HD_BENCHES)
def test_the_generator_gives_the_shipped_documents_and_pixels(bench: str) -> None:
    """Boxes, questions and pictures; the stored ones have gone through JPEG."""
    from minidata import bench as writer
    from minidata.__main__ import DEFAULT_CACHE

    seed = json.loads((tasks.folder().parent / "manifest.json").read_text())["seed"]
    real = sources.load(DEFAULT_CACHE)
    stored = read(tasks.data_files(bench)).slice(0, 40).to_pylist()
    for made, kept in zip(writer.documents(bench, seed, 40, real), stored, strict=True):
        for key in set(made) - {"image"}:
            assert made[key] == kept[key], key
        one, two = (
            np.asarray(Image.open(io.BytesIO(r["image"]["bytes"])), np.int16) for r in (made, kept)
        )
        assert one.shape == two.shape and np.abs(one - two).max() <= 2  # decoders round
