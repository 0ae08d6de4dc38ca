"""How own rows are asked and scored, against lmms-eval's functions; own task files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import methods
from harness.bench.benches import Bench, resolve_bench
from harness.bench.loop import evaluate
from harness.bench.own.task import doc_to_text, doc_to_visual, process_results
from harness.model.catalog import load_model
from harness.model.session import Session
from harness.readouts.stored import ANSWERS
from harness.store.samples import Samples
from tests.fixtures.bad_input import line_of

DENSE = methods.parse("dense")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "a.png")
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "b.png")
    return tmp_path


@pytest.fixture(scope="module")
def loaded() -> Session:
    return load_model("tiny-llava", "cpu")


def doc(folder: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    """The last of some rows as lmms-eval has it."""
    path = folder / "q.json"
    full = [{"image": "a.png", "question": "What?", "id": str(n), **r} for n, r in enumerate(rows)]
    path.write_text(json.dumps(full))
    return dict(resolve_bench(str(path)).dataset()["test"][-1])


# --- scores ---------------------------------------------------------------------------------
TEN = ["red"] * 2 + ["dark red"] * 7 + ["blue"]
CHOICES = {"choices": ["a cat", "a dog", "a bird"], "answer": "B"}
MANY = {"choices": list("vwxyz"), "answer": "z"}
BY_HAND = [  # row, answer, score worked out by hand
    ({"answers": ["Red", "crimson"]}, "red.", 1.0),
    ({"answers": ["Red", "crimson"]}, "dark red", 0.0),
    ({"answers": TEN, "metric": "vqa"}, "dark red", 1.0),
    ({"answers": TEN, "metric": "vqa"}, "Red", (2 * 1 / 3 + 8 * 2 / 3) / 10),
    ({"answers": TEN, "metric": "vqa"}, "blue", 9 / 30),
    ({"answers": ["invoice", "bill"], "metric": "anls"}, "invoise", 1 - 1 / 7),
    ({"answers": ["invoice"], "metric": "anls"}, "no", 0.0),
    ({"answer": 100, "metric": "relaxed"}, "105", 1.0),
    ({"answer": 100, "metric": "relaxed"}, "106", 0.0),
    ({"answers": ["12", "twelve"], "metric": "relaxed"}, "Twelve", 1.0),
    ({"answers": ["EXIT"], "metric": "contains"}, "it says exit here", 1.0),
    ({"answers": ["EXIT"], "metric": "contains"}, "it says nothing", 0.0),
    (CHOICES, "B", 1.0),
    (CHOICES, "(B).", 1.0),
    (CHOICES, "It is a dog", 1.0),
    (CHOICES, "Birds", 0.0),  # a capital inside a word is no letter
    (CHOICES, "", 0.0),
    (MANY, "E", 1.0),
    (MANY, "it is z", 0.0),  # of more than four choices letters alone are read
]


@pytest.mark.parametrize(("row", "answer", "score"), BY_HAND)
def test_scores_by_hand(folder: Path, row: dict[str, Any], answer: str, score: float) -> None:
    (found,) = process_results(doc(folder, row), [answer]).values()
    assert found == pytest.approx(score)


def test_scores_are_those_of_lmms_eval(folder: Path) -> None:
    from lmms_eval.api.metrics import anls
    from lmms_eval.tasks.chartqa.utils import chartqa_process_results
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    for answer in ("dark red", "red", "5%", "0.05", "", "The RED one", "12,5"):
        right = "red" if "e" in answer else "0.052"
        rows = {
            "vqa": (TEN, textvqa_process_results({"answers": [*TEN], "question_id": 0}, [answer])),
            "anls": ([right], anls(references=[right], predictions=[answer])),
            "relaxed": (
                [right],
                chartqa_process_results({"answer": right, "type": "human_test"}, [answer]),
            ),
        }
        for metric, (answers, theirs) in rows.items():
            ours = process_results(doc(folder, {"answers": answers, "metric": metric}), [answer])
            assert [*ours.values()] == [next(iter(theirs.values()))]
        theirs = ocrbench_process_results(
            {"answer": right, "dataset": "", "question_type": ""}, [answer]
        )
        ours = process_results(doc(folder, {"answer": right, "metric": "contains"}), [answer])
        assert ours == {"contains": theirs["ocrbench_accuracy"]["score"]}


def test_a_box_is_scored_in_shares_of_its_image(folder: Path) -> None:
    row = doc(folder, {"metric": "iou", "boxes": [[10, 5, 30, 15]]})  # of 40 x 20 pixels
    assert row["box"] == [0.25, 0.25, 0.75, 0.75]
    perfect = process_results(row, ["[0.25, 0.25, 0.75, 0.75]"])
    assert perfect == {"ACC@0.5": 1.0, "IoU": 1.0}
    half = process_results(row, ["[0.25, 0.25, 0.5, 0.75]"])
    assert half == {"ACC@0.5": 1.0, "IoU": 0.5}
    assert process_results(row, ["no box"]) == {"ACC@0.5": 0.0, "IoU": 0.0}


def test_mixed_files_have_a_score_of_their_own(folder: Path) -> None:
    row = doc(folder, {"answer": "x"}, {"metric": "iou", "boxes": [[10, 5, 30, 15]]})
    assert process_results(row, ["[0, 0, 1, 1]"]) == {"score": 0.0, "ACC@0.5": 0.0, "IoU": 0.25}
    assert resolve_bench(str(folder / "q.json")).metric == "score"


# --- prompts --------------------------------------------------------------------------------
def test_prompts_are_those_of_lmms_eval(folder: Path) -> None:
    phrase = "What?\nAnswer the question using a single word or phrase."
    for row in (
        {"answer": "x"},
        {"answers": TEN, "metric": "vqa"},
        {"answer": "x", "metric": "anls"},
    ):
        assert doc_to_text(doc(folder, row)) == phrase
    word = doc_to_text(doc(folder, {"answer": "x", "metric": "relaxed"}))
    assert word == "What?\nAnswer the question with a single word."
    assert doc_to_text(doc(folder, {"answer": "x", "metric": "contains"})) == "What?"
    assert doc_to_text(doc(folder, CHOICES)) == (
        "What?\nA. a cat\nB. a dog\nC. a bird\n"
        "Answer with the option's letter from the given choices directly."
    )
    box = doc_to_text(doc(folder, {"metric": "iou", "boxes": [[1, 1, 2, 2]]}))
    assert box.startswith("Bounding box coordinates") and box.endswith("describes: What?")


def test_a_row_may_bring_its_own_line(folder: Path) -> None:
    asked = doc_to_text(doc(folder, {"answer": "x", "post_prompt": "One word."}))
    assert asked == "What?\nOne word."
    assert doc_to_text(doc(folder, {"answer": "x", "post_prompt": ""})) == "What?"


def test_images_come_in_their_order(folder: Path) -> None:
    path = folder / "q.json"
    rows = [
        {"image": "a.png", "question": "One?", "answer": "x"},
        {"images": ["b.png", "a.png"], "question": "<image> or <image>?", "answer": "x"},
    ]
    path.write_text(json.dumps(rows))
    found = resolve_bench(str(path)).dataset()["test"]
    assert [[i.size for i in doc_to_visual(row)] for row in found] == [
        [(40, 20)],
        [(20, 20), (40, 20)],
    ]


# --- in the loop ----------------------------------------------------------------------------
def run(loaded: Session, bench: Bench) -> Any:
    return evaluate(loaded, DENSE, bench, progress=False, max_new_tokens=4)


def test_rows_keep_names_clusters_and_notes(loaded: Session, folder: Path) -> None:
    row = {"image": "a.png", "question": "What?", "answer": "x"}
    rows = [
        {**row, "id": "007", "cluster": "page 1", "kind": "k"},
        {**row, "id": "a/b", "image": "b.png", "cluster": "page 1"},
        {**row, "id": "7"},
    ]
    (folder / "q.json").write_text(json.dumps(rows))
    result = run(loaded, resolve_bench(str(folder / "q.json")))
    assert [s.doc_id for s in result.samples] == ["007", "a/b", "7"]
    assert [*result.headline.scores] == [*result.records] == ["007", "a/b", "7"]
    assert "columns not used: kind" in result.notes
    images = [s.image_id for s in result.samples]
    assert images[0] == images[2] != images[1]
    answers = [{name: getattr(s, name) for name in ANSWERS} for s in result.samples]
    assert Samples.of(answers).clusters() == ["page 1", "page 1", images[2]]


def test_answered_boxes_are_read_in_the_models_frame(loaded: Session, folder: Path) -> None:
    """LLaVA answers in the square that it sees: boxes come back to the image before scoring."""
    from harness.bench.answerboxes import in_image
    from harness.bench.keeping import Keeper

    processor = loaded.processor.image_processor
    asked = [{"metric": "iou", "boxes": [[10, 5, 30, 15]]}, {"answer": "x"}]
    rows = [{"image": "a.png", "question": "What?", **row} for row in asked]
    (folder / "q.json").write_text(json.dumps(rows))
    bench = resolve_bench(str(folder / "q.json"))
    told: list[str | None] = []
    kept = Keeper._scored

    def scored(self: Keeper, request: Any, output: Any) -> str | None:
        output = type(output)(**{**vars(output), "text": "[0.1, 0.2, 0.3, 0.4]"})
        told.append(kept(self, request, output))
        return told[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "_scored", scored)
        run(loaded, bench)
    expected = in_image("[0.1, 0.2, 0.3, 0.4]", Image.open(folder / "a.png"), processor)
    assert loaded.family.boxes_in_frame and told == [expected, None]


# --- task files -----------------------------------------------------------------------------
TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: rows.jsonl}}
test_split: test
output_type: generate_until
doc_to_visual: !function beside.doc_to_visual
doc_to_text: !function beside.doc_to_text
doc_to_target: answer
generation_kwargs: {{max_new_tokens: 2}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}}
"""


@pytest.fixture
def tasks(folder: Path) -> Path:
    """Two tasks, a group of both, what they need, and a file that is none of lmms-eval's."""
    (folder / "beside.py").write_text(
        "from pathlib import Path\nfrom PIL import Image\nHERE = Path(__file__).parent\n"
        "def doc_to_visual(doc): return [Image.open(HERE / doc['file']).convert('RGB')]\n"
        "def doc_to_text(doc): return doc['question']\n"
    )
    rows = [{"file": f"{n}.png", "question": "What color?", "answer": "red"} for n in "ab"]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("mine", "other"):
        (folder / f"{name}.yaml").write_text(TASK.format(name=name))
    (folder / "group.yaml").write_text("group: both\ntask: [mine, other]\n")
    (folder / "compose.yaml").write_text("services: [unclosed")
    return folder


def test_a_task_file_runs_with_the_functions_beside_it(loaded: Session, tasks: Path) -> None:
    bench = resolve_bench(str(tasks / "mine.yaml"))
    assert (bench.name, bench.data) == ("mine.yaml", "local")
    result = run(loaded, bench)
    assert (result.task, result.n, result.headline.metric) == ("mine", 2, "exact_match")
    before = bench.task_version, bench.fingerprint()
    (tasks / "beside.py").write_text((tasks / "beside.py").read_text() + "# changed\n")
    again = resolve_bench(str(tasks / "mine.yaml"))
    assert again.task_version != before[0] and again.fingerprint() == before[1]


@pytest.mark.slow  # lmms-eval reads all of its tasks for a group
def test_a_group_file_pools_its_tasks(loaded: Session, tasks: Path) -> None:
    result = run(loaded, resolve_bench(str(tasks / "group.yaml")))
    assert result.n == 4 and result.headline.task == "both"
    assert {m.task for m in result.metrics} == {"both", "mine", "other"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no lmms-eval task"),
        ("metric_list: []", "no lmms-eval task"),
        ("group: g\ntask: [nowhere]", "'nowhere' that does not exist"),
        ("group: gqa\ntask: [mine]", "'gqa' is the name of one of lmms-eval's own tasks"),
        ("services: [unclosed", "not readable as YAML"),
        ("task: own_data", "the task behind tables of own data: rename it"),
        ("group: g\ntask: [own_data]", "does not exist"),
        ("task: t\noutput_type: loglikelihood", "loglikelihood"),
    ],
)
def test_task_files_that_are_refused(tasks: Path, text: str, said: str) -> None:
    (tasks / "new.yaml").write_text(text)
    assert said in line_of(lambda: resolve_bench(str(tasks / "new.yaml")))
