"""Tasks of other kinds: text only, several images, stop strings, sampling."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.bench.benches import Bench
from harness.bench.tasks_index import TaskFile
from harness.common.errors import CellError
from harness.model.session import Session
from tests.fixtures.hub_data import picture
from tests.loop.cells import comparable, predictions, run

UTILS = """
def visual(doc):
    return [image.convert("RGB") for image in doc["images"]]

def video(doc):
    return ["clip.mp4"]

def text(doc):
    return doc["question"]

def process(doc, results):
    return {"acc": float(results[0] != ""), "length": {"score": len(results[0])}}

def none(documents):
    return documents.select([])

def longest(items):
    return max(item["score"] for item in items)
"""


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Bench]:
    """A task of our own over documents with none, one or two images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = {"feature": {"_type": "Image"}, "_type": "List"}
    features = {"question": {"dtype": "string", "_type": "Value"}, "images": kind}

    def make(questions: list[tuple[str, int]], **changes: Any) -> Bench:
        rows = [
            [{"bytes": picture(10 * i + j), "path": f"{i}{j}.png"} for j in range(count)]
            for i, (_, count) in enumerate(questions)
        ]
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {
            "question": pa.array([q for q, _ in questions]),
            "images": pa.array(rows, pa.list_(image)),
        }
        note = json.dumps({"info": {"features": features}})
        table = pa.table(columns).replace_schema_metadata({"huggingface": note})
        pq.write_table(table, tmp_path / "data.parquet")
        (tmp_path / "utils.py").write_text(UTILS)
        config = {
            "task": "own",
            "dataset_path": "parquet",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "data.parquet")}},
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_visual": "!function utils.visual",
            "doc_to_text": "!function utils.text",
            "doc_to_target": "question",
            "process_results": "!function utils.process",
            "metric_list": [
                {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
                {
                    "metric": "length",
                    "aggregation": "!function utils.longest",
                    "higher_is_better": False,
                },
            ],
            **changes,
        }
        path = tmp_path / "own.yaml"
        text = json.dumps(config, indent=1)
        for name in ("visual", "video", "text", "process", "longest", "none"):
            text = text.replace(f'"!function utils.{name}"', f"!function utils.{name}")
        path.write_text(text)
        return Bench("own", "own", "hub", "", TaskFile("own", "task", path))

    return make


MIXED = [("who?", 0), ("is it red or is the dog left of the table", 1), ("both?", 2), ("yes", 0)]


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_documents_with_no_and_with_several_images(
    family: str, task: Any, request: pytest.FixtureRequest
) -> None:
    loaded, bench = request.getfixturevalue(family), task(MIXED)
    single = run(loaded, bench)
    batched = run(loaded, bench, batch_size=4)
    assert predictions(single) == predictions(batched)
    counts = [record.n_image for record in single.records.values()]
    assert counts[0] == counts[3] == 0 < counts[1] < counts[2]
    assert [s.image_id.count("+") for s in single.samples] == [0, 0, 1, 0]
    only_text = run(loaded, task([("who?", 0), ("yes", 0)]), batch_size=2)
    assert predictions(only_text) == [predictions(single)[i] for i in (0, 3)]


def test_metrics_that_are_no_means(llava: Session, task: Any) -> None:
    result = run(llava, task(MIXED))
    assert [(m.metric, m.is_mean, m.higher_is_better) for m in result.metrics] == [
        ("acc", True, True),
        ("length", False, False),
    ]
    assert result.metrics[1].value == max(len(p) for p in predictions(result))
    assert result.metrics[1].scores == {}  # their mean would not be the value


def test_placeholders_in_a_question(llava: Session, task: Any) -> None:
    """Placed once per image they stay; a stray one must not be taken for a picture."""
    bench = task([("red <image> yes <image> no", 2), ("a stray <image> here", 0)])
    result = run(llava, bench)
    first, second = result.records.values()
    assert first.n_image == 32 and second.n_image == 0
    starts = [grid["start"] for grid in first.grid]
    assert starts[1] > starts[0] + 16  # text stands between the two images


def test_model_without_chat_template(
    llava: Session, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = task(MIXED)
    usual = run(llava, bench)
    monkeypatch.setattr(llava.processor, "chat_template", None)
    monkeypatch.setattr(llava.processor.tokenizer, "chat_template", None)
    plain = run(llava, bench)
    assert len(plain.notes) == 1 and "chat template" in plain.notes[0] and usual.notes == ()
    counts = [record.n_image for record in plain.records.values()]
    assert counts == [record.n_image for record in usual.records.values()]


def test_limits_and_stop_strings(llava: Session, task: Any) -> None:
    greedy = {"until": ["\n\n"], "do_sample": False}
    free = run(llava, task(MIXED, generation_kwargs=greedy), max_new_tokens=9)
    assert max(s.n_out for s in free.samples) == 9 == free.max_new_tokens
    stop = free.samples[1].prediction[2]
    own = run(llava, task(MIXED, generation_kwargs={"until": [stop, ""], "max_new_tokens": 9}))
    for before, after in zip(free.samples, own.samples, strict=True):
        assert after.prediction == before.prediction.split(stop)[0].strip()
        assert stop not in after.prediction
        if stop in before.prediction:
            assert after.n_out < before.n_out
    batched = task(MIXED, generation_kwargs={"until": stop, "max_new_tokens": 9})
    assert comparable(run(llava, batched, batch_size=4))["samples"] == own.samples
    assert max(s.n_out for s in run(llava, task(MIXED), max_new_tokens=2).samples) == 2


def test_sampling_only_when_asked(llava: Session, task: Any) -> None:
    hot = {"do_sample": True, "temperature": 5.0, "max_new_tokens": 8}
    bench = task(MIXED, generation_kwargs=hot)
    greedy = run(llava, task(MIXED, generation_kwargs={**hot, "do_sample": False}))
    bench = task(MIXED, generation_kwargs=hot)
    refused = run(llava, bench)
    assert predictions(refused) == predictions(greedy) and greedy.notes == ()
    assert refused.notes == ("the task asks for sampling; answered greedily",)
    drawn = run(llava, bench, sample=True)
    assert predictions(drawn) != predictions(greedy)
    assert predictions(drawn) == predictions(run(llava, bench, sample=True))
    assert predictions(drawn) != predictions(run(llava, bench, sample=True, seed=7))


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"generation_kwargs": {"num_beams": 4}}, CellError, "beam search"),
        ({"process_docs": "!function utils.none"}, CellError, "own: the data hold no documents"),
        ({"doc_to_visual": "!function utils.video"}, CellError, "media of type str"),
    ],
)
def test_tasks_that_cannot_be_run(
    changes: Any, error: type[Exception], text: str, llava: Session, task: Any
) -> None:
    with pytest.raises(error, match=text) as caught:
        run(llava, task(MIXED, **changes))
    assert "\n" not in str(caught.value)
