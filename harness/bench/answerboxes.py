"""Boxes in answers, from the frame that a model answers in to the frame of the image.

RefCOCO's scoring reads an answer's box as shares of the image's width and height. LLaVA-1.5 was
trained on boxes in shares of the square that its tower sees: the padded image in the original
code, the centre crop under the processor of the converted checkpoints. A perfect box then scores an
IoU of 0.80 at 4:3 and none of the thresholds at 5:2. Qwen2.5-VL answers in pixels of the image as
its processor resized it. Which of these is meant is the protocol's: by default the family's
(`Family.boxes_in_frame`); LLaVA-NeXT's base square is the whole image, stretched. Boxes of others
are read as the image's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from harness.common.errors import CellError
from harness.common.protocol import FAMILY, FRAME01, PIXELS
from harness.families.framing import seen, side_of

# Upstream's tasks whose answer is one box in shares of the image.
BOX_TASKS = re.compile(r"refcoco[+g]?_bbox_rec_|screenspot_rec")
OWN_TASK = "own_data"  # rows of own data, each with its metric
NUMBER = r"(-?\d+(?:\.\d+)?)"
BOX = re.compile(r"\[\s*" + r",\s*".join([NUMBER] * 4) + r"\s*\]")  # all that upstream reads
# Their questions: what is to be found stands behind the two sentences on shares of the image.
QUESTION = re.compile(
    r"Bounding box coordinates are specified in .*?bounding box coordinates? of the region "
    r"(?:this sentence describes|that corresponds to the command): (?P<what>.+)",
    re.DOTALL,
)
# What Qwen2.5-VL is asked for RefCOCO by its makers (QwenLM/Qwen3-VL, issue 991). Asked for shares
# it answers in shares, and finds little (om-ai-lab/VLM-R1, issue 6: 15 % instead of 84 %).
LOCATE = "Locate {what} in this image and output the bbox coordinates in JSON format."

UNKNOWN = "not known in which frame this model answers with boxes: read as shares of the image"
CONVERTED = (
    "boxes converted for scoring from the square that the model sees to the image; predictions are "
    "as answered"
)
CONVERTED_PIXELS = (
    "boxes asked for and read in pixels of the image as it was resized; predictions are as answered"
)


@dataclass(frozen=True)
class Frame:
    """Where answers' coordinates lie: ``edges`` left, top, right, bottom in pixels of the image.

    ``units``: how wide and high that is in the units of an answer; 1, 1 for shares.
    """

    edges: tuple[float, float, float, float]
    units: tuple[float, float] = (1.0, 1.0)

    def shares(self, box: tuple[float, ...], width: float, height: float) -> tuple[float, ...]:
        """A box [x0, y0, x1, y1] of an answer in shares of the image."""
        left, top, right, bottom = self.edges
        across, down = (right - left) / self.units[0], (bottom - top) / self.units[1]
        x0, y0, x1, y1 = box
        return (
            (left + x0 * across) / width,
            (top + y0 * down) / height,
            (left + x1 * across) / width,
            (top + y1 * down) / height,
        )


def reading(boxes: str, boxes_in_frame: bool) -> str:
    """`image01`, `frame01` or `pixels`: a protocol's word with the family's own put in.

    Empty where that is not known; boxes are then read as the image's.
    """
    if boxes != FAMILY:
        return boxes
    return FRAME01 if boxes_in_frame else ""


def frame_of(image: Any, processor: Any, read: str) -> Frame | None:
    """The frame of answers about an image under a reading; None where it is the image's own.

    ``image``: PIL; ``processor``: the model's image processor.
    """
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if read == PIXELS:
        high, wide = _resized(image, processor)
        return Frame(whole, (float(wide), float(high)))
    edges = seen((image.height, image.width), processor) if read == FRAME01 else None
    if edges is None or tuple(map(float, edges)) == whole:
        return None
    left, top, right, bottom = map(float, edges)
    return Frame((left, top, right, bottom))


def _resized(image: Any, processor: Any) -> tuple[int, int]:
    """Height and width that a processor of packed patches gives an image."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    least, most = (side_of(processor.size, name) for name in ("shortest_edge", "longest_edge"))
    step = processor.patch_size * processor.merge_size
    high, wide = smart_resize(image.height, image.width, step, min_pixels=least, max_pixels=most)
    return int(high), int(wide)


def in_image(text: str, image: Any, processor: Any, read: str = FRAME01) -> str | None:
    """The first box of an answer in shares of its image; None where nothing is to be changed."""
    found = BOX.search(text)
    frame = frame_of(image, processor, read) if found else None
    if found is None or frame is None:
        return None
    box = tuple(map(float, found.groups()))
    x0, y0, x1, y1 = frame.shares(box, image.width, image.height)
    return f"[{x0:.6f}, {y0:.6f}, {x1:.6f}, {y1:.6f}]"


def asked(text: str, task: str, asks_box: bool, read: str) -> str:
    """The question of a document, in the units in which its answer will be read.

    ``asks_box``: the answer is a box, as `harness.bench.pictures.Boxes.asked` says.

    Raises CellError for a question about a box that is not as upstream writes them.
    """
    if read != PIXELS or not asks_box:
        return text
    found = QUESTION.fullmatch(text.strip())
    if found is None:
        raise CellError(
            f"{task}: its question does not say what to find as lmms-eval's does, so it cannot be "
            "asked for in pixels: --boxes image01"
        )
    return LOCATE.format(what=found["what"].strip().rstrip("."))
