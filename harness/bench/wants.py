"""What a task wants of who answers it, read from its files: answers and media. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.bench.forms import FORMS
from harness.bench.media import refuse_other_media
from harness.bench.tasks_index import TaskFile, read_task
from harness.common.errors import UsageError

ANSWERED = tuple(FORMS)  # the output types that our model class answers
WEB = re.compile(r"\bduckduckgo_search\b|\bplaywright\b|\bselenium\b|\bserpapi\b")
CLIPS = re.compile(r"\.mp4\b|\bread_video\b")


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
