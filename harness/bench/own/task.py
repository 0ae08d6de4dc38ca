"""What lmms-eval calls for rows of own data. Prompts and scores are those of its own tasks.

Answers are scored by lmms-eval's functions as they are; where one takes a single right answer, the
best over a row's answers counts, as lmms-eval does it for tasks with several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count, takewhile
from string import ascii_uppercase
from typing import Any

from harness.bench.own.bench import COLUMN
from harness.bench.own.rows import METRICS, SCORE

PHRASE = "Answer the question using a single word or phrase."
# The line behind a question, as gqa, textvqa, docvqa, chartqa and scienceqa write theirs.
LINES = {
    "exact": PHRASE,
    "vqa": PHRASE,
    "anls": PHRASE,
    "relaxed": "Answer the question with a single word.",
    "choice": "Answer with the option's letter from the given choices directly.",
    "contains": "",
}


def doc_to_visual(doc: Mapping[str, Any]) -> list[Any]:
    """The images of a row, in RGB, in their order."""
    found: Iterator[Any] = (doc.get(COLUMN.format(n)) for n in count(1))
    return [image.convert("RGB") for image in takewhile(bool, found)]


def doc_to_text(doc: Mapping[str, Any]) -> str:
    """The question, its choices, and the line that asks for the form of the answer."""
    metric, given = doc["metric"], doc["post_prompt"]
    if metric == "iou" and given is None:
        from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_doc_to_text

        return str(refcoco_bbox_rec_doc_to_text({"answer": doc["question"]}))
    line = LINES[metric] if given is None else given
    below = f"\n{line}" if line else ""
    if metric == "choice":
        from lmms_eval.tasks.scienceqa.utils import sqa_doc_to_text

        how = {"format": "default", "pre_prompt": "", "post_prompt": below}
        asked = {"hint": "", "question": doc["question"], "choices": doc["choices"]}
        return str(sqa_doc_to_text(asked, how))
    return f"{doc['question']}{below}"


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """The scores of an answer under its row's metric, the row's own first where they are mixed."""
    metric = doc["metric"]
    found = SCORES[metric](doc, results[0])
    scores = found if isinstance(found, dict) else {METRICS[metric]: float(found)}
    return {SCORE: scores[METRICS[metric]], **scores} if doc["mixed"] else scores


# --- metrics --------------------------------------------------------------------------------
def _exact(doc: Mapping[str, Any], answer: str) -> float:
    from lmms_eval.api.metrics import exact_match_hf_evaluate

    how = {"ignore_case": True, "ignore_punctuation": True}
    matches = (
        exact_match_hf_evaluate(predictions=[answer], references=[right], **how)["exact_match"]
        for right in doc["answers"]
    )
    return max(map(float, matches))


def _vqa(doc: Mapping[str, Any], answer: str) -> float:
    from lmms_eval.tasks.textvqa.utils import textvqa_process_results

    own = {"answers": list(doc["answers"]), "question_id": doc["id"]}  # it writes into the list
    return float(textvqa_process_results(own, [answer])["exact_match"])


def _anls(doc: Mapping[str, Any], answer: str) -> float:
    from lmms_eval.api.metrics import anls

    return float(anls(references=doc["answers"], predictions=[answer])["anls"])


def _relaxed(doc: Mapping[str, Any], answer: str) -> float:
    from lmms_eval.tasks.chartqa.utils import relaxed_correctness

    return max(float(relaxed_correctness(answer, right)) for right in doc["answers"])


def _choice(doc: Mapping[str, Any], answer: str) -> float:
    """MMBench's reading by rule: a letter by itself, else the one option whose text is there.

    Upstream reads texts of four options at most; of more, letters alone.
    """
    from lmms_eval.tasks.mmbench.mmbench_evals import MMBench_Evaluator

    reader, choices = MMBench_Evaluator(), doc["choices"]
    letter = reader.can_infer_option(answer, num_choice=len(choices))
    if not letter and len(choices) <= 4:
        letter = reader.can_infer_text(answer, dict(zip(ascii_uppercase, choices, strict=False)))
    return float(letter == doc["answers"][0])


def _contains(doc: Mapping[str, Any], answer: str) -> float:
    from lmms_eval.tasks.ocrbench.utils import ocrbench_process_results

    own = {"answer": list(doc["answers"]), "dataset": "", "question_type": ""}
    return float(ocrbench_process_results(own, [answer])["ocrbench_accuracy"]["score"])


def _iou(doc: Mapping[str, Any], answer: str) -> dict[str, float]:
    from lmms_eval.tasks.refcoco import utils_rec

    box = utils_rec.parse_float_sequence_within(answer)
    right = utils_rec.compute_accuracy(doc["box"], box, 0.5)
    return {"ACC@0.5": float(right), "IoU": float(utils_rec.compute_iou(doc["box"], box))}


SCORES: dict[str, Callable[[Mapping[str, Any], str], float | dict[str, float]]] = {
    "exact": _exact, "vqa": _vqa, "anls": _anls, "relaxed": _relaxed, "choice": _choice,
    "contains": _contains, "iou": _iou,
}  # fmt: skip
