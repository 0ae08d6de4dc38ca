"""MoE-LLaVA (arXiv 2401.15947) as its authors released it, on Mistral, StableLM or Llama.

Names and fields in `moe_llava_keys`. Every release asks as Vicuna, whatever the decoder: the
released code's conversations differ only in the word that ends an answer, which is the tokenizer's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from harness.common.errors import UsageError
from harness.families.configs import shown
from harness.model.convert import processors
from harness.model.convert.layout import DenseLayout, Source, Stream, Target
from harness.model.convert.moe_llava_keys import check_kind, joined, place, released_config
from harness.model.convert.parts import ROWS, expect, padded
from harness.model.convert.towers import NAMED, find_tower

if TYPE_CHECKING:
    from torch import Tensor

FIELD = "mm_image_tower"


class ReleasedMoeLlava(DenseLayout):
    """Becomes `moe_llava`."""

    name: ClassVar[str] = "MoE-LLaVA"

    def claims(self, source: Source) -> bool:
        return str(source.config.get("model_type")).startswith("moe_llava_")

    def target(self, source: Source) -> Target:
        where = str(source.folder)
        check_kind(source.config, where)
        aspect = expect(source, "image_aspect_ratio", ("pad", "square", None))
        tower = find_tower(source, FIELD, NAMED[FIELD])
        if tower.config["model_type"] != "clip_vision_model":
            raise source.refuse("its vision tower is no CLIP, which MoE-LLaVA's is")
        rows = source.config.get("vocab_size")
        if type(rows) is not int or rows < 1:
            raise source.refuse(f"vocab_size is {shown(rows)}, expected a whole number above 0")
        rows = padded(rows + 2)
        words = processors.Words(source, "llama", rows)  # the prompt's kind, not the decoder's
        token = words.id(processors.IMAGE)
        config = released_config(source.config, where, rows, token, tower.config)
        config["image_seq_length"] = tower.patches
        return Target(
            config=config,
            streams=[
                Stream(source.weights, place),
                *tower.streams(tower.config["num_hidden_layers"]),
            ],
            processor=processors.square(words, tower, aspect == "pad", "default").save_pretrained,
            rows=ROWS,
            join=_Join(source, config),
        )


class _Join:
    """`Target.join` for a config: the experts of a layer as one parameter."""

    def __init__(self, source: Source, config: dict[str, Any]) -> None:
        text = config["text_config"]
        self.source = source
        self.sizes = (
            config["num_local_experts"], text["hidden_size"], text["intermediate_size"],
        )  # fmt: skip

    def __call__(self, name: str, parts: dict[str, Tensor]) -> Tensor:
        try:
            return joined(parts, *self.sizes)
        except UsageError as error:
            raise self.source.refuse(f"{name}: {error}") from None
