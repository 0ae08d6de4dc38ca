"""Tasks of the tests' own: a few rows of mini pictures, in any question form."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.bench.benches import Bench
from harness.bench.tasks_index import TaskFile
from tests.fixtures.hub_data import picture

UTILS = """
def visual(doc):
    return [image.convert("RGB") for image in doc["images"]]

def text(doc):
    return doc["question"]

def choices(doc):
    return doc["choices"]

def gold(doc):
    return doc["gold"]

def process(doc, results):
    return {"acc": float(bool(results[0]))}

def pair(doc, results):
    (value, greedy), = results
    return {"acc": float(greedy), "loss": value}

def talk(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=None,
         previous_round_info=None):
    if round_idx is None:
        return doc["question"]
    stop = round_idx > len(previous_output[0]) % 3
    info = (previous_round_info or 0) + 1
    again = visual(doc) if round_idx == 1 else None
    return again, f"no red {previous_output[-1]} {info}", stop, previous_output, info

def rounds(doc, results):
    (answers,) = results
    assert isinstance(answers, list)
    return {"acc": float(len(answers))}
"""
FUNCTION = re.compile(r'"(!function utils\.\w+)"')
WORD, NUMBER = {"dtype": "string", "_type": "Value"}, {"dtype": "int64", "_type": "Value"}
IMAGES = {"feature": {"_type": "Image"}, "_type": "List"}
SEEDBENCH = "lmms-lab-encoder/SEED-Bench"
LOOKS = ("red", "the dog", "left of the table", "no color", "a single word")
MEAN = {"aggregation": "mean", "higher_is_better": True}
ROWS: Sequence[tuple[str, int, Sequence[str], int]] = (  # question, images, choices, the right one
    ("is it red or is the dog left of the table", 1, ("red", "the dog left of the table", "no"), 2),
    ("who?", 0, ("yes", "no"), 0),
    ("what color is the dog?", 1, ("red color", "table", "a dog", "left of it"), 0),
    ("both?", 2, ("no", "yes"), 1),
    ("what is left of the red dog on the table", 1, ("single", "table", "the dog"), 1),
)


def pictures(counts: Sequence[int]) -> Any:
    """A column of lists of so many pictures."""
    import pyarrow as pa

    shown = [
        [{"bytes": picture(10 * i + j), "path": f"{i}{j}.png"} for j in range(count)]
        for i, count in enumerate(counts)
    ]
    return pa.array(shown, pa.list_(pa.struct([("bytes", pa.binary()), ("path", pa.string())])))


def write_rows(path: Path, columns: dict[str, Any], features: dict[str, Any]) -> None:
    """A parquet file whose columns the datasets library knows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    note = json.dumps({"info": {"features": features}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata({"huggingface": note}), path)


def write_seedbench(root: Path) -> None:
    """A copy of SEED-Bench of four rows, in its published schema."""
    import pyarrow as pa

    folder, number = root / SEEDBENCH, range(4)
    columns = {
        "question": pa.array([ROWS[i][0] for i in number]),
        "image": pictures([1 + i % 2 for i in number]),
        "answer": pa.array(["ABCD"[i] for i in number]),
        "data_type": pa.array(["image" for _ in number]),
        "question_id": pa.array([str(i) for i in number]),
    }
    for which, letter in enumerate("abcd"):
        columns[f"choice_{letter}"] = pa.array([LOOKS[(which + i) % 5] for i in number])
    features = dict.fromkeys(columns, WORD) | {"image": IMAGES}
    write_rows(folder / "data" / "test-00000-of-00001.parquet", columns, features)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n"
        "    path: data/test-*\n---\n# A test copy\n"
    )


def write(folder: Path, output_type: str, rows: Any = ROWS, **changes: Any) -> Bench:
    """A task with its data in ``folder``; ``changes`` are settings of the task file."""
    import pyarrow as pa

    columns = {
        "question": pa.array([row[0] for row in rows]),
        "images": pictures([row[1] for row in rows]),
        "choices": pa.array([list(row[2]) for row in rows], pa.list_(pa.string())),
        "gold": pa.array([row[3] for row in rows], pa.int64()),
    }
    kinds = {"question": WORD, "images": IMAGES, "choices": {"feature": WORD, "_type": "List"}}
    write_rows(folder / "data.parquet", columns, {**kinds, "gold": NUMBER})
    (folder / "utils.py").write_text(UTILS)
    forms = {
        "multiple_choice": {
            "doc_to_choice": "!function utils.choices",
            "metric_list": [{"metric": "acc", **MEAN}, {"metric": "acc_norm", **MEAN}],
        },
        "generate_until_multi_round": {
            "doc_to_text": "!function utils.talk",
            "process_results": "!function utils.rounds",
        },
        "loglikelihood": {
            "process_results": "!function utils.pair",
            "doc_to_target": "question",
            "metric_list": [{"metric": "loss", **MEAN}, {"metric": "acc", **MEAN}],
        },
        "generate_until": {"process_results": "!function utils.process"},
    }
    config = {
        "task": "own",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.parquet")}},
        "test_split": "test",
        "output_type": output_type,
        "doc_to_visual": "!function utils.visual",
        "doc_to_text": "!function utils.text",
        "doc_to_target": "!function utils.gold",
        "metric_list": [{"metric": "acc", **MEAN}],
        **forms.get(output_type, {}),
        **changes,
    }
    path = folder / "own.yaml"
    path.write_text(FUNCTION.sub(r"\1", json.dumps(config, indent=1)))
    return Bench("own", "own", "hub", "", TaskFile("own", "task", path))
