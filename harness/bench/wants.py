"""What a task wants of who answers it, read from its files: answers, media, a judge. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench.forms import FORMS
from harness.bench.media import refuse_other_media
from harness.bench.tasks_index import TaskFile, read_task
from harness.common.errors import UsageError

ANSWERED = tuple(FORMS)  # the output types that our model class answers
WEB = re.compile(r"\bduckduckgo_search\b|\bplaywright\b|\bselenium\b|\bserpapi\b")
CLIPS = re.compile(r"\.mp4\b|\bread_video\b")
# How upstream's scoring reaches a language model.
JUDGE = re.compile(
    r"\bget_server\(|\bget_chat_response\(|\bOpenAI\(|api\.openai\.com|\bOpenAIVerifier\("
)


def refuse_unanswerable(file: TaskFile) -> None:
    """Raise UsageError, one line, for a task that cannot be run here, before anything is fetched.

    Tasks in a form that is not answered, with solved examples, about videos or sounds, or
    that lmms-eval itself cannot ask or score.
    """
    task = read_task(file.path)
    said = f"--bench: task '{file.name}'"
    wants = task.get("output_type", ANSWERED[0])
    if wants not in ANSWERED:
        raise UsageError(f"{said} wants {wants} requests; answered are {', '.join(ANSWERED)}")
    if task.get("num_fewshot"):
        raise UsageError(
            f"{said} shows {task['num_fewshot']} solved examples before each question; only tasks "
            "without them (num_fewshot 0) can be run"
        )
    refuse_other_media(file)
    if wants == "loglikelihood" and not task.get("process_results"):
        raise UsageError(
            f"{said} has no process_results, and lmms-eval's own scoring cannot read the one pair "
            "of a loglikelihood task: write one, or ask as multiple_choice"
        )
    if wants == "multiple_choice" and "acc_mutual_info" in _metrics(task):
        raise UsageError(
            f"{said} wants acc_mutual_info, whose requests lmms-eval cannot build (they have no "
            "document): choose acc or acc_norm"
        )
    if wants == "generate_until_multi_round":
        _refuse_live(said, file.path.parent)


def refuse_mixed(name: str, files: Sequence[TaskFile]) -> None:
    """Raise UsageError for a group of tasks of several question forms: a cell is of one."""
    wants = {read_task(file.path).get("output_type", ANSWERED[0]): file.name for file in files}
    if len({id(FORMS[one]) for one in wants}) > 1:
        told = ", ".join(f"{one} ({task})" for one, task in wants.items())
        raise UsageError(f"--bench: '{name}' mixes question forms: {told}; name its tasks")


def _metrics(task: Mapping[str, Any]) -> list[Any]:
    return [m.get("metric") for m in task.get("metric_list") or () if isinstance(m, dict)]


def _refuse_live(said: str, folder: Path) -> None:
    """Raise UsageError for a conversation whose next question comes from the web or from videos."""
    for path in (*folder.glob("*.py"), *folder.glob("*/*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if WEB.search(text):
            raise UsageError(f"{said} searches the web between its rounds, which is not done here")
        if CLIPS.search(text):
            raise UsageError(f"{said} is about videos; only tasks about images can be run")


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
