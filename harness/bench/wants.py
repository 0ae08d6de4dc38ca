"""What a task wants of who answers it, read from its files: answers, media, a judge. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from harness.bench.tasks_index import TaskFile, read_task
from harness.common.errors import UsageError

ANSWERED = ("generate_until",)  # the request types our model class answers
VIDEO = ("video", "From_YouTube")  # dataset_kwargs that make lmms-eval fetch and unpack videos
# How upstream's scoring reaches a language model.
JUDGE = re.compile(
    r"\bget_server\(|\bget_chat_response\(|\bOpenAI\(|api\.openai\.com|\bOpenAIVerifier\("
)


def refuse_unanswerable(file: TaskFile) -> None:
    """Raise UsageError, one line, for a task that cannot be run here, before anything is fetched.

    Tasks that want something other than generated answers, and tasks about videos.
    """
    task = read_task(file.path)
    wants = task.get("output_type", ANSWERED[0])
    if wants not in ANSWERED:
        raise UsageError(
            f"--bench: task '{file.name}' wants {wants} requests; "
            "only tasks with generated answers (generate_until) can be run"
        )
    kwargs = task.get("dataset_kwargs")
    kwargs = kwargs if isinstance(kwargs, dict) else {}
    words = (file.name, task.get("task"), task.get("doc_to_visual"))
    if any(kwargs.get(name) for name in VIDEO) or any("video" in str(w).lower() for w in words):
        raise UsageError(
            f"--bench: task '{file.name}' is about videos; only tasks about images can be run"
        )


def asks_judge(file: TaskFile) -> bool:
    """Whether the code that scores a task can ask a language model through an API.

    Read from the modules of its scoring functions and what they import from the same folder, so
    a task whose judge is reached in another way is not seen; nor is one that only writes a file to
    hand in, unless it asks after all (`harness.bench.guard` notices both).
    """
    task = read_task(file.path)
    metrics = [m for m in task.get("metric_list") or () if isinstance(m, dict)]
    if metrics and all(m.get("metric") == "submission" for m in metrics):
        return False
    names = [task.get("process_results")]
    names += [m.get("aggregation") for m in metrics]
    if "static" in " ".join(map(str, names)):  # the same module's reading by rule
        return False
    modules = {_module(file.path.parent, str(n)) for n in names if "." in str(n)}
    texts = [text for module in modules for text in _texts(module, set())]
    return any(JUDGE.search(text) for text in texts)


def _module(folder: Path, function: str) -> Path:
    """The file of ``utils.process`` or of a function named by its full path."""
    module = function.rpartition(".")[0]
    return folder / f"{module.rpartition('.')[2]}.py"


def _texts(path: Path, seen: set[Path]) -> Iterator[str]:
    if path in seen or not path.is_file():
        return
    seen.add(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    yield text
    for name in re.findall(r"^from lmms_eval\.tasks\.[\w.]*?(\w+) import", text, re.MULTILINE):
        yield from _texts(path.parent / f"{name}.py", seen)
