"""Benches whose documents have several images, by name: where images go, what each keeps."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import methods
from harness.bench.benches import resolve_bench
from harness.bench.loop import CellResult
from harness.bench.request import GenerationKwargs
from harness.model.session import Session
from harness.store.images import of_images
from harness.store.record import IMAGE
from tests.fixtures.several import SIZES, write_blink, write_mmmu, write_muirbench, write_seedbench
from tests.loop.cells import predictions, run

TOKENS = 16  # of an image of the test model


def gaps(result: CellResult, doc: str) -> list[int]:
    """Text tokens between one image of a document and the next."""
    images = result.records[doc].images
    return [int(b[0] - a[-1] - 1) for a, b in pairwise(images)]


def test_muirbench_puts_images_where_the_question_says(llava: Session, tmp_path: Path) -> None:
    from lmms_eval.tasks.muirbench import utils

    asked = ["Is the dog in <image> left of the one in <image>?", "Which of these is red?",
             "<image> <image> <image> which?"]  # fmt: skip
    write_muirbench(tmp_path, asked, "AAA")
    result = run(llava, resolve_bench("muirbench", str(tmp_path)))
    assert result.headline.metric == "muirbench_score_overall"
    assert [record.n_images for record in result.records.values()] == [2, 2, 2]
    words = llava.processor.tokenizer(" left of the one in ", add_special_tokens=False)["input_ids"]
    assert abs(gaps(result, "0")[0] - len(words)) <= 1  # a space more or less
    # Not marked, or marked as often as there are no images: in front, in order.
    assert gaps(result, "1") == gaps(result, "2") != gaps(result, "0")
    for doc in ("1", "2"):
        assert result.records[doc].images[0][0] < 12
    answers = predictions(result)
    write_muirbench(tmp_path / "again", asked, [answers[0], "Z", answers[2].lower()])
    again = run(llava, resolve_bench("muirbench", str(tmp_path / "again")))
    docs = [{"task": "Counting", "idx": str(i), "image_relation": "", "image_type": "",
             "answer": a} for i, a in enumerate([answers[0], "Z", answers[2].lower()])]  # fmt: skip
    letters = utils.MultiChoiceRegexFilter(r"([A-Z])\.").apply([[a] for a in answers], docs)
    rows = [
        utils.muir_process_results(d, [p])["muirbench_score_overall"]
        for d, p in zip(docs, letters, strict=True)
    ]
    assert again.headline.value == utils.muir_aggregation(rows) == pytest.approx(2 / 3)


def test_mmmu_has_all_images_in_front(llava: Session, tmp_path: Path) -> None:
    write_mmmu(tmp_path, [3, 2], ["A", "A"])
    result = run(llava, resolve_bench("mmmu", str(tmp_path)))
    three, two = result.records.values()
    assert (three.n_images, two.n_images) == (3, 2) and result.headline.metric == "mmmu_acc"
    assert [len(own) for own in three.images] == [TOKENS] * 3
    assert max(gaps(result, "0")) <= 2  # a line's end
    picture = result.samples[0].picture
    assert picture is not None and len(picture["images"]) == 3
    assert [g["image"] for g in three.grid] == [[high, wide] for wide, high in (SIZES * 2)[1:4]]


def test_blink_takes_one_to_four_images(
    llava_next: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmms_eval.tasks.blink import utils

    # The task lets a model write 1024 tokens, and one of random weights does.
    monkeypatch.setattr(GenerationKwargs, "of_task", lambda *_: (GenerationKwargs(6), ""))
    write_blink(tmp_path, "Jigsaw", [1, 4, 3], ["(A)", "(B)", "(A)"])
    bench = resolve_bench("blink_jigsaw", str(tmp_path))
    dense = run(llava_next, bench)
    docs = [{"idx": i, "sub_task": "Jigsaw", "answer": a, "choices": ["", ""]}
            for i, a in enumerate(["(A)", "(B)", "(A)"])]  # fmt: skip
    rows = [utils.blink_process_results(d, [p])["blink_acc"]
            for d, p in zip(docs, predictions(dense), strict=True)]  # fmt: skip
    assert dense.headline.value == utils.blink_aggregate_results(rows)
    result = run(llava_next, bench, methods.parse("divprune:ratio=0.25"))
    for record, count in zip(result.records.values(), (1, 4, 3), strict=True):
        images = record.images
        assert len(images) == record.n_images == count
        assert np.concatenate(images).tolist() == np.flatnonzero(record.kinds == IMAGE).tolist()
        numbers = {grid["number"] for grid in record.grid}
        assert numbers == set(range(count))
        # Each image keeps a quarter of its own tokens, whatever its size.
        kept = [int(record.keep[0, own].sum()) for own in images]
        assert kept == [round(len(own) * 0.25) for own in images]
        said = of_images(record)
        if count == 1:
            assert said == {}
            continue
        assert said["image_tokens"] == " ".join(str(len(own)) for own in images)
        assert said["image_kept"] == " ".join(map(str, kept))


@pytest.mark.parametrize("spec", ["dense", "fastv:k=1:tokens=8"])
def test_a_list_of_frames_is_as_many_images(llava: Session, tmp_path: Path, spec: str) -> None:
    write_seedbench(tmp_path, [4, 1], ["A", "B"])
    result = run(llava, resolve_bench("seedbench", str(tmp_path)), methods.parse(spec))
    frames, single = result.records.values()
    assert len(frames.grid) == frames.n_images == 4 and single.n_images == 1
    assert [g["number"] for g in frames.grid] == [0, 1, 2, 3]
    assert len({tuple(g["image"]) for g in frames.grid}) == 4  # each placed in its own picture
    if spec == "dense":
        return
    # Eight tokens an image: 32 of the four together, shared out as attention has it.
    layers, kept = frames.layers, frames.processed_per_layer(IMAGE)
    assert abs(float(kept.mean()) - 32) <= 1 and abs(single.keep[:, single.kinds == IMAGE].sum(
    ) / layers - 8) <= 1  # fmt: skip
    each = [float((frames.route[:, own] == own).sum(axis=1).mean()) for own in frames.images]
    assert sum(each) == pytest.approx(float(kept.mean()))
    said: dict[str, Any] = of_images(frames)
    assert [float(x) for x in said["image_kept"].split()] == pytest.approx(each, rel=1e-5)
