"""The mini benchmarks: schema, boxes, and upstream's own prompts and scores on them."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.bench.tasks_index import read_task
from minidata import BENCHES, HD_BENCHES, IMAGE_SIZE, charts, scene, tasks, vocab
from minidata.identity import EARLIER, LADDER, current, named
from minidata.rows import digest, read

COLUMNS = {
    "gqa": "id imageId question answer image",
    "textvqa": "image_id question_id question answers ocr_tokens image",
    "scienceqa": "question choices answer hint image",
    "pope": "id question_id question answer image category",
    "chartqa": "type question answer image",
    "docvqa": "questionId question answers docId image",
}
RENAMED = {"textvqa": "textvqa_val", "scienceqa": "scienceqa_img", "docvqa": "docvqa_val"}
MAIN_METRIC = {
    "gqa": "exact_match",
    "textvqa": "exact_match",
    "scienceqa": "exact_match",
    "pope": "pope_accuracy",
    "chartqa": "relaxed_overall",
    "docvqa": "anls",
}
MIB = 1 << 20
Docs = dict[str, list[dict[str, Any]]]
each_bench = pytest.mark.parametrize("bench", BENCHES)


@pytest.fixture(scope="module")
def rows() -> Docs:
    return {b: read(tasks.data_files(b)).to_pylist() for b in BENCHES}


def answer_of(bench: str, row: dict[str, Any]) -> str:
    if bench == "scienceqa":
        return chr(ord("A") + row["answer"])
    return str(row["answers"][0] if bench in ("textvqa", "docvqa") else row["answer"])


@each_bench
def test_schema_size_and_answers(bench: str, rows: Docs) -> None:
    docs = rows[bench]
    assert len(docs) == LADDER[-1] == 2000
    assert {*COLUMNS[bench].split(), "scene_id", "boxes", "template", "evidence"} <= set(docs[0])
    assert all(1 <= len(answer_of(bench, r).split()) <= 3 for r in docs)
    assert bench != "textvqa" or all(len(r["answers"]) == 10 for r in docs)
    if bench == "scienceqa":
        assert all(len(set(r["choices"])) == len(r["choices"]) >= 3 for r in docs)
    if bench == "pope":
        for n in LADDER:
            assert sum(r["answer"] == "yes" for r in docs[:n]) == n // 2
    if bench == "gqa":
        assert sum(r["answer"] in ("yes", "no") for r in docs) <= 0.3 * len(docs)
    assert all(scene.is_test(r["scene_id"]) for r in docs)
    # no question is asked twice about one scene
    assert len({(r["scene_id"], r["question"]) for r in docs}) == len(docs)


@each_bench
def test_boxes_and_pictures(bench: str, rows: Docs) -> None:
    for row in rows[bench]:
        boxes = json.loads(row["boxes"])
        assert boxes
        for box in boxes:
            x0, y0, x1, y1 = box["box"]
            assert 0 <= x0 < x1 <= IMAGE_SIZE, box
            assert 0 <= y0 < y1 <= IMAGE_SIZE, box
            if box["kind"] == "word":
                assert len(box["chars"]) >= len(box["label"])
                assert all(a < b for a, b in box["chars"])
                assert box["chars"][0][0] >= x0 - 3
                # boxes end at the picture's edge, where a chart's last label may lose a stroke
                assert box["chars"][-1][1] <= x1 + (charts.SPILL if x1 == IMAGE_SIZE else 3)
        assert all(0 <= i < len(boxes) for i in row["evidence"])
        if row["template"] != "absent":
            assert row["evidence"]
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert picture.size == (IMAGE_SIZE, IMAGE_SIZE)


def derived(bench: str, row: dict[str, Any]) -> str | None:
    """The answer, found again from the stored boxes alone by other code than the generator's."""
    boxes = json.loads(row["boxes"])
    labels = [b["label"] for b in boxes]
    marks = {b["label"]: b["attrs"]["value"] for b in boxes if b["kind"] == "mark"}
    last = row["question"].removesuffix(" in the image?").rstrip("?").split()[-1]
    if bench == "pope":
        return "yes" if last in labels else "no"
    match row["template"]:
        case "what_at":
            cell = vocab.PLACES.index(row["question"][len("What is in the ") : -1])
            return next(str(b["label"]) for b in boxes if b["attrs"]["cell"] == cell)
        case "color_of":
            return str(boxes[labels.index(last)]["attrs"]["color"])
        case "value":
            return str(marks[last])
        case "highest":
            return max(marks, key=marks.__getitem__)
    return None


def test_answers_agree_with_the_boxes(rows: Docs) -> None:
    again = [(derived(b, r), answer_of(b, r)) for b in ("gqa", "pope", "chartqa") for r in rows[b]]
    known = [(mine, theirs) for mine, theirs in again if mine is not None]
    assert len(known) > 2600
    assert all(mine == theirs for mine, theirs in known)
    for bench in ("textvqa", "docvqa"):
        for row in rows[bench]:
            shown = {b["label"] for b in json.loads(row["boxes"])} | set(vocab.COLORS)
            assert answer_of(bench, row) in shown


def test_the_manifest_pins_the_files_and_the_size() -> None:
    root = tasks.folder().parent
    manifest = json.loads((root / "manifest.json").read_text())
    assert set(manifest["files"]) == {*BENCHES, *HD_BENCHES}
    for entry in (manifest["pictures"], *manifest["files"].values()):
        data = (root / entry["path"]).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["bytes"], entry["sha256"])
    for bench, entry in manifest["files"].items():
        assert root / entry["path"] == tasks.data_file(bench)
        table = read(tasks.data_files(bench))
        assert entry["first"] == {
            str(n): digest(table, n) for n in LADDER if n <= entry["documents"]
        }
    assert sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) <= 36 * MIB


@each_bench
def test_the_rows_begin_with_those_that_shipped_before(bench: str, tmp_path: Path) -> None:
    """With their pictures: results on them stay comparable, and are told apart where not."""
    files = tasks.data_files(bench)
    table = read(files)
    for earlier in EARLIER[bench]:
        assert digest(table, earlier.documents) == earlier.digest
        assert current(bench, earlier.name) == named(files) != earlier.name
    assert current(bench, "another.parquet@0") == "another.parquet@0"
    others = tasks.data_files(bench, tmp_path)
    for path, shipped in zip(others, files, strict=True):
        path.parent.mkdir()
        path.write_bytes(shipped.read_bytes())
    pq.write_table(pq.read_table(files[0]).slice(2), others[0])  # its beginning lost
    assert current(bench, earlier.name, tmp_path) == earlier.name
    pq.write_table(pq.read_table(files[0]).slice(0, 500), others[0])
    part = read(others)
    assert digest(part) == digest(table, 500) == digest(part, 2000)
    assert digest(part, 499) != digest(table, 500) != digest(table)


def test_the_shipped_task_files_are_what_the_code_writes(tmp_path: Path) -> None:
    for path in tasks.write(tmp_path):
        shipped = tasks.folder() / path.relative_to(tmp_path)
        assert shipped.read_text() == path.read_text()
    for path in tasks.write(tmp_path / "absolute", tasks.folder().parent):
        (files,) = read_task(path)["dataset_kwargs"]["data_files"].values()
        assert list(map(Path, [files] if isinstance(files, str) else files)) == tasks.data_files(
            path.parent.name
        )


# --- upstream's own code on the shipped data


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The six tasks through lmms-eval's task manager, from another working directory, offline."""
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        from lmms_eval.tasks import TaskManager, get_task_dict

        manager = TaskManager(include_path=str(tasks.folder()), include_defaults=False)
        names = [tasks.task_name(b) for b in BENCHES]
        found = get_task_dict(names, manager)
        return {b: found[tasks.task_name(b)] for b in BENCHES}


@each_bench
def test_task_loads_offline(bench: str, loaded: dict[str, Any], rows: Docs) -> None:
    task = loaded[bench]
    assert task.has_test_docs()
    table = task.test_docs().with_format("arrow")[:]  # pictures as they are stored
    assert table.column_names == list(rows[bench][0]) and table.to_pylist() == rows[bench]
    assert "image" not in task.test_docs_no_media().column_names
    visuals = task.doc_to_visual(task.test_docs()[0])
    assert [v.size for v in visuals] == [(IMAGE_SIZE, IMAGE_SIZE)]
    assert visuals[0].mode == "RGB"


@each_bench
def test_upstream_prompt_is_the_training_prompt(bench: str, loaded: dict[str, Any]) -> None:
    """The generator's `prompt`, used in training, is upstream's doc_to_text to the letter."""
    task = loaded[bench]
    for doc in task.test_docs().select(range(0, 2000, 100)):
        own = scene.Question(bench, "", doc["question"], "", list(doc.get("choices") or []))
        assert task.doc_to_text(doc) == own.prompt


@each_bench
def test_upstream_scores_right_and_wrong(bench: str, loaded: dict[str, Any], rows: Docs) -> None:
    task, metric, docs = loaded[bench], MAIN_METRIC[bench], loaded[bench].test_docs()

    def score(doc: dict[str, Any], said: str) -> float:
        value = task.process_results(doc, [said])[metric]
        return float(value["score"] if isinstance(value, dict) else value)

    for i in range(0, len(docs), 4):
        row = rows[bench][i]
        right = answer_of(bench, row)
        assert score(docs[i], right) == pytest.approx(1.0), row["question"]
        wrong = {"yes": "no", "no": "yes"}.get(right, "xqzkjwvyf")
        assert score(docs[i], wrong) == 0.0, row["question"]


@each_bench
def test_task_file_agrees_with_upstreams(bench: str, loaded: dict[str, Any]) -> None:
    """Everything but the data source equals the installed upstream task."""
    import lmms_eval.tasks
    from lmms_eval.utils import load_yaml_config

    root = Path(lmms_eval.tasks.__file__).parent / bench
    theirs = next(
        y
        for y in (load_yaml_config(str(p)) for p in sorted(root.glob("*.yaml")))
        if y.get("task") == RENAMED.get(bench, bench)
    )
    ours = load_yaml_config(str(tasks.folder() / bench / f"{tasks.task_name(bench)}.yaml"))

    def plain(value: Any) -> Any:
        """Functions by name: YAML's relative loading makes another module object of the same."""
        return json.loads(json.dumps(value, default=lambda function: function.__name__))

    for key in (
        "test_split",
        "output_type",
        "doc_to_visual",
        "doc_to_text",
        "doc_to_target",
        "generation_kwargs",
        "metric_list",
        "process_results",
    ):
        assert plain(ours.get(key)) == plain(theirs.get(key)), key
    for key, value in theirs["lmms_eval_specific_kwargs"]["default"].items():
        assert ours["lmms_eval_specific_kwargs"]["default"][key] == value
    assert ours["metadata"] == [{"version": tasks.VERSION}]
