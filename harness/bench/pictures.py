"""What pictures need of a document besides its routing: the prompt's words, the boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from harness.bench.answerboxes import BOX_TASKS, OWN_TASK
from harness.store.record import IMAGE

SPACES = {"▁": " ", "Ġ": " ", "Ċ": "\n", "<0x0A>": "\n"}  # as tokenizers write them


def words(tokenizer: Any, ids: Sequence[int], kinds: Any) -> list[str]:
    """The text of every prompt token that stands for no image, in order."""
    if len(ids) != len(kinds):
        return []
    own = [token for token, kind in zip(ids, kinds.tolist(), strict=True) if kind != IMAGE]
    pieces = [str(piece) for piece in tokenizer.convert_ids_to_tokens(own)]
    for mark, space in SPACES.items():
        pieces = [piece.replace(mark, space) for piece in pieces]
    return pieces


class Boxes:
    """Boxes that bear a document's answer, read without decoding its image.

    The mini data have ``boxes`` and ``evidence``; RefCOCO's referring tasks a ``bbox`` of left,
    top, width and height. Everything else has none.
    """

    def __init__(self) -> None:
        self._columns: dict[tuple[str, int], Any] = {}

    def asked(self, task: str, documents: Any, doc_id: Any) -> bool:
        """Whether a document is answered with a box in shares of its image."""
        if task != OWN_TASK:
            return bool(BOX_TASKS.search(task))
        key = f"{task} metric", id(documents)
        if key not in self._columns:
            self._columns[key] = documents.select_columns(["metric"])
        return bool(self._columns[key][int(doc_id)]["metric"] == "iou")

    def of(self, task: str, documents: Any, doc_id: Any) -> list[list[float]]:
        """Left, top, right and bottom in pixels; empty where nothing is known."""
        key = task, id(documents)
        if key not in self._columns:
            self._columns[key] = _columns(task, documents)
        rows = self._columns[key]
        if rows is None:
            return []
        row = rows[int(doc_id)]
        if "bbox" in row:
            left, top, width, height = map(float, row["bbox"])
            return [[left, top, left + width, top + height]]
        boxes = json.loads(row["boxes"])
        return [[float(edge) for edge in boxes[i]["box"]] for i in row["evidence"]]


def _columns(task: str, documents: Any) -> Any:
    names = set(getattr(documents, "column_names", None) or ())
    if {"boxes", "evidence"} <= names:
        return documents.select_columns(["boxes", "evidence"])
    # The `rec` tasks ask for the box and hold it in another form.
    if task.startswith("refcoco") and "_rec_" not in task and "bbox" in names:
        return documents.select_columns(["bbox"])
    return None
