"""Instruction data: bad rows are counted, labels stand on answers only, images get their tokens."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from harness.common.errors import UsageError
from harness.train.folder import same_run
from harness.train.images import ImageReader
from harness.train.rows import BadRow, normalise
from harness.train.samples import Collator, open_samples
from harness.train.templates import IGNORE, VICUNA, encode, pieces
from tests import train_tools as tools


def talk(*values, first="human"):
    roles = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": roles[i % 2], "value": v} for i, v in enumerate(values)]


BAD = {
    "not an object": "text",
    "no conversations": {"id": "b1", "conversations": []},
    "a message without text": {"id": "b2", "conversations": [{"from": "human"}]},
    "unknown role": {"id": "b3", "conversations": [{"from": "system", "value": "x"}]},
    "wrong turn order": {"id": "b4", "conversations": talk("a", "b", first="gpt")},
    "empty answer": {"id": "b5", "conversations": talk("a", " ")},
    "image file missing": {"id": "b6", "image": "no.png", "conversations": talk("<image>", "b")},
    "image file unreadable": {"id": "b7", "image": "t.txt", "conversations": talk("<image>", "b")},
    "number of <image> does not match the images": {
        "id": "b8",
        "image": "a/0.png",
        "conversations": talk("a", "b"),
    },
    "an image placeholder in an answer": {"id": "b9", "conversations": talk("a", "<image>")},
    "an image entry that is not a file name": {
        "id": "b10",
        "image": [3],
        "conversations": talk("<image>", "b"),
    },
    "no answer left within 256 tokens": {"id": "b11", "conversations": talk("dog " * 300, "b")},
}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_every_kind_of_bad_row_is_left_out_and_counted(tmp_path, suffix):
    fields = tools.data(tmp_path)
    (tmp_path / "images/t.txt").write_text("no image")
    good = [tools.row(0, True), tools.row(11, False)]
    rows = [*BAD.values(), *good, BAD["wrong turn order"]]
    fields["data"] = str(tools.write(tmp_path / f"mixed.{suffix}", rows))
    samples, index = open_samples(
        tools.recipe(**fields), tools.processor(), "llava", tmp_path / "cache"
    )
    assert len(index) == 2 and index.has_image.tolist() == [True, False]
    found = {reason: entry["count"] for reason, entry in index.report["left_out"].items()}
    assert found == {**dict.fromkeys(BAD, 1), "wrong turn order": 2}
    assert index.report["left_out"]["wrong turn order"]["first"] == "b4"
    assert index.report["left_out"]["not an object"]["first"] == "row 0"
    assert "left out 2 rows: wrong turn order (first: b4)" in index.lines()
    assert [len(samples[i]["input_ids"]) for i in range(2)] == index.lengths.tolist()
    again, _ = open_samples(tools.recipe(**fields), tools.processor(), "llava", tmp_path / "cache")
    assert len(list((tmp_path / "cache").glob("index-*"))) == 1
    assert torch.equal(again[1]["labels"], samples[1]["labels"])


def kept_rows(fields, cache, **values):
    opened = open_samples(tools.recipe(**fields), tools.processor(), "llava", cache, **values)
    return len(opened[1])


@pytest.mark.parametrize("noted", [True, False])
def test_images_that_come_later_are_taken_in(tmp_path, noted):
    fields, cache, image = tools.data(tmp_path), tmp_path / "run", tmp_path / "images/a/3.png"
    away = image.rename(tmp_path / "away.png")
    assert kept_rows(fields, cache) == kept_rows(fields, cache) == 15
    (report,) = cache.glob("index-*/report.json")
    before = report.stat().st_mtime_ns
    if not noted:  # an index of an earlier version does not say which files it lacked
        (report.parent / "waiting.jsonl").unlink()
    image.write_text("half unpacked")
    assert kept_rows(fields, cache) == 15
    assert "image file unreadable" in report.read_text()
    assert not list(report.parent.glob("*.partial")) and report.stat().st_mtime_ns > before
    away.rename(image)
    assert kept_rows(fields, cache, renew=False) == 15
    assert kept_rows(fields, cache) == 16
    made = report.stat().st_mtime_ns
    assert kept_rows(fields, cache) == 16 and report.stat().st_mtime_ns == made


def test_a_run_with_checkpoints_goes_on_with_the_rows_it_began_with(tmp_path):
    fields, run, image = tools.data(tmp_path), tmp_path / "run", tmp_path / "images/a/3.png"
    recipe, away = tools.recipe(**fields), image.rename(tmp_path / "away.png")
    assert kept_rows(fields, run) == 15 and same_run(run, recipe, 1, 15, {}) is None
    away.rename(image)
    (run / "checkpoint-2").mkdir()
    state = run / "checkpoint-2/trainer_state.json"
    state.write_text("{}")
    assert kept_rows(fields, run) == 15
    assert same_run(run, recipe, 1, 16, {}) == "rows was 15, now 16"
    state.unlink()  # one that was cut short is none: nothing is lost
    (run / "plan.json").write_text("{}")
    assert "batch" in same_run(run, tools.recipe(**{**fields, "batch": 1}), 1, 16, {})
    assert (run / "plan.json").exists()
    assert kept_rows(fields, run) == 16 and same_run(run, recipe, 1, 16, {}) is None
    assert not (run / "plan.json").exists()  # measured on the rows of before
    state.write_text("{}")
    assert same_run(run, recipe, 1, 16, {}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no usable row in .*: it is empty"),
        ("[]", "it is empty"),
        ("[3]", "1 not an object"),
        ('[{"id": "a", "conv', "cut short or no JSON behind row 0"),
        ("hello", "neither a JSON array nor JSON lines"),
        ("{broken", "neither a JSON array nor JSON lines"),
    ],
)
def test_a_file_that_gives_nothing_is_one_line(tmp_path, text, message):
    path = tmp_path / "d.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        open_samples(tools.recipe(data=str(path)), tools.processor(), "llava", tmp_path)
    assert "\n" not in str(caught.value)


def labelled(ids, labels, tokenizer):
    """The text of each stretch of labels."""
    texts, run = [], []
    for token, label in zip([*ids, 0], [*labels, IGNORE], strict=True):
        assert label in (IGNORE, token)
        if label != IGNORE:
            run.append(token)
        elif run:
            texts.append(tokenizer.decode(run))
            run = []
    return texts


TWO_TURNS = {
    "id": "x",
    "image": "a.png",
    "conversations": talk("What is\n<image>", "red cat", "And left?", "blue, I think"),
}
CAPTION = {"id": "y", "image": "a.png", "conversations": talk("<image>\nDescribe.", "two dogs")}


@pytest.mark.parametrize(
    ("template", "raw", "answers", "whole"),
    [
        (
            "vicuna_v1",
            TWO_TURNS,
            ["red cat</s>", "blue, I think</s>"],
            f"{VICUNA} USER: <image>\nWhat is ASSISTANT: red cat</s>"
            "USER: And left? ASSISTANT: blue, I think</s>",
        ),
        (
            "model",
            TWO_TURNS,
            ["red cat</s>", "blue, I think</s>"],
            "USER: <image>\nWhat is ASSISTANT: red cat</s>"
            "USER: And left? ASSISTANT: blue, I think</s>",
        ),
        ("plain", CAPTION, ["two dogs\n"], "<image>two dogs\n"),
    ],
)
def test_labels_stand_on_answers_and_their_end_only(template, raw, answers, whole):
    processor = tools.processor()
    tokenizer = processor.tokenizer
    parts = pieces(normalise(raw, template), template, processor)
    assert "".join(text for text, _ in parts).replace("ASSISTANT:  ", "ASSISTANT: ") == whole
    coded = encode(parts, tokenizer, processor.image_token_id, [5], 500)
    assert coded.ids.count(processor.image_token_id) == 5 and coded.images == 1
    assert [t.strip(" ") for t in labelled(coded.ids, coded.labels, tokenizer)] == answers
    assert coded.ids[0] == tokenizer.bos_token_id and coded.labels[0] == IGNORE
    # The ids are those the model's own processor makes of the text.
    single = whole.replace("<image>", "<image>" * 5)
    assert coded.ids == tokenizer(single).input_ids


def test_a_template_that_never_ends_answers_gets_the_end_token():
    processor = tools.processor()
    processor.chat_template = (
        "{% for m in messages %}{{ m['role'].upper() + ': ' }}"
        "{% for p in m['content'] if p['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
        "{% for p in m['content'] if p['type'] == 'text' %}{{ p['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
    row = normalise({"conversations": talk("a", "red cat", "b", "dog")}, "model")
    assert pieces(row, "model", processor) == [
        ("USER: a ASSISTANT:", False),
        (" red cat</s>", True),
        ("USER: b ASSISTANT:", False),
        (" dog</s>", True),
    ]


def test_the_end_cuts_answers_but_no_image():
    processor = tools.processor()
    raw = {"image": ["a", "b"], "conversations": talk("<image>", "red", "<image>", "blue")}
    parts = pieces(normalise(raw, "vicuna_v1"), "vicuna_v1", processor)
    args = (parts, processor.tokenizer, processor.image_token_id, [16, 16])
    whole = encode(*args, 10_000)
    at = [i for i, t in enumerate(whole.ids) if t == processor.image_token_id][16]
    cut = encode(*args, at + 10)
    assert cut.images == 1 and cut.answered and cut.ids == whole.ids[:at]


def test_moves_a_single_image_to_the_front_and_wants_one_caption_for_plain():
    assert normalise(TWO_TURNS, "vicuna_v1").turns[0][0] == "<image>\nWhat is"
    with pytest.raises(BadRow, match="one image and one caption"):
        normalise(TWO_TURNS, "plain")


@pytest.mark.parametrize("size", [(20, 20), (60, 14), (14, 60), (33, 47), (100, 30)])
@pytest.mark.parametrize("kind", ["pad", "processor", "anyres"])
def test_image_tokens_are_what_the_processor_makes(tmp_path, kind, size):
    many = kind == "anyres"
    processor = tools.processor(many)
    reader = ImageReader(processor, kind, "llava_next" if many else "llava")
    path = tools.image(tmp_path / "x.png", size[1], size[0])
    read = reader.read(path)
    with Image.open(path) as image:
        shown = reader.square(image) if kind == "pad" else image
        inputs = processor(images=shown, text="<image>", return_tensors="pt")
    count = int((inputs["input_ids"] == processor.image_token_id).sum())
    assert reader.tokens(size) == count == (16 if not many else count)
    assert torch.equal(read["pixel_values"], inputs["pixel_values"][0])
    if many:
        assert read["image_sizes"].tolist() == list(size)


def test_real_llava_sizes():
    """576 tokens for LLaVA-1.5; 2,928 is LLaVA-NeXT's largest common count (672 x 672)."""
    import transformers as t

    size = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    common = {"tokenizer": tools.tokenizer(), "patch_size": 14, "num_additional_image_tokens": 1}
    common["vision_feature_select_strategy"] = "default"
    first = t.LlavaProcessor(image_processor=t.CLIPImageProcessor(**size), **common)
    assert ImageReader(first, "pad", "llava").tokens((480, 640)) == 576
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    image = t.LlavaNextImageProcessor(**size, image_grid_pinpoints=grids)
    second = t.LlavaNextProcessor(image_processor=image, **common)
    reader = ImageReader(second, "anyres", "llava_next")
    assert reader.tokens((700, 700)) == 576 + 48 * 48 + 48 == 2928
    assert reader.tokens((480, 640)) == 576 + 36 * 48 + 36


def test_padding_is_square_in_the_mean_colour():
    reader = ImageReader(tools.processor(), "pad", "llava")
    square = np.asarray(reader.square(Image.new("RGB", (10, 4), (255, 0, 0))))
    assert square.shape == (10, 10, 3)
    assert (square[:3] == [int(m * 255) for m in tools.MEAN]).all()
    assert (square[3:7] == [255, 0, 0]).all() and (square[7:] == square[0]).all()


def test_an_undecodable_image_gives_its_place_to_another_row(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)  # as lmms-eval leaves it
    fields = tools.data(tmp_path)
    path = tmp_path / "images/a/2.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # the header is fine
    recipe = tools.recipe(**fields)
    samples, index = open_samples(recipe, tools.processor(), "llava", tmp_path / "c")
    assert len(index) == 16
    item, again = samples[2], samples[2]
    assert item["broken"] == ["r2"] and "pixel_values" in item
    assert torch.equal(item["input_ids"], again["input_ids"])
    assert samples[3]["broken"] == []


def test_a_batch_is_padded_on_the_right(tmp_path):
    fields = tools.data(tmp_path)
    samples, index = open_samples(tools.recipe(**fields), tools.processor(), "llava", tmp_path)
    batch = Collator(pad=4)([samples[0], samples[3]])
    n = index.lengths[[0, 3]]
    assert batch["attention_mask"].sum(1).tolist() == n.tolist()
    assert batch["input_ids"].shape == (2, n.max()) and batch["pixel_values"].shape[0] == 2
    short = int(n.argmin())
    assert (batch["labels"][short, n.min() :] == IGNORE).all()
    json.dumps(index.report)
