"""A loaded processor as a protocol wants it, and what a model cannot be asked by.

Torch-free until an image processor is changed.
"""

from __future__ import annotations

import copy
from typing import Any

from harness.common.errors import UsageError
from harness.common.protocol import (
    ASPECTS,
    CHECKPOINT,
    CROP,
    LMMS_EVAL,
    ORIGINAL,
    PIXELS,
    PROCESSOR,
    Protocol,
)
from harness.families.family import Family
from harness.families.framing import side_of
from harness.model.convert.chats import MISTRAL_CHAT, QWEN_CHAT, VICUNA_CHAT

CHATS = {"vicuna_v1": VICUNA_CHAT, "mistral_instruct": MISTRAL_CHAT, "qwen_1_5": QWEN_CHAT}
MARK = "<image>"  # where those conversations put an image


def check_protocol(protocol: Protocol, family: Family, name: str) -> None:
    """Refuse, before anything is loaded, what a family cannot be asked by. Raises UsageError."""
    if protocol == LMMS_EVAL:
        return
    asked = f"--protocol {protocol}"
    if protocol.template != CHECKPOINT and not family.marked:
        raise UsageError(
            f"{asked}: {protocol.template} writes {MARK} where an image goes, {name} "
            f"({family.kind}) has a word of its own for it: only --template {CHECKPOINT} works"
        )
    if protocol.image_aspect in ASPECTS and not family.squares:
        raise UsageError(
            f"{asked}: {name} ({family.kind}) {family.no_square}: there is no --image-aspect to "
            "choose"
        )
    if protocol.boxes == PIXELS and not family.boxes_in_pixels:
        from harness.families.catalog import FAMILIES

        known = [one.kind for one in FAMILIES.values() if one.boxes_in_pixels]
        raise UsageError(
            f"{asked}: {name} ({family.kind}) does not answer boxes in {PIXELS} of the resized "
            f"image, as {', '.join(known)} does: choose --boxes image01 or frame01"
        )


def processor_for(processor: Any, protocol: Protocol, family: Family, name: str) -> Any:
    """The processor with the image aspect of a protocol; itself where it is not to be changed.

    Padding is `LlavaImageProcessor`'s: to a square of the mean colour, before the image is resized.
    Raises UsageError for an image processor that does not cut out the centre of a resized image,
    of which neither is known.
    """
    tiled = protocol.image_aspect == ORIGINAL and not family.squares
    if protocol.image_aspect == PROCESSOR or tiled:
        return processor
    old = processor.image_processor
    crop = side_of(getattr(old, "crop_size", None), "height")
    short = side_of(old.size, "shortest_edge")
    if not (getattr(old, "do_center_crop", None) and crop and crop == short):
        raise UsageError(
            f"--image-aspect: {name}: {type(old).__name__} does not resize the shorter edge to "
            "what it then cuts out of the centre: it can neither be told to pad nor to crop"
        )
    made = copy.copy(processor)
    said = {k: v for k, v in old.to_dict().items() if k != "image_processor_type"}
    said["do_pad"] = protocol.image_aspect != CROP
    made.image_processor = _llava_like(old)(**said)
    return made


def _llava_like(old: Any) -> Any:
    """LLaVA's image processor on the backend of another, which would round differently."""
    import transformers
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    is_pil = any(kind.__name__ == "PilBackend" for kind in type(old).__mro__)
    return LlavaImageProcessorPil if is_pil else transformers.LlavaImageProcessor
