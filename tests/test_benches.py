"""Names of benches, the tasks and data behind them, and what is refused."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.bench import hubdata
from harness.bench.benches import MINI, Bench, resolve_bench
from harness.bench.catalog import BENCHES
from harness.bench.tasks_index import TaskFile, index, read_task, tasks_of, upstream_folder
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from tests.fixtures.bad_input import line_of
from tests.fixtures.hub_data import GQA, TEXTVQA, write_gqa, write_textvqa

CONTRACT = (
    "gqa textvqa scienceqa mmmu vqav2 pope mme mmbench mmvet vizwiz seedbench okvqa ai2d docvqa "
    "chartqa infovqa realworldqa refcoco refcoco+ refcocog ocrbench mmstar mathvista "
    "hallusionbench blink mmbench_cn textvqa_hd chartqa_hd docvqa_hd"
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
    known = CONTRACT.split()  # others may stand among them
    assert [name for name in BENCHES if name in known] == known


@pytest.mark.parametrize("name", BENCHES)
def test_task_exists_upstream_with_its_metric(name: str) -> None:
    spec = BENCHES[name]
    file = index(upstream_folder())[spec.task]
    parts = tasks_of(file, index(upstream_folder()))
    assert file.kind == "task" or len(parts) > 1
    for part in parts:
        config = read_task(part.path)
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
    assert theirs == mine


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
    bench = resolve_bench("mirb", "auto", mini_model=True)
    assert (bench.data, bench.task, bench.metric) == ("hub", "mirb", "")
    assert resolve_bench("gqa_mini", "auto").data == "mini"


def test_no_mini_version() -> None:
    line = line_of(lambda: resolve_bench("mme", "auto", mini_model=True))
    assert "'mme' has no mini version" in line and "--data hub" in line and "gqa" in line


@pytest.mark.parametrize(("name", "near"), [("gqua", "gqa"), ("text-vqa", "textvqa")])
@pytest.mark.parametrize("data", ["auto", "mini", "hub"])
def test_unknown_bench(name: str, near: str, data: str) -> None:
    line = line_of(lambda: resolve_bench(name, data, mini_model=True))
    assert f"'{name}'" in line and f"'{near}'" in line


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("egoschema_mcppl", "about videos"),
        ("mmsearch_end2end", "searches the web between its rounds"),
        ("ovo_forward", "about videos"),
        ("gsm8k", "shows 5 solved examples"),
    ],
)
def test_question_forms_that_are_refused(name: str, reason: str) -> None:
    line = line_of(lambda: resolve_bench(name, "hub"))
    assert f"task '{name}'" in line and reason in line


def test_every_other_output_type_of_lmms_eval_is_refused() -> None:
    """Two of them ask for pictures that are drawn, and for tools that are called."""
    from harness.bench.tasks_index import index, read_task, upstream_folder

    found: dict[str, str] = {}
    for file in index(upstream_folder()).values():
        text = file.path.read_text(encoding="utf-8", errors="replace")
        if file.kind == "task" and ("visual_cot" in text or "agentic" in text):
            wants = str(read_task(file.path).get("output_type"))
            if wants in ("generate_visual_cot", "generate_until_agentic"):
                found[wants] = file.name
    assert set(found) == {"generate_visual_cot", "generate_until_agentic"}
    for wants, name in found.items():
        line = line_of(lambda name=name: resolve_bench(name, "hub"))  # type: ignore[misc]
        assert f"wants {wants} requests" in line and "multiple_choice" in line


def test_question_forms_that_are_answered() -> None:
    for name in ("seedbench_ppl", "arc_easy", "seedbench"):
        assert resolve_bench(name, "hub").task == name


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


@pytest.mark.parametrize("name", ["mmvet", "mathvista", "mmbench_en_dev", "llava_in_the_wild"])
def test_no_key_is_needed_to_be_asked(name: str, no_hub: Path) -> None:
    assert "cannot be reached" in line_of(resolve_bench(name, "hub").require)


@pytest.mark.parametrize("name", ["videomme", "mvbench", "egoschema", "nextqa", "activitynetqa"])
def test_videos_are_refused_before_anything_is_fetched(name: str) -> None:
    assert "video" in line_of(lambda: resolve_bench(name, "hub"))


# --- every name of lmms-eval ----------------------------------------------------------------
ASKED_FOR = re.compile(r"^--bench: .+")


@pytest.fixture
def no_sockets(no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: object) -> None:
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket.socket, "connect_ex", connect)


def outcome(name: str) -> str:
    """How a name ends offline: "" where nothing stands against a run, else the one line."""
    try:
        bench = resolve_bench(name, "hub")
        bench.require()
    except UsageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_name_is_refused_in_one_line_without_data(every: int, no_sockets: None) -> None:
    """All tasks, groups and tags: nothing is downloaded to find out that they cannot be run."""
    names = [*list(index(upstream_folder()))[::every], "videomme", "muirbench"]
    lines = {name: outcome(name) for name in names}
    assert len(lines) > 1500 // every
    wrong = {n: text for n, text in lines.items() if not ASKED_FOR.fullmatch(text)}
    assert wrong == {}
    assert "video" in lines["videomme"] and "cannot be reached" in lines["muirbench"]
    longest = max(lines.values(), key=len)
    assert len(longest) < 600, longest


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_every_name_resolves_or_is_refused_with_data(
    every: int, no_sockets: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where every dataset is in the cache: who passes has sources and a version."""
    ready = tmp_path / "0.0.0" / "commit"
    ready.mkdir(parents=True)
    monkeypatch.setattr(hubdata, "prepared", lambda dataset, config: ready)
    names = [*list(index(upstream_folder()))[::every], "muirbench", "blink", "mmstar"]
    lines = {name: outcome(name) for name in names}
    assert [text for text in lines.values() if text and not ASKED_FOR.fullmatch(text)] == []
    runnable = [name for name, text in lines.items() if not text]
    assert set(names[-3:]) <= set(runnable) and len(runnable) > 600 // every
    for name in runnable[:: len(runnable) // 20]:
        bench = resolve_bench(name, "hub")
        assert bench.task_version and bench.fingerprint() and bench.data == "hub"
    # What its scoring needs and is not here is named, before the answers are paid for.
    absent = {text for text in lines.values() if "not installed" in text}
    assert all("imports " in text for text in absent)


def test_a_module_that_scoring_needs_is_named(tmp_path: Path) -> None:
    bench = own_task(tmp_path / "own")
    bench.require()
    task = tmp_path / "own" / "own.yaml"
    text = task.read_text()
    task.write_text(text[:-1] + ', "process_results": !function utils.score}')
    (tmp_path / "own" / "utils.py").write_text(
        "import json, nowhere_at_all\n"
        "try:\n    import optional_one\nexcept ImportError:\n    pass\n"
        "def score(doc, results):\n    import only_when_called\n"
    )
    line = line_of(own_task_at(task).require)
    assert "nowhere_at_all" in line and "optional" not in line and "called" not in line


def own_task_at(path: Path) -> Bench:
    return Bench("own", "own", "hub", "", TaskFile("own", "task", path))


# --- datasets that moved --------------------------------------------------------------------
OLD_TEXTVQA = "lmms-lab/textvqa"


def snapshot(hub: Path, dataset: str, commit: str, made: Path) -> None:
    """A dataset as the download tool leaves it in the hub's cache."""
    repo = hub / ("datasets--" + dataset.replace("/", "--"))
    shutil.copytree(made, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)


def test_a_dataset_that_moved_is_found_under_either_id(no_hub: Path) -> None:
    """Downloaded under its old id for a task that names the new one, and the other way round."""
    made = write_textvqa(no_hub / "made", [["red"] * 10])
    assert TEXTVQA in line_of(resolve_bench("textvqa", "hub").require)
    snapshot(no_hub / "hub", OLD_TEXTVQA, "0a1b", made)
    hubdata._hub_cache.cache_clear()
    bench = resolve_bench("textvqa", "hub")
    bench.require()
    assert bench.data_source == f"{OLD_TEXTVQA}@0a1b" and bench.data == "hub"
    before = bench.fingerprint()
    # Both are here: the id that the task names comes first.
    snapshot(no_hub / "hub", TEXTVQA, "2c3d", made)
    hubdata._hub_cache.cache_clear()
    both = resolve_bench("textvqa", "hub")
    assert both.data_source == f"{TEXTVQA}@2c3d" and both.fingerprint() != before
    # A task that still names the old id, and only the new one is here.
    shutil.rmtree(no_hub / "hub" / "datasets--lmms-lab--textvqa")
    hubdata._hub_cache.cache_clear()
    assert hubdata.found_id(OLD_TEXTVQA, "", None) == TEXTVQA
    assert hubdata.revision(OLD_TEXTVQA, "", None) == "2c3d"
    hubdata.require_dataset(OLD_TEXTVQA, ("",), None)


def test_a_moved_dataset_that_is_ready_or_copied_is_found(no_hub: Path, tmp_path: Path) -> None:
    """In the cache of the datasets library, and in a folder of one's own."""
    for config in ("testdev_balanced_instructions", "testdev_balanced_images"):
        ready = no_hub / "datasets" / "lmms-lab___gqa" / config / "0.0.0" / "4e5f"
        ready.mkdir(parents=True)
        about = {"splits": {"testdev": {"num_examples": 12578}}}
        (ready / "dataset_info.json").write_text(json.dumps(about))
    bench = resolve_bench("gqa", "hub")
    bench.require()
    assert bench.data_source == "lmms-lab/GQA@4e5f" and bench.documents == 12578
    made = write_textvqa(tmp_path / "made", [["red"] * 10])
    shutil.copytree(made, tmp_path / "copies" / OLD_TEXTVQA)
    copy = resolve_bench("textvqa", str(tmp_path / "copies"))
    copy.require()
    assert copy.data == "local" and copy.data_source.startswith("textvqa@")


def test_a_moved_dataset_is_loaded_under_the_id_found(
    no_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    ready = no_hub / "datasets" / "lmms-lab___gqa" / "default" / "0.0.0" / "4e5f"
    ready.mkdir(parents=True)
    (ready / "dataset_info.json").write_text("{}")
    asked: list[str] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda path, *args, **kwargs: asked.append(path))
    snapshot(no_hub / "hub", OLD_TEXTVQA, "0a1b", write_textvqa(no_hub / "made", [["red"] * 10]))
    with hubdata.dataset_sources(None):
        datasets.load_dataset(GQA)
        datasets.load_dataset(TEXTVQA, split="validation")
    assert asked[0] == "lmms-lab/GQA" and asked[1].endswith("/snapshots/0a1b")


def test_the_page_of_benches_is_made_from_the_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    (table,) = importlib.import_module("benchpages").table().values()
    lines = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(lines) == len(BENCHES)
    assert sum("| yes |" in line for line in lines) == sum(s.judged for s in BENCHES.values())
