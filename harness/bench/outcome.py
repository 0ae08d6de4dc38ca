"""What lmms-eval made of a bench's answers: metrics, or why there are none, and files to hand in.

Two kinds of benches have no number at the end of a run: those whose scoring asks a language model
(`harness.bench.judge` scores them later), and test splits, whose answers a server scores. Their
answers are whole, and lie beside the run as files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.bench.guard import Scoring
from harness.bench.scores import Metric, extract, numeric
from harness.common.errors import CellError

NEEDS_JUDGE = "needs a judge"
SUBMIT = "submit "  # and the name of the file
ANSWERS = "answers.jsonl"
FOLDER = "submissions"  # where upstream's tasks put what a server wants


@dataclass(frozen=True)
class Outcome:
    """Metrics, the headline first, and files by name, as they are to lie beside the run."""

    metrics: tuple[Metric, ...]
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()


def outcome(
    results: Mapping[str, Any],
    tasks: Mapping[str, Any],
    bench: Any,
    scoring: Scoring,
    output: Path,
    answers: Mapping[tuple[str, str], Any],
) -> Outcome:
    """The outcome of a bench that was scored without a judge.

    ``output``: the folder that the tasks wrote below. ``answers``: by task and document. Raises
    CellError where there is neither a number nor a reason.
    """
    files = handed_in(output)
    short = _left_out(results, tasks)
    if scoring.wanted or bench.judged:
        lines = _answer_lines(results, tasks, answers)
        files[ANSWERS] = "".join(f"{line}\n" for line in lines).encode()
        return Outcome((_unscored(bench, tasks, NEEDS_JUDGE),), files, _notes(files, short))
    if not numeric(results, tasks) and files:
        why = SUBMIT + ", ".join(files) + (f" (incomplete: {short})" if short else "")
        return Outcome((_unscored(bench, tasks, why),), files, _notes(files, short))
    # Of a bench that is scored here nobody hands in the file that its task may write as well.
    return Outcome(tuple(extract(results, tasks, bench.metric, bench.task)))


def handed_in(output: Path) -> dict[str, bytes]:
    """The files that the tasks wrote to hand in, by name."""
    folder = output / FOLDER
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _unscored(bench: Any, tasks: Mapping[str, Any], why: str) -> Metric:
    """The headline of a bench without a value."""
    first = next(iter(tasks.values()))
    name = bench.metric or next(iter(first.aggregation()), "score")
    better = bool(first.higher_is_better().get(name, True))
    return Metric(bench.task, name, math.nan, better, {}, is_mean=False, not_scored=why)


def _left_out(results: Mapping[str, Any], tasks: Mapping[str, Any]) -> str:
    """`8 of 4329 documents` where not all were asked, else nothing."""
    counts = [results["n-samples"][name] for name in tasks if name in results["n-samples"]]
    asked, there = (sum(one[kind] for one in counts) for kind in ("effective", "original"))
    return f"{asked} of {there} documents" if asked < there else ""


def _notes(files: Mapping[str, bytes], short: str) -> tuple[str, ...]:
    if not files:
        return ()
    said = f"; incomplete: {short}" if short else ""
    return (f"to hand in or to judge: {', '.join(files)}{said}",)


def _answer_lines(
    results: Mapping[str, Any], tasks: Mapping[str, Any], answers: Mapping[tuple[str, str], Any]
) -> Iterator[str]:
    """Every answer with its question and its document, without media, as lines of JSON."""
    for name in tasks:
        seen = set()
        for row in results["samples"].get(name, []):
            if row["doc_id"] in seen:
                continue  # the same document under another answer filter
            seen.add(row["doc_id"])
            yield json.dumps(
                {
                    "task": name,
                    "doc_id": str(row["doc_id"]),
                    "prompt": prompt_of(row),
                    "prediction": answers[name, str(row["doc_id"])].for_scoring,
                    "document": row["doc"],
                },
                ensure_ascii=False,
                default=str,
            )


def prompt_of(row: Mapping[str, Any]) -> str:
    """The text that a logged sample was asked with."""
    return next((str(one) for one in row["arguments"] if isinstance(one, str)), "")


def read_answers(content: str, name: str) -> dict[tuple[str, str], dict[str, str]]:
    """What `answers.jsonl` says of each task and document. Raises CellError for a damaged one."""
    try:
        # Not splitlines(): answers may hold U+2028 and its like, which JSON leaves as they are.
        rows = [json.loads(line) for line in content.split("\n") if line]
        return {(str(row["task"]), str(row["doc_id"])): row for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise CellError(f"{name}: no file of answers ({error})") from None
