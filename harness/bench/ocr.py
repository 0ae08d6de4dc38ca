"""Reference OCR tokens in TextVQA's questions: lmms-eval's own line, switched on.

The task's function writes ``Reference OCR token: a, b, ...`` from the column ``ocr_tokens`` where
its setting ``ocr`` is true; nothing of it is replaced. The drawn mini data leave that column empty:
there the tokens are all the words that were drawn, as the boxes of the row have them: what a reader
without faults would see, the answer's among them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from harness.bench.benches import OCR

CASES = {"upper": str.upper, "title": str.title}  # how a word was drawn; else as it stands


def switch_on(task: Any, mini: bool) -> None:
    """Let a loaded lmms-eval task name OCR tokens; one without the setting stays as it is."""
    kwargs = task.lmms_eval_specific_kwargs
    if not kwargs or OCR not in kwargs:
        return
    kwargs[OCR] = True
    if mini:
        task.fewshot_context = _with_drawn_words(task.fewshot_context)


def _with_drawn_words(step: Any) -> Any:
    """The step of a task that writes a document's question, with the words drawn as its tokens."""

    @functools.wraps(step)
    def called(doc: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        return step({**doc, "ocr_tokens": drawn_words(doc["boxes"])}, *args, **kwargs)

    return called


def drawn_words(boxes: str) -> list[str]:
    """All words of a mini document's boxes (JSON) as they were drawn, from top to bottom."""
    words = [box for box in json.loads(boxes) if box["kind"] == "word"]
    words.sort(key=lambda box: (box["box"][1], box["box"][0]))
    return [CASES.get(box["attrs"].get("case", ""), str)(box["label"]) for box in words]
