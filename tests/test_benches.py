"""Names of benches, the tasks and data behind them, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bench import hubdata
from harness.bench.benches import MINI, Bench, bench_names, resolve_bench
from harness.bench.catalog import BENCHES, JUDGES
from harness.bench.tasks_index import TaskFile, index, read_task, upstream_folder
from harness.common.roots import ROOT
from tests.fixtures.bad_input import line_of
from tests.fixtures.hub_data import GQA, TEXTVQA, write_gqa, write_textvqa

CONTRACT = (
    "gqa textvqa scienceqa mmmu vqav2 pope mme mmbench mmvet vizwiz seedbench okvqa ai2d docvqa "
    "chartqa infovqa realworldqa refcoco refcoco+ refcocog textvqa_hd chartqa_hd docvqa_hd"
)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Empty caches and a hub that cannot be reached."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.delenv("LMMS_EVAL_DATASETS_CACHE", raising=False)
    hubdata._hub_cache.cache_clear()
    hubdata.hub_revision.cache_clear()
    yield tmp_path
    hubdata._hub_cache.cache_clear()
    hubdata.hub_revision.cache_clear()


# --- the table ------------------------------------------------------------------------------
def test_names_of_the_contract() -> None:
    assert bench_names() == CONTRACT.split()


@pytest.mark.parametrize("name", BENCHES)
def test_task_exists_upstream_with_its_metric(name: str) -> None:
    spec = BENCHES[name]
    file = index(upstream_folder())[spec.task]
    assert file.kind == "task"
    config = read_task(file.path)
    metrics = {m["metric"]: m for m in config["metric_list"]}
    assert spec.metric in metrics and metrics[spec.metric]["higher_is_better"]
    assert config.get("output_type", "generate_until") == "generate_until"
    assert spec.mini == (MINI / name).is_dir()


def test_resolving_needs_neither_torch_nor_lmms_eval() -> None:
    code = (
        "import sys; from harness.bench.benches import resolve_bench\n"
        "for name in ('gqa', 'refcoco+', 'mmstar'):\n"
        "    bench = resolve_bench(name, 'hub'); assert bench.task_version\n"
        "bench = resolve_bench('gqa', 'mini'); bench.require(); assert bench.fingerprint()\n"
        "assert not {'torch', 'lmms_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.slow
def test_index_agrees_with_lmms_eval() -> None:
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from lmms_eval.tasks import TaskManager

    theirs = {n: e["type"].removeprefix("python_") for n, e in TaskManager().task_index.items()}
    mine = {name: file.kind for name, file in index(upstream_folder()).items()}
    assert {n: k for n, k in theirs.items() if n in mine} == mine
    # A tag inside an include is the one thing the quick look does not see.
    assert all(theirs[name] == "tag" for name in theirs.keys() - mine.keys())


# --- mini or hub ----------------------------------------------------------------------------
def test_auto_takes_mini_for_the_shipped_model_only() -> None:
    mini = resolve_bench("gqa", "auto", mini_model=True)
    assert (mini.data, mini.task, mini.metric) == ("mini", "gqa_mini", "exact_match")
    real = resolve_bench("gqa", "auto", mini_model=False)
    assert (real.data, real.task, real.metric) == ("hub", "gqa", "exact_match")
    assert mini.fingerprint() != mini.task_version != real.task_version
    assert resolve_bench("gqa", "mini").fingerprint() == mini.fingerprint()
    steps = [mini.fingerprint(limit) for limit in (100, 500, 2000)]
    assert len(set(steps)) == 3 and mini.fingerprint(10**6) == mini.fingerprint() == steps[-1]


def test_task_names_pass_through() -> None:
    bench = resolve_bench("mmstar", "auto", mini_model=True)
    assert (bench.data, bench.task, bench.metric) == ("hub", "mmstar", "")
    assert resolve_bench("gqa_mini", "auto").data == "mini"


def test_no_mini_version() -> None:
    line = line_of(lambda: resolve_bench("mme", "auto", mini_model=True))
    assert "'mme' has no mini version" in line and "--data hub" in line and "gqa" in line


@pytest.mark.parametrize(("name", "near"), [("gqua", "gqa"), ("text-vqa", "textvqa")])
@pytest.mark.parametrize("data", ["auto", "mini", "hub"])
def test_unknown_bench(name: str, near: str, data: str) -> None:
    line = line_of(lambda: resolve_bench(name, data, mini_model=True))
    assert f"'{name}'" in line and f"'{near}'" in line


def test_requests_that_are_not_answers() -> None:
    line = line_of(lambda: resolve_bench("seedbench_ppl", "hub"))
    assert "multiple_choice" in line and "seedbench_ppl" in line


def test_data_folder_that_does_not_exist() -> None:
    assert "'nowhere'" in line_of(lambda: resolve_bench("gqa", "nowhere"))


def test_pairs(no_hub: Path) -> None:
    assert "even" in line_of(lambda: resolve_bench("mme", "hub").require(limit=3))


# --- real data ------------------------------------------------------------------------------
def test_dataset_missing_offline(no_hub: Path) -> None:
    line = line_of(lambda: resolve_bench("gqa", "hub").require())
    assert f"'{GQA}'" in line and "HF_HOME" in line
    assert f"hf download {GQA} --repo-type dataset" in line


def test_dataset_missing_in_the_folder(tmp_path: Path) -> None:
    write_textvqa(tmp_path, [["red"] * 10])
    resolve_bench("textvqa", str(tmp_path)).require()
    line = line_of(lambda: resolve_bench("gqa", str(tmp_path)).require())
    assert str(tmp_path) in line and f"hf download {GQA}" in line


def test_half_prepared_dataset_is_missing(no_hub: Path) -> None:
    """gqa needs two configurations; the questions without the images are not enough."""
    for config in ("testdev_balanced_instructions", "testdev_balanced_images"):
        line = line_of(lambda: resolve_bench("gqa", "hub").require())
        assert GQA in line
        ready = no_hub / "datasets" / "lmms-lab-encoder___gqa" / config / "0.0.0" / "abc123"
        ready.mkdir(parents=True)
        (ready / "dataset_info.json").write_text("{}")
    bench = resolve_bench("gqa", "hub")
    bench.require()
    assert hubdata.revision(GQA, "testdev_balanced_images", None) == "abc123"
    assert bench.fingerprint() != resolve_bench("pope", "mini").fingerprint()


def test_documents_are_counted_where_they_need_not_be_loaded(no_hub: Path) -> None:
    import pandas as pd

    mini = resolve_bench("pope", "mini")
    assert mini.documents == len(pd.read_parquet(next((MINI / "pope").glob("*.parquet"))))
    split = read_task(resolve_bench("gqa", "hub").file.path)["test_split"]
    ready = no_hub / "datasets" / "lmms-lab-encoder___gqa"
    ready /= "testdev_balanced_instructions/0.0.0/abc123"
    ready.mkdir(parents=True)
    for about, known in (
        (json.dumps({"splits": {split: {"num_examples": 12578}}}), 12578),
        (json.dumps({"splits": {"other": {"num_examples": 7}}}), None),
        ("{", None),
    ):
        (ready / "dataset_info.json").write_text(about)
        assert resolve_bench("gqa", "hub").documents == known
    assert resolve_bench("textvqa", "hub").documents is None  # not here


def test_snapshot_in_the_hub_cache_is_found(no_hub: Path) -> None:
    repo = no_hub / "hub" / "datasets--lmms-lab-encoder--textvqa"
    snapshot = repo / "snapshots" / "fedc"
    shutil.copytree(write_textvqa(no_hub / "made", [["red"] * 10]), snapshot)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("fedc")
    resolve_bench("textvqa", "hub").require()
    assert hubdata.revision(TEXTVQA, "", None) == "fedc"
    # A card alone, as a failed or partial download leaves it, is not the dataset.
    shutil.rmtree(snapshot / "data")
    hubdata._hub_cache.cache_clear()
    assert TEXTVQA in line_of(lambda: resolve_bench("textvqa", "hub").require())


def own_task(folder: Path, **changes: object) -> Bench:
    """A task file of somebody's own, over one file beside it."""
    folder.mkdir(exist_ok=True)
    (folder / "rows.jsonl").write_text('{"question": "who?", "answer": "me"}\n')
    task = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}}
    path = folder / "own.yaml"
    path.write_text(json.dumps({"task": "own", "test_split": "test", **task, **changes}))
    return Bench("own", "own", "hub", "", TaskFile("own", "task", path))


def test_data_are_called_what_was_read(no_hub: Path, tmp_path: Path) -> None:
    """Local copies, own files and own folders are `local`; only a dataset by its id is `hub`."""
    shutil.copytree(write_gqa(tmp_path / "made", ["red"]), tmp_path / "copies" / "GQA")
    copy = resolve_bench("gqa", str(tmp_path / "copies"))
    assert copy.data == "local" and copy.data_source == f"GQA@{copy.sources[0].version[:12]}"

    own = own_task(tmp_path / "own")
    assert own.data == "local"
    assert own.data_source == f"rows.jsonl@{own.sources[0].version[:12]}"
    own.require()
    before = own.fingerprint()
    (tmp_path / "own" / "rows.jsonl").write_text('{"question": "who?", "answer": "he"}\n')
    assert own_task_again(own).fingerprint() != before
    (tmp_path / "own" / "rows.jsonl").unlink()
    assert "rows.jsonl" in line_of(own_task_again(own).require)

    folder = own_task(tmp_path / "own", dataset_path=str(tmp_path / "copies" / "GQA"))
    assert folder.data == "local" and folder.data_source.startswith("GQA@")

    snapshot = no_hub / "hub" / "datasets--lmms-lab-encoder--textvqa" / "snapshots" / "fedc"
    shutil.copytree(write_textvqa(no_hub / "made", [["red"] * 10]), snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("fedc")
    hub = resolve_bench("textvqa", "hub")
    assert hub.data == "hub" and hub.data_source == f"{TEXTVQA}@fedc"
    mini = resolve_bench("gqa", "mini")
    assert mini.data == "mini" and mini.data_source.startswith("testdev.parquet, pictures.parquet@")


def own_task_again(bench: Bench) -> Bench:
    """The same bench without what it remembers."""
    return Bench(bench.name, bench.task, bench.asked, bench.metric, bench.file)


def test_groups_are_checked_and_known_by_their_parts(no_hub: Path, tmp_path: Path) -> None:
    """A group has no dataset of its own: what its tasks read must be here, and is its data."""
    for name in ("pope_full", "unig2u_mmsi_motion_obj"):
        assert "cannot be reached" in line_of(resolve_bench(name, "hub").require)
    before = []
    for answers in (["red"] * 10, ["dog"] * 10):
        write_textvqa(tmp_path, [answers])
        group = resolve_bench("textvqa", str(tmp_path))
        parts = replace(group, file=TaskFile("all", "group", group.file.path), parts=group.tasks)
        parts.require()
        before.append(parts.fingerprint())
    assert before[0] != before[1]
    assert len({resolve_bench("pope_full", "hub").task_version, *before}) == 3


@pytest.mark.parametrize(
    ("name", "judged"),
    [
        ("mmvet", True),
        ("mathvista_testmini_cot", True),
        ("mmbench_en_dev", True),
        ("hallusion_bench_image", True),
        ("llava_in_the_wild", True),
        ("mmbench_en_dev_static", False),
        ("mmbench_en_test", False),
        ("docvqa_test", False),
    ],
)
def test_a_judge_is_known_of_and_needs_no_key(
    name: str, judged: bool, monkeypatch: pytest.MonkeyPatch, no_hub: Path
) -> None:
    for key in JUDGES:
        monkeypatch.delenv(key, raising=False)
    assert bool(resolve_bench(name, "hub").judge) == judged
    assert "cannot be reached" in line_of(resolve_bench(name, "hub").require)


@pytest.mark.parametrize("name", ["videomme", "mvbench", "egoschema", "nextqa", "activitynetqa"])
def test_videos_are_refused_before_anything_is_fetched(name: str) -> None:
    assert "video" in line_of(lambda: resolve_bench(name, "hub"))
