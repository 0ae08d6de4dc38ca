"""LLaVA-HR and Mini-Gemini-HD as their authors released them, and γ-MoD's parents.

Names and fields in `harness.model.convert_hr_keys`. Both towers are stored: the ConvNeXt
has the sizes of its tensors, CLIP those of its name or of the folder that --tower gives.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from harness.families.catalog import REGISTRY
from harness.families.decoders import Sizes
from harness.families.two_towers import TwoTowers
from harness.model.convert import processors
from harness.model.convert.chats import CHATS
from harness.model.convert.layout import LEFT_OUT, MODEL, DenseLayout, Place, Source, Stream, Target
from harness.model.convert.parts import ROWS, expect, text_config, tied
from harness.model.convert.towers import find_tower
from harness.model.convert_hr_keys import (
    LEFT_OUT as UNREAD,
)
from harness.model.convert_hr_keys import (
    llava_hr_fields,
    llava_hr_place,
    mini_gemini_fields,
    mini_gemini_place,
    slow_sizes,
)


class ReleasedLlavaHr(DenseLayout):
    """Becomes `llava_hr`."""

    name: ClassVar[str] = "LLaVA-HR"

    def claims(self, source: Source) -> bool:
        kind = source.config.get("model_type")
        return kind in ("llava", "llava_llama") and bool(source.config.get("vision_tower_slow"))

    def target(self, source: Source) -> Target:
        stored = "model.vision_tower.fast_vision_tower.vision_tower.vision_model."
        slow = "model.vision_tower.slow_vision_tower.vision_tower."
        tower = find_tower(source, stored=stored)
        sizes = slow_sizes(source.weights.shapes, slow)
        where = str(source.folder)
        fields = llava_hr_fields(source.config, source.names, where, tower.config, sizes)
        return _target(source, fields, llava_hr_place)


class ReleasedMgm(DenseLayout):
    """Becomes `mini_gemini_hd`."""

    name: ClassVar[str] = "Mini-Gemini-HD"

    def claims(self, source: Source) -> bool:
        return source.config.get("model_type") == "mgm"

    def target(self, source: Source) -> Target:
        tower = find_tower(source)
        sizes = slow_sizes(source.weights.shapes, "model.vision_tower_aux.vision_")
        fields = mini_gemini_fields(source.config, str(source.folder), tower.config, sizes)
        return _target(source, fields, mini_gemini_place)


def _target(source: Source, fields: Sizes, place: Callable[[str], str | None]) -> Target:
    """What both have in common: a Vicuna, all weights in the source, padding to a square."""
    expect(source, "image_aspect_ratio", ("pad",))
    expect(source, "mm_use_im_start_end", (False, None))
    expect(source, "mm_use_im_patch_token", (False, None))
    text = text_config(source, "llama")
    words = processors.Words(source, "llama", text["vocab_size"])
    config = {
        **fields,
        "text_config": text,
        "image_token_index": words.id(processors.IMAGE),
        "projector_hidden_act": "gelu",
        "tie_word_embeddings": tied(source),
    }
    family = REGISTRY[fields["model_type"]]
    assert isinstance(family, TwoTowers)
    files = family.processor_files(family.completed(config, str(source.folder)))

    def placed(name: str) -> Place | None:
        found = place(name)
        if found is None:
            return None
        return LEFT_OUT if found == UNREAD else Place(MODEL, found)

    def write(folder: Path) -> None:
        _processor(words, files).save_pretrained(folder)

    return Target(config, [Stream(source.weights, placed)], write, ROWS)


def _processor(words: processors.Words, files: dict[str, dict[str, Any]]) -> Any:
    import transformers as t

    image = {k: v for k, v in files["preprocessor_config.json"].items() if "_type" not in k}
    said = {k: v for k, v in files["processor_config.json"].items() if k != "processor_class"}
    shown = t.LlavaImageProcessor(**image)
    chat = CHATS[words.kind]
    return t.LlavaProcessor(shown, words.tokenizer, chat_template=chat, **said)
