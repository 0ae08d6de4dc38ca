"""The benches: our short names, the lmms-eval task behind each, and the data it runs on.

Torch-free, and lmms-eval is not imported. Any other lmms-eval task name passes through as it
stands; whether it exists is read from lmms-eval's task files.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.bench.sources import Source
from harness.bench.tasks_index import (
    TaskFile,
    index,
    read_task,
    task_digest,
    tasks_of,
    upstream_folder,
)
from harness.bench.wants import asks_judge, refuse_unanswerable
from harness.errors import UsageError
from harness.model.weights import file_hash
from harness.nearest import nearest
from harness.settings import ROOT

MINI = ROOT / "assets" / "mini"
JUDGES = ("OPENAI_API_KEY", "AZURE_API_KEY")  # either lets upstream's judges work


@dataclass(frozen=True)
class Spec:
    """One line of ``--list benches``: task, headline metric, and what it wants.

    ``pairs``: upstream's metric needs documents in pairs. ``judge``: scoring asks a language
    model through an API whose key is in one of these environment variables.
    """

    task: str
    metric: str
    summary: str
    mini: bool = False
    pairs: bool = False
    judge: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()  # further dataset configurations the task reads


BENCHES: dict[str, Spec] = {
    "gqa": Spec(
        "gqa",
        "exact_match",
        "questions about objects and relations, test-dev balanced, exact match",
        mini=True,
        configs=("testdev_balanced_images",),
    ),
    "textvqa": Spec(
        "textvqa_val",
        "exact_match",
        "reading text in photos, validation, no OCR hint, VQA accuracy",
        mini=True,
    ),
    "scienceqa": Spec(
        "scienceqa_img",
        "exact_match",
        "school science with a picture, option letter, exact match",
        mini=True,
    ),
    "mmmu": Spec("mmmu_val", "mmmu_acc", "college subjects, several images, validation"),
    "vqav2": Spec("vqav2_val", "exact_match", "everyday photos, validation, VQA accuracy"),
    "pope": Spec(
        "pope",
        "pope_accuracy",
        "is the object there? yes or no, all three splits pooled, accuracy",
        mini=True,
    ),
    "mme": Spec(
        "mme",
        "mme_perception_score",
        "yes/no questions in pairs, perception score of at most 2000",
        pairs=True,
    ),
    "mmbench": Spec(
        "mmbench_en_dev_static",
        "gpt_eval_score",
        "multiple choice in rotations, English dev, letters read by rule, percent",
    ),
    "mmvet": Spec(
        "mmvet",
        "gpt_eval_score",
        "free answers, scored by a GPT judge (needs a key and a network)",
        judge=JUDGES,
    ),
    "vizwiz": Spec("vizwiz_vqa_val", "exact_match", "photos by blind people, validation"),
    "seedbench": Spec("seedbench", "seed_image", "multiple choice, score of the image part"),
    "okvqa": Spec("ok_vqa_val2014", "exact_match", "outside knowledge, VQA accuracy"),
    "ai2d": Spec("ai2d", "exact_match", "school diagrams, option letter, exact match"),
    "docvqa": Spec(
        "docvqa_val", "anls", "scanned documents, validation, edit similarity", mini=True
    ),
    "chartqa": Spec(
        "chartqa", "relaxed_overall", "charts, answers within 5 % count as right", mini=True
    ),
    "infovqa": Spec("infovqa_val", "anls", "infographics, validation, edit similarity"),
    "realworldqa": Spec("realworldqa", "exact_match", "real scenes, exact match"),
    "refcoco": Spec("refcoco_bbox_rec_val", "refcoco_ACC@0.5", "the box of a phrase, validation"),
    "refcoco+": Spec(
        "refcoco+_bbox_rec_val", "refcoco_ACC@0.5", "the box, no place words, validation"
    ),
    "refcocog": Spec(
        "refcocog_bbox_rec_val", "refcoco_ACC@0.5", "the box of a sentence, validation"
    ),
}


def bench_names() -> list[str]:
    """The short names, in listing order."""
    return list(BENCHES)


@dataclass(frozen=True)
class Bench:
    """A bench on concrete data.

    ``name`` as it was asked for, ``task`` the lmms-eval name, ``asked`` mini or hub, ``metric``
    the headline metric ("" = the first of the task), ``root`` a folder of local copies of hub
    datasets (see :mod:`harness.bench.hubdata`), ``parts`` the tasks of a group or tag.
    """

    name: str
    task: str
    asked: str
    metric: str
    file: TaskFile
    summary: str = ""
    root: Path | None = None
    pairs: bool = False
    judge: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    parts: tuple[TaskFile, ...] = ()

    @property
    def mini(self) -> bool:
        return self.asked == "mini"

    @property
    def tasks(self) -> tuple[TaskFile, ...]:
        """The files of all tasks that are run."""
        return self.parts or (self.file,)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """What each of the tasks reads."""
        return tuple(
            Source.of_task(read_task(file.path), file.path.parent, self.root) for file in self.tasks
        )

    @property
    def data(self) -> str:
        """What is read: ``mini``, ``hub``, ``local`` (files of the user's own), ``hub+local``."""
        if self.mini:
            return "mini"
        return "+".join(sorted({source.kind for source in self.sources}))

    @property
    def data_source(self) -> str:
        """The data by name and version: dataset and commit, or file and hash."""
        return ", ".join(dict.fromkeys(str(source) for source in self.sources))

    @cached_property
    def task_version(self) -> str:
        """Version of prompt and scoring: the file's own number and a hash over task and code."""
        files = dict.fromkeys((self.file, *self.tasks))
        digests = [task_digest(file.path) for file in files]
        digest = digests[0] if len(digests) == 1 else _digest("\n".join(digests))
        meta = read_task(self.file.path).get("metadata")
        entries = meta if isinstance(meta, list) else [meta]
        numbers = [str(m["version"]) for m in entries if isinstance(m, dict) and "version" in m]
        return f"{numbers[0]}-{digest[:12]}" if numbers else digest[:12]

    @cached_property
    def fingerprint(self) -> str:
        """What the documents are: a hash over dataset, configuration and version of every task."""
        if self.mini:
            return file_hash(_mini_data(self.file.path))
        return _digest("\n".join(f"{s.dataset} {s.config} {s.version}" for s in self.sources))

    @cached_property
    def documents(self) -> int | None:
        """How many documents there are at most, where that can be told without loading them."""
        if self.mini:
            from pyarrow.parquet import read_metadata

            return int(read_metadata(_mini_data(self.file.path)).num_rows)
        from harness.bench.hubdata import prepared_documents

        config = read_task(self.file.path)
        split = config.get("test_split") or config.get("validation_split")
        if self.file.kind != "task" or not split or not config.get("dataset_path"):
            return None
        return prepared_documents(
            str(config["dataset_path"]),
            str(config.get("dataset_name") or ""),
            str(split),
            self.root,
        )

    def require(self, limit: int | None = None) -> None:
        """Check what can be checked before running.

        Raises UsageError, one line: dataset not here and not reachable, a judge without a key, a
        limit that cuts a pair.
        """
        if self.judge and not any(os.environ.get(name) for name in self.judge):
            raise UsageError(f"--bench: {self.name} asks a GPT judge: set {self.judge[0]}")
        if self.pairs and limit is not None and limit % 2:
            raise UsageError(f"--limit: {self.name} scores documents in pairs, so N must be even")
        if self.mini:
            if not _mini_data(self.file.path).is_file():
                raise UsageError(f"--bench: the mini data of {self.name} is missing: run make data")
            return
        for source in self.sources:
            source.require(self.configs, self.name)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _mini_data(task_file: Path) -> Path:
    files = read_task(task_file)["dataset_kwargs"]["data_files"]
    return task_file.parent / str(next(iter(files.values())))


def resolve_bench(name: str, data: str = "auto", mini_model: bool = False) -> Bench:
    """The bench behind a name from the table, or an lmms-eval task name as it stands.

    ``data``: ``mini``; ``hub``; a folder of local copies of hub datasets; ``auto`` takes mini for
    the shipped (mini) model and the real data otherwise.
    Raises UsageError: unknown name (with the nearest), no mini version, a task that wants
    something other than generated answers.
    """
    root = None
    if data not in ("auto", "mini", "hub"):
        root = Path(data).expanduser()
        if not root.is_dir():
            raise UsageError(f"--data: '{data}' is not auto, mini, hub or a folder")
        data = "hub"  # by name; what is read is `Bench.data`
    spec = BENCHES.get(name)
    mini_tasks = index(MINI / "tasks")
    if spec is None and name in mini_tasks and data != "hub":
        return _mini_bench(name.removesuffix("_mini"), mini_tasks)
    if data == "auto":
        data = "mini" if mini_model and spec is not None else "hub"
    if data == "mini":
        if spec is None or not spec.mini:
            _known(name)
            have = ", ".join(bench for bench, spec in BENCHES.items() if spec.mini)
            raise UsageError(
                f"--bench: '{name}' has no mini version (there is one of {have}); "
                "--data hub runs the real dataset"
            )
        return _mini_bench(name, mini_tasks)
    return _hub_bench(name, spec, root)


def _mini_bench(name: str, mini_tasks: dict[str, TaskFile]) -> Bench:
    task = f"{name}_mini"
    if task not in mini_tasks:
        raise UsageError(f"--bench: the mini task of {name} is missing here: run make data")
    spec = BENCHES[name]
    return Bench(
        name=name,
        task=task,
        asked="mini",
        metric=spec.metric,
        file=mini_tasks[task],
        summary=spec.summary,
        pairs=spec.pairs,
    )


def _hub_bench(name: str, spec: Spec | None, root: Path | None) -> Bench:
    file = _known(spec.task if spec else name)
    parts = tuple(tasks_of(file, index(upstream_folder())))
    judged = False
    for part in parts:
        refuse_unanswerable(part)
        judged = judged or asks_judge(part)
    if spec is None:
        judge = JUDGES if judged else ()
        return Bench(name, name, "hub", "", file, root=root, judge=judge, parts=parts)
    return Bench(
        name=name,
        task=spec.task,
        asked="hub",
        metric=spec.metric,
        file=file,
        summary=spec.summary,
        root=root,
        pairs=spec.pairs,
        judge=spec.judge,
        configs=spec.configs,
    )


def _known(name: str) -> TaskFile:
    """The task file of a name; UsageError with the nearest valid one, ours before upstream's."""
    tasks = index(upstream_folder())
    if name in BENCHES:
        name = BENCHES[name].task
    if name in tasks:
        return tasks[name]
    close = nearest(name, BENCHES) or nearest(name, tasks)
    hint = f"did you mean '{close}'?" if close else f"choose from {', '.join(BENCHES)}"
    raise UsageError(f"--bench: unknown bench '{name}': {hint} (any lmms-eval task works too)")
