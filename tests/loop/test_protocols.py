"""Asked by another protocol: what the real prompter, processors and loop make of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from harness.bench.answerboxes import CONVERTED_PIXELS, asked
from harness.bench.benches import Bench, resolve_bench
from harness.bench.prompter import MARK, Prompter
from harness.bench.request import GenerationKwargs, Request
from harness.common.errors import CellError, UsageError
from harness.common.protocol import PROTOCOLS, Protocol
from harness.families.catalog import FAMILIES
from harness.model.asking import processor_for
from harness.model.catalog import load_model
from harness.model.convert.chats import VICUNA
from harness.model.session import Session
from harness.timing.documents import requests_of
from tests.fixtures.hub_data import write_refcoco
from tests.fixtures.hub_models import write_llava, write_llava_next
from tests.fixtures.hub_qwen import write_qwen
from tests.loop.cells import predictions, run
from tests.loop.test_boxes import BOXES, SHAPES, answers, mask, padded, perfect

__all__ = ["answers"]  # a fixture
LLAVA = PROTOCOLS["llava-1.5"][0]


def by(**parts: Any) -> Protocol:
    return Protocol().having(parts)


def pixels(session: Session, image: Image.Image) -> torch.Tensor:
    how = GenerationKwargs(4)
    request = Request(0, "t", "0", "What?", how, lambda: [image])
    inputs = Prompter(session).inputs_of(request)
    found: torch.Tensor = inputs["pixel_values"][0]
    return found


# --- the conversation ---------------------------------------------------------------------------
def test_the_system_sentence_stands_once_before_the_image(llava: Session) -> None:
    plain = Prompter(llava).prompt("What colour?\nOne word.", 1)
    vicuna = Prompter(llava.asked_by(LLAVA)).prompt("What colour?\nOne word.", 1)
    assert plain == f"USER: {MARK}\nWhat colour?\nOne word. ASSISTANT:"
    assert vicuna == f"{VICUNA} {plain}"
    assert vicuna.count(VICUNA) == 1 and vicuna.count(MARK) == 1


def test_other_conversations_and_places_of_images(llava: Session) -> None:
    mistral = Prompter(llava.asked_by(by(template="mistral_instruct")))
    assert mistral.prompt("What?", 1) == f"[INST] {MARK}\nWhat? [/INST]"
    chatml = Prompter(llava.asked_by(by(template="qwen_1_5")))
    assert chatml.prompt("What?", 0).endswith("user\nWhat?<|im_end|>\n<|im_start|>assistant\n")
    vicuna = Prompter(llava.asked_by(LLAVA))
    assert f"USER: One {MARK} and {MARK}. ASSISTANT:" in vicuna.prompt(
        "One <image> and <image>.", 2
    )


def test_a_checkpoint_without_a_template_is_asked_by_the_protocols(tmp_path: Path) -> None:
    folder = write_llava(tmp_path / "m")
    (folder / "chat_template.json").unlink()
    session = load_model(str(folder), device="cpu")
    assert not Prompter(session).has_template
    vicuna = Prompter(session.asked_by(LLAVA))
    assert vicuna.has_template and vicuna.prompt("What?", 1).startswith(f"{VICUNA} USER: <image>")


# --- the square ---------------------------------------------------------------------------------
def test_a_corner_mark_survives_padding_and_is_lost_by_cropping(llava: Session) -> None:
    image = np.zeros((56, 112, 3), np.uint8)
    black = Image.fromarray(image)
    image[:14, :14] = 255
    marked = Image.fromarray(image)
    crop, pad = llava.asked_by(by(image_aspect="crop")), llava.asked_by(by(image_aspect="pad"))
    for session in (llava, crop):
        assert torch.equal(pixels(session, marked), pixels(session, black))
    assert torch.equal(pixels(llava, marked), pixels(crop, marked))  # its processor crops
    found, empty = pixels(pad, marked), pixels(pad, black)
    assert found.shape == pixels(crop, marked).shape  # the same image tokens
    assert not torch.equal(found, empty)
    # The rows above the image have the mean colour, which is nought after normalising.
    assert empty[:, :5].abs().max() < 0.02 and empty[:, 13:15].min() < -1


def test_a_padding_processor_can_be_told_to_crop() -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    family = FAMILIES["llava_hr"]
    config = family.completed(family.tiny(), "tiny")
    files = family.processor_files(config)["preprocessor_config.json"]  # type: ignore[attr-defined]
    files.pop("image_processor_type")
    side = files["crop_size"]["height"]
    old = SimpleNamespace(image_processor=LlavaImageProcessorPil(**files))
    crop = processor_for(old, by(image_aspect="crop"), family, "mine")
    assert type(crop.image_processor) is LlavaImageProcessorPil
    assert old.image_processor.do_pad and not crop.image_processor.do_pad
    assert processor_for(old, Protocol(), family, "mine") is old
    ends = np.zeros((side, 2 * side, 3), np.uint8)
    ends[:, : side // 2] = 255  # the left end, which a crop does not see
    seen = {
        name: np.asarray(one.image_processor(Image.fromarray(ends))["pixel_values"][0])
        for name, one in (("pad", old), ("crop", crop))
    }
    assert np.ptp(seen["crop"][0]) < 1e-3 < np.ptp(seen["pad"][0])


def test_an_image_processor_that_stretches_is_refused(tmp_path: Path) -> None:
    session = load_model(str(write_llava(tmp_path / "m", tower="siglip")), device="cpu")
    session.asked_by(by(template="vicuna_v1"))
    for aspect in ("pad", "crop"):
        with pytest.raises(UsageError, match="SiglipImageProcessor does not resize the shorter"):
            session.asked_by(by(image_aspect=aspect))


def test_lmms_evals_wrapper_pads_a_square_and_leaves_tiles(tmp_path: Path, llava: Session) -> None:
    """What `--model llava` does: the original code's picture, whichever model it is."""
    asked = PROTOCOLS["lmms-eval-llava"][0]
    assert llava.asked_by(asked).processor.image_processor.do_pad
    tiles = load_model(str(write_llava_next(tmp_path / "m")), device="cpu")
    assert tiles.asked_by(asked).processor.image_processor is tiles.processor.image_processor
    with pytest.raises(UsageError, match="cuts an image into tiles"):
        tiles.asked_by(asked.having({"image_aspect": "pad"}))


def test_features_of_one_square_are_not_served_for_another(llava: Session, gqa: Bench) -> None:
    """The fixture's images are 60 x 40: cropping and padding differ."""
    cropped = run(llava, gqa)
    session = llava.asked_by(by(image_aspect="pad"))
    assert session.model is llava.model and session.features is not llava.features
    shared = run(session, gqa)
    fresh = run(session, gqa, share_features=False)
    assert predictions(shared) == predictions(fresh)
    assert predictions(run(llava, gqa)) == predictions(cropped)
    grids = [next(iter(one.records.values())).grid[0] for one in (cropped, shared)]
    assert [grid["fit"] for grid in grids] == ["crop", "pad"]
    assert grids[0]["box"] == [10, 0, 50, 40] and grids[1]["box"] == [0, -10, 60, 50]
    assert [grid["rows"] * grid["cols"] for grid in grids] == [16, 16]


# --- OCR tokens ---------------------------------------------------------------------------------
def lines(session: Session, bench: str, data: str, count: int = 3) -> list[list[str]]:
    return [r.text.splitlines() for r in requests_of(session, bench, data, count, 0)]


@pytest.mark.parametrize("data", ["hub", "mini"])
def test_ocr_adds_one_line_to_the_question(llava: Session, root: Path, data: str) -> None:
    where = str(root) if data == "hub" else "mini"
    before = lines(llava, "textvqa", where)
    after = lines(llava.asked_by(by(ocr=True)), "textvqa", where)
    for plain, told in zip(before, after, strict=True):
        question, line, *rest = told
        assert [question, *rest] == plain
        assert line.startswith("Reference OCR token: ") and line[-1:] != " "
    if data == "hub":
        assert {told[1] for told in after} == {"Reference OCR token: STOP"}
    assert lines(llava.asked_by(by(ocr=True)), "gqa", where) == lines(llava, "gqa", where)


def test_ocr_reaches_the_model(llava: Session, textvqa: Bench) -> None:
    plain, told = run(llava, textvqa), run(llava.asked_by(by(ocr=True)), textvqa.with_ocr())
    tokens = [{k: r.n for k, r in one.records.items()} for one in (plain, told)]
    assert all(tokens[1][doc] > n for doc, n in tokens[0].items())
    assert told.task_version == f"{plain.task_version}+ocr"
    assert run(llava, textvqa).records.keys() == plain.records.keys()


def test_what_is_scored_here_is_not_handed_in(llava: Session, textvqa: Bench) -> None:
    """The task writes a file for a server too, under the time of day."""
    result = run(llava, textvqa, limit=1)
    assert not result.files and not any("hand in" in note for note in result.notes)


# --- boxes --------------------------------------------------------------------------------------
def test_a_box_in_the_padded_square_is_scored_in_both_readings(
    llava: Session, answers: Any, tmp_path: Path
) -> None:
    write_refcoco(tmp_path, list(zip(SHAPES, BOXES, strict=True)))
    bench = resolve_bench("refcoco", str(tmp_path))
    said = [perfect(padded(mask(b, s))) for b, s in zip(BOXES, SHAPES, strict=True)]
    found = {}
    for boxes in ("frame01", "image01"):
        answers(said)
        result = run(llava.asked_by(by(image_aspect="pad", boxes=boxes)), bench)
        found[boxes] = {m.metric: m for m in result.metrics}["refcoco_IoU"]
        assert [s.prediction for s in result.samples] == said
    assert min(found["frame01"].scores.values()) > 0.95
    square = [doc for doc, (wide, high) in zip(found["image01"].scores, SHAPES, strict=True)
              if wide == high]  # fmt: skip
    for doc, score in found["image01"].scores.items():
        assert (score > 0.95) == (doc in square)


def test_boxes_in_pixels_of_the_resized_image(answers: Any, tmp_path: Path) -> None:
    session = load_model(str(write_qwen(tmp_path / "m", "qwen2_5_vl")), "cpu", "float32", "sdpa")
    session = session.asked_by(PROTOCOLS["qwen-vl"][0])
    write_refcoco(tmp_path, list(zip(SHAPES, BOXES, strict=True)))
    bench = resolve_bench("refcoco", str(tmp_path))
    processor, said = session.processor.image_processor, []
    for (left, top, width, height), size in zip(BOXES, SHAPES, strict=True):
        made = processor(Image.new("RGB", size), return_tensors="pt")["image_grid_thw"][0]
        high, wide = (int(n) * processor.patch_size for n in made[1:])
        across, down = wide / size[0], high / size[1]
        box = [left * across, top * down, (left + width) * across, (top + height) * down]
        said.append("```json\n" + json.dumps([{"bbox_2d": box}]) + "\n```")
    answers(said)
    result = run(session, bench)
    assert {m.metric: m for m in result.metrics}["refcoco_IoU"].value > 0.97
    assert CONVERTED_PIXELS in result.notes


def test_boxes_in_pixels_are_asked_for() -> None:
    from lmms_eval.tasks.refcoco.utils_rec import refcoco_bbox_rec_doc_to_text as question

    text = question({"answer": "the left dog."})
    task = "refcoco_bbox_rec_val"
    assert asked(text, task, True, "frame01") == text
    assert asked(text, "gqa", False, "pixels") == text
    found = asked(text, task, True, "pixels")
    assert (
        found == "Locate the left dog in this image and output the bbox coordinates in JSON format."
    )
    with pytest.raises(CellError, match="cannot be asked for in pixels"):
        asked("Where is the dog?", task, True, "pixels")
