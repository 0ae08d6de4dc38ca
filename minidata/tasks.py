"""The shipped mini benchmarks as lmms-eval tasks.  Needs no generator sources and no network.

Every task is a small YAML file under `assets/mini/tasks/<bench>/` that names upstream's own
functions (`lmms_eval.tasks.<bench>.utils`) for the picture, the prompt, the scoring and the
aggregation, and points the `parquet` loader at `assets/mini/<bench>/`.  The paths in it are
relative to the YAML file; lmms-eval (seen in 0.7.3) anchors them there, so the folder works from
any working directory:

    TaskManager(include_path=str(minidata.tasks.folder()))

`write(dst, data)` makes the same files elsewhere with absolute paths, should a version of
lmms-eval not do so.  Upstream's `gqa` joins its pictures from a second configuration in
`process_docs`; so do the benchmarks of `SHARED`, from a second file (`minidata.rows`).  The files
of all others carry the picture in each row.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from harness.common.roots import DATA
from minidata import BENCHES, HD_BENCHES

VERSION = 1.0
"""Version of the mini data; part of every task's metadata."""

SPLITS = {
    "gqa": "testdev",
    "textvqa": "validation",
    "scienceqa": "test",
    "pope": "test",
    "chartqa": "test",
    "docvqa": "validation",
}
"""Upstream's name of the evaluated split."""

SHARED = ("gqa", "scienceqa", "pope")
"""Benchmarks that ask about the same pictures, which lie in a file of their own."""
PICTURES = Path("objects", "pictures.parquet")
"""That file, beside the benchmarks' folders."""


@dataclass(frozen=True)
class _Spec:
    """What a task file says beyond the paths, in upstream's words."""

    prefix: str
    target: str
    post_prompt: str
    generation: dict[str, object]
    metrics: tuple[tuple[str, str], ...]
    scorer: str | None = None
    extra: str = ""
    exact: bool = False


_PHRASE = r"\nAnswer the question using a single word or phrase."
_GREEDY: dict[str, object] = {"max_new_tokens": 16, "temperature": 0, "do_sample": "false"}
_BEAMS: dict[str, object] = {"top_p": 1.0, "num_beams": 1}
_SPECS = {
    "gqa": _Spec(
        "gqa", "answer", _PHRASE, {**_GREEDY, **_BEAMS}, (("exact_match", "mean"),), exact=True
    ),
    "textvqa": _Spec(
        "textvqa",
        "answer",
        _PHRASE,
        {"until": '["ASSISTANT:"]'},
        (("exact_match", "mean"), ("submission", "@aggregate_submissions")),
        scorer="process_results",
        extra="    ocr: false\n",
        exact=True,
    ),
    "scienceqa": _Spec(
        "sqa",
        "@doc_to_target",
        r"\nAnswer with the option's letter from the given choices directly.",
        _GREEDY,
        (("exact_match", "mean"),),
        scorer="process_results",
        extra="    format: default\n",
        exact=True,
    ),
    "pope": _Spec(
        "pope",
        "answer",
        _PHRASE,
        {**_GREEDY, **_BEAMS, "max_new_tokens": 128},
        tuple(
            (f"pope_{m}", f"@aggregate_{m}")
            for m in ("accuracy", "precision", "recall", "f1_score", "yes_ratio")
        ),
        scorer="process_results",
    ),
    "chartqa": _Spec(
        "chartqa",
        "answer",
        r"\nAnswer the question with a single word.",
        _GREEDY,
        tuple((f"relaxed_{m}", "mean") for m in ("overall", "human_split", "augmented_split")),
        scorer="process_results",
    ),
    "docvqa": _Spec(
        "docvqa", "answers", _PHRASE, {**_GREEDY, "max_new_tokens": 32}, (("anls", "mean"),)
    ),
}


def folder() -> Path:
    """The shipped task folder, to be given to lmms-eval as `include_path`."""
    return DATA / "assets" / "mini" / "tasks"


def upstream(bench: str) -> str:
    """The upstream benchmark that a mini one follows."""
    return bench.removesuffix("_hd")


def task_name(bench: str) -> str:
    """lmms-eval task name of a mini benchmark."""
    return f"{bench}_mini"


def data_file(bench: str, data: Path | None = None) -> Path:
    """Parquet file of a mini benchmark, in the shipped folder or in `data`."""
    return (data or folder().parent) / bench / f"{SPLITS[upstream(bench)]}.parquet"


def data_files(bench: str, data: Path | None = None) -> list[Path]:
    """That file and, where the pictures lie apart, theirs: what `minidata.rows.read` wants."""
    shared = [(data or folder().parent) / PICTURES] if bench in SHARED else []
    return [data_file(bench, data), *shared]


def task_yaml(bench: str, files: list[str]) -> str:
    """Text of the task file; `files` are those of `data_files` as the YAML shall name them."""
    spec, split = _SPECS[upstream(bench)], SPLITS[upstream(bench)]

    def function(name: str) -> str:
        return f"!function lmms_eval.tasks.{upstream(bench)}.utils.{spec.prefix}_{name}"

    lines = [
        f"task: {task_name(bench)}",
        "dataset_path: parquet",
        "dataset_kwargs:",
        "  data_files:",
        f"    {split}: {files[0]}" if len(files) == 1 else f"    {split}: [{', '.join(files)}]",
        f"test_split: {split}",
        *(["process_docs: !function minidata.rows.joined"] if len(files) > 1 else []),
        "output_type: generate_until",
        f"doc_to_visual: {function('doc_to_visual')}",
        f"doc_to_text: {function('doc_to_text')}",
        "doc_to_target: "
        + (function(spec.target[1:]) if spec.target.startswith("@") else f'"{spec.target}"'),
        "generation_kwargs:",
        *[f"  {key}: {value}" for key, value in spec.generation.items()],
    ]
    if spec.scorer:
        lines.append(f"process_results: {function(spec.scorer)}")
    lines.append("metric_list:")
    for metric, how in spec.metrics:
        lines += [
            f"  - metric: {metric}",
            "    aggregation: " + (function(how[1:]) if how.startswith("@") else how),
            "    higher_is_better: true",
        ]
        if spec.exact and metric == "exact_match":
            lines += ["    ignore_case: true", "    ignore_punctuation: true"]
    lines += [
        "lmms_eval_specific_kwargs:",
        "  default:",
        '    pre_prompt: ""',
        f'    post_prompt: "{spec.post_prompt}"',
    ]
    return "\n".join(lines) + "\n" + spec.extra + f"metadata:\n  - version: {VERSION}\n"


def write(dst: Path, data: Path | None = None) -> list[Path]:
    """Write all task files under `dst`, one folder each, and return them.

    With `data` (folder holding `<bench>/<split>.parquet`) the paths are absolute; without it they
    are relative, for a `dst` that is named `tasks` and lies beside the data.
    """
    out = []
    for bench in BENCHES + HD_BENCHES:
        path = dst / bench / f"{task_name(bench)}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if data:
            files = [str(file.resolve()) for file in data_files(bench, data)]
        else:
            files = [os.path.join("..", "..", file) for file in data_files(bench, Path())]
        path.write_text(task_yaml(bench, files), encoding="utf-8")
        out.append(path)
    return out
