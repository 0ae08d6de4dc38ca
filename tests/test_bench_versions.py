"""What a bench's data and task are known by: another one is another cell."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.bench import tasks_index
from harness.bench.benches import MINI, resolve_bench
from harness.bench.tasks_index import read_task, task_digest, upstream_folder
from tests.fixtures.hub_data import write_gqa


def test_fingerprint_follows_the_data(tmp_path: Path) -> None:
    write_gqa(tmp_path, ["red", "yes"])
    first = resolve_bench("gqa", str(tmp_path)).fingerprint()
    assert resolve_bench("gqa", str(tmp_path)).fingerprint() == first
    write_gqa(tmp_path, ["dog", "yes"])  # as long, but other words
    assert resolve_bench("gqa", str(tmp_path)).fingerprint() != first


def test_task_version_follows_prompt_and_scoring(tmp_path: Path) -> None:
    folder = tmp_path / "textvqa"
    shutil.copytree(upstream_folder() / "textvqa", folder)
    task = folder / "textvqa_val.yaml"
    versions = [task_digest(task)]
    assert versions[0] == task_digest(upstream_folder() / "textvqa" / "textvqa_val.yaml")
    for name in ("textvqa_val.yaml", "_default_template_textvqa_yaml", "utils.py"):
        path = folder / name
        path.write_text(path.read_text() + "\n# changed\n")
        versions.append(task_digest(task))
    assert len(set(versions)) == len(versions)


def test_mini_task_version_covers_upstream_scoring() -> None:
    """The mini tasks name upstream's functions by module, so upstream's files count."""
    behind = tasks_index._files(next((MINI / "tasks" / "textvqa").glob("*.yaml")))
    needed = ("tasks/textvqa/utils.py", "tasks/_task_utils/vqa_eval_metric.py", "api/metrics.py")
    assert {UPSTREAM / name for name in needed} <= behind


UPSTREAM = upstream_folder().parent
# A file of lmms-eval -> a task whose prompt, scoring or aggregation it takes part in, and why.
PARTS = {
    "tasks/textvqa/textvqa_val.yaml": ("textvqa_val", "the task"),
    "tasks/textvqa/_default_template_textvqa_yaml": ("textvqa_val", "included"),
    "tasks/textvqa/utils.py": ("textvqa_val", "its functions"),
    "tasks/_task_utils/vqa_eval_metric.py": ("textvqa_val", "imported by its functions"),
    "tasks/_task_utils/mcq_extract.py": ("mmstar", "imported within one of its functions"),
    "tasks/mmbench/mmbench_evals.py": ("mmbench_en_dev_static", "imported by its functions"),
    "tasks/mmbench/mmbench.yaml": ("mmbench_en_dev_static", "read by its functions: the prompt"),
    "filters/extraction.py": ("ai2d", "the filter it derives its own from"),
    "api/metrics.py": ("docvqa_val", "the built-in metric"),
    "api/task.py": ("docvqa_val", "how built-in metrics are called"),
    "evaluator_utils.py": ("gqa", "how they are aggregated"),
    "llm_judge/providers/openai.py": ("mmvet", "how its judge is asked"),
    "verifiers/openai.py": ("mmmu_val", "imported by its functions"),
    "tasks/blink/blink_jigsaw.yaml": ("blink", "a task of the group"),
    "tasks/blink/_default_template_yaml": ("blink", "included by tasks of the group"),
}


@pytest.mark.parametrize("changed", PARTS)
def test_task_version_covers_all_that_shapes_a_score(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in any file behind a task is another version of it, and of no unrelated task."""
    name, why = PARTS[changed]
    before = {n: resolve_bench(n, "hub").task_version for n in (name, "chartqa")}
    read, path = Path.read_bytes, UPSTREAM / changed
    edit = lambda self: read(self) + (b"\n# changed\n" if self == path else b"")  # noqa: E731
    monkeypatch.setattr(Path, "read_bytes", edit)
    after = {n: resolve_bench(n, "hub").task_version for n in (name, "chartqa")}
    assert before[name] != after[name], why
    if changed.startswith("tasks/") and not changed.startswith("tasks/_task_utils"):
        assert before["chartqa"] == after["chartqa"]


def test_where_pictures_lie_is_no_part_of_a_task(tmp_path: Path) -> None:
    """Rows that carry theirs and rows that are joined with them are asked the same."""
    from minidata import tasks

    apart, plain = tmp_path / "apart.yaml", tmp_path / "plain" / "apart.yaml"
    plain.parent.mkdir()
    apart.write_text(tasks.task_yaml("gqa", ["gqa/testdev.parquet", "objects/pictures.parquet"]))
    plain.write_text(tasks.task_yaml("gqa", ["gqa/testdev.parquet"]))
    assert apart.read_text() != plain.read_text()
    assert task_digest(apart) == task_digest(plain)
    text = apart.read_text()
    apart.write_text(text.replace("joined", "drawn"))
    assert task_digest(apart) != task_digest(plain)
    # Alone neither is one of ours: further rows, and rows that are changed.
    apart.write_text(text.replace("process_docs: !function minidata.rows.joined\n", ""))
    assert task_digest(apart) != task_digest(plain)
    apart.write_text(plain.read_text() + "process_docs: !function minidata.rows.joined\n")
    assert task_digest(apart) != task_digest(plain)


def test_includes_merge_like_upstream(tmp_path: Path) -> None:
    (tmp_path / "base").write_text("a: 1\nb: 1\nf: !function utils.f\n")
    (tmp_path / "more").write_text("b: 2\nc: 2\n")
    (tmp_path / "task.yaml").write_text("task: t\ninclude: [more, base]\nc: 3\n")
    # The last include is read first, the file's own values win.
    assert read_task(tmp_path / "task.yaml") == {
        "task": "t",
        "a": 1,
        "b": 2,
        "c": 3,
        "f": "utils.f",
    }
