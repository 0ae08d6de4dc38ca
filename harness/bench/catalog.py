"""The table of benches: our short names and the lmms-eval task behind each. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

# What the drawn benches of high resolution ask of a model.
LARGE = "384 to 768 px, letters from 11 px (lost where a model shrinks them)"


@dataclass(frozen=True)
class Spec:
    """One line of ``--list benches``: task, headline metric, and what it wants.

    ``mini``: there are mini data of it; ``drawn``: nothing else, ``task`` is what it follows.
    ``pairs``: upstream's metric needs documents in pairs. ``judged``: scoring asks a language
    model, whatever the answers are.
    """

    task: str
    metric: str
    summary: str
    mini: bool = False
    drawn: bool = False
    pairs: bool = False
    judged: bool = False
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
        "free answers; --judge has a language model score them",
        judged=True,
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
    "ocrbench": Spec(
        "ocrbench",
        "ocrbench_accuracy",
        "text in pictures, right if the answer holds it, share of those asked",
    ),
    "mmstar": Spec(
        "mmstar", "average", "multiple choice that needs the picture, mean over 18 abilities"
    ),
    "mathvista": Spec(
        "mathvista_testmini_format",
        "llm_as_judge_eval",
        "mathematics in pictures, testmini; a GPT reads answers that are no number or choice",
        judged=True,
    ),
    "hallusionbench": Spec(
        "hallusion_bench_image",
        "aAcc",
        "illusions and edited figures, yes or no, read by a GPT judge",
        judged=True,
    ),
    "blink": Spec("blink", "blink_acc", "14 tasks of seeing, one to four images, validation"),
    "mmbench_cn": Spec(
        "mmbench_cn_dev",
        "gpt_eval_score",
        "MMBench in Chinese, dev; a GPT reads answers without a letter",
        judged=True,
    ),
    "muirbench": Spec(
        "muirbench",
        "muirbench_score_overall",
        "two images and more, put where the question says, option letter",
    ),
    "textvqa_hd": Spec(
        "textvqa_val",
        "exact_match",
        f"many signs, {LARGE}, VQA accuracy",
        mini=True,
        drawn=True,
    ),
    "chartqa_hd": Spec(
        "chartqa",
        "relaxed_overall",
        f"charts of 8 to 18 marks, {LARGE}, answers within 5 % count as right",
        mini=True,
        drawn=True,
    ),
    "docvqa_hd": Spec(
        "docvqa_val",
        "anls",
        f"receipts of 9 to 25 items and long forms, {LARGE}, edit similarity",
        mini=True,
        drawn=True,
    ),
}
