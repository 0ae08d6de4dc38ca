"""What a training scene's questions become: short forms, forms drawn sooner, rows read lazily."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from harness.common import heap
from harness.minimodel.packing import PackedScenes, Packer
from harness.minimodel.scenes import Scenes
from harness.minimodel.tokenizer import train_tokenizer
from minidata import build
from minidata.scene import PHRASE

ASKED = ("Where is the cat?", "What color is the dog?", "How many cats are there?")
FORMS = ("where_is", "color_of", "count_kind")


@pytest.fixture(scope="module")
def tokenizer():
    texts = [f"USER: <image>\n{q}{PHRASE} ASSISTANT: red</s>" for q in ASKED]
    return train_tokenizer(texts * 4, 500)


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    qa = [
        {"bench": "gqa", "prompt": q + PHRASE, "answer": "red", "template": form}
        for q, form in zip(ASKED, FORMS, strict=True)
    ]
    np.save(tmp_path / "images.npy", np.zeros((4, 64, 64, 3), dtype=np.uint8))
    line = json.dumps({"scene_id": "0", "family": "objects", "boxes": [], "qa": qa})
    (tmp_path / "scenes.jsonl").write_text(f"{line}\n" * 4, encoding="utf-8")
    return Scenes(tmp_path)


def packed(scenes: Scenes, tokenizer, **settings) -> PackedScenes:
    features = np.zeros((4, 16, 8), dtype=np.float16)
    return PackedScenes(scenes, features, tokenizer, range(4), **settings)


def texts(data: PackedScenes, i: int) -> list[str]:
    return [data.tokenizer.decode(block.ids) for block in data.blocks(i)]


def test_a_short_question_lacks_the_line_that_says_how_to_answer_and_nothing_else(
    scenes, tokenizer
):
    whole, short = packed(scenes, tokenizer), packed(scenes, tokenizer, short=1.0)
    for long, brief in zip(texts(whole, 0), texts(short, 0), strict=True):
        assert PHRASE.strip() in long and long.replace(PHRASE, "") == brief
    some = packed(scenes, tokenizer, short=0.5, seed=3)
    draws = [PHRASE.strip() in text for i in range(4) for text in texts(some, i)]
    assert len(set(draws)) == 2
    assert draws == [PHRASE.strip() in text for i in range(4) for text in texts(some, i)]


def test_a_block_longer_than_allowed_is_left_out(scenes, tokenizer):
    whole = packed(scenes, tokenizer)
    lengths = [len(block.ids) for block in whole.blocks(0)]
    fewer = packed(scenes, tokenizer, longest=min(lengths))
    assert [len(block.ids) for block in fewer.blocks(0)] == [
        n for n in lengths if n == min(lengths)
    ]


def test_forms_are_drawn_in_proportion_to_their_weights(scenes, tokenizer):
    """Room for one question: with weights 3, 1 and (unnamed) 1 it is the first in 3 of 5 draws."""
    data = packed(scenes, tokenizer)
    item = data[0]
    room = max(len(block.ids) for block in data.blocks(0))
    image = (tokenizer.convert_tokens_to_ids("<image>"), 16)
    packer = Packer(data.prefix, image, 4, room, 0, weights={"gqa/where_is": 3, "gqa/color_of": 1})
    first = Counter(packer._pick(item["blocks"])[0].template for _ in range(2000))
    assert first["where_is"] / 2000 == pytest.approx(0.6, abs=0.05)
    assert first["color_of"] / 2000 == pytest.approx(0.2, abs=0.05)


def test_more_rounds_add_questions_and_change_no_earlier_one(monkeypatch):
    """Receipts need no material but fonts, which are not drawn here."""
    monkeypatch.setattr(build.receipts, "render", boxes_only)
    for index in range(30):
        one = build.make(7, index, False, None, "doc")  # type: ignore[arg-type]
        four = build.make(7, index, False, None, "doc", rounds=4)  # type: ignore[arg-type]
        assert four.identifier == one.identifier and four.boxes == one.boxes
        asked = [(q.bench, q.question) for q in four.questions]
        assert asked[: len(one.questions)] == [(q.bench, q.question) for q in one.questions]
        assert len(set(asked)) == len(asked)


def boxes_only(spec: dict, rng: random.Random, pack: object) -> tuple[None, list]:
    """The boxes of a receipt or form, all at one place."""
    from minidata.receipts import _money
    from minidata.scene import Box

    def box(role: str, label: str) -> Box:
        return Box("word", label, [0, 0, 8, 8], {"role": role})

    if spec["form"]:
        return None, [box(name.lower(), value) for name, value in spec["fields"]]
    items = [(box("item", n), box("price", _money(p))) for n, p in spec["items"]]
    rows = [b for pair in items for b in pair]
    total = _money(sum(p for _, p in spec["items"]))
    return None, [box("shop", spec["shop"]), box("date", spec["date"]), *rows, box("total", total)]


def test_malloc_is_left_alone_where_the_user_has_set_it(monkeypatch):
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert heap.keep() is False


def test_training_starts_again_with_large_pages_once_and_only_where_they_are_on_request(
    monkeypatch, tmp_path
):
    pages, begun = tmp_path / "enabled", []
    monkeypatch.setattr(heap, "LARGE_PAGES", pages)
    monkeypatch.setattr("os.execve", lambda *call: begun.append(call))
    for name in (*heap.NAMES, heap.ONCE):
        monkeypatch.delenv(name, raising=False)
    for said in ("[always] madvise never", "always madvise [never]"):
        pages.write_text(said)
        heap.restart()
    assert begun == []
    pages.write_text("always [madvise] never")
    heap.restart()
    if not sys.platform.startswith("linux"):
        assert begun == []
        return
    ((program, command, environment),) = begun
    assert (program, command) == (sys.executable, sys.orig_argv)
    monkeypatch.setenv("GLIBC_TUNABLES", environment["GLIBC_TUNABLES"])
    assert heap.keep() is True  # what it would set was set at the start
    heap.restart()
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.top_pad=1")  # the user's own
    heap.restart()
    assert len(begun) == 1 and heap.keep() is False
    monkeypatch.delenv("GLIBC_TUNABLES")  # a wrapper that takes it away must not make a circle
    monkeypatch.setenv(heap.ONCE, "1")
    heap.restart()
    assert len(begun) == 1
