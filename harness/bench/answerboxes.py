"""Boxes in answers, from the frame that a model answers in to the frame of the image.

RefCOCO's scoring reads an answer's box as shares of the image's width and height. LLaVA-1.5 was
trained on boxes in shares of the square that its tower sees: the padded image in the original
code, the centre crop under the processor of the converted checkpoints. A perfect box then scores an
IoU of 0.80 at 4:3 and none of the thresholds at 5:2. A family says whether it answers in that
square (`Family.boxes_in_frame`); LLaVA-NeXT's base square is the whole image, stretched. Boxes of
others are read as the image's.
"""

from __future__ import annotations

import re
from typing import Any

from harness.families.framing import seen

# Upstream's tasks whose answer is one box in shares of the image.
BOX_TASKS = re.compile(r"refcoco[+g]?_bbox_rec_|screenspot_rec")
OWN_TASK = "own_data"  # rows of own data, each with its metric
NUMBER = r"(-?\d+(?:\.\d+)?)"
BOX = re.compile(r"\[\s*" + r",\s*".join([NUMBER] * 4) + r"\s*\]")  # all that upstream reads

UNKNOWN = "not known in which frame this model answers with boxes: read as shares of the image"
CONVERTED = (
    "boxes converted for scoring from the square that the model sees to the image; predictions are "
    "as answered"
)


def in_image(text: str, image: Any, processor: Any) -> str | None:
    """The first box of an answer in shares of its image; None where nothing is to be changed.

    ``image``: the PIL image of the question; ``processor``: the model's image processor.
    """
    found = BOX.search(text)
    frame = seen((image.height, image.width), processor)
    whole = (0.0, 0.0, float(image.width), float(image.height))
    if found is None or frame is None or tuple(map(float, frame)) == whole:
        return None
    left, top, right, bottom = frame
    x0, y0, x1, y1 = map(float, found.groups())
    across, down = (right - left) / image.width, (bottom - top) / image.height
    x0, x1 = (left / image.width + x * across for x in (x0, x1))
    y0, y1 = (top / image.height + y * down for y in (y0, y1))
    return f"[{x0:.6f}, {y0:.6f}, {x1:.6f}, {y1:.6f}]"
