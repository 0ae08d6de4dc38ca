"""Tokenizer and image processor for a model made here, from a released folder's tokenizer files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.common.errors import UsageError, one_line
from harness.model.convert.chats import CHATS
from harness.model.convert.pieces import from_model

if TYPE_CHECKING:
    from harness.model.convert.layout import Source
    from harness.model.convert.towers import Tower

IMAGE, VIDEO = "<image>", "<video>"


@dataclass
class Words:
    """A released tokenizer with the library's image words added.

    ``rows``: rows that the model has for words; every word must have one.
    """

    source: Source
    kind: str  # of the decoder
    rows: int
    extra: tuple[str, ...] = (IMAGE,)
    tokenizer: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.tokenizer = _tokenizer(self.source)
        self._add()

    def _add(self) -> None:
        from transformers import AddedToken

        made = [AddedToken(word, special=True, normalized=False) for word in self.extra]
        self.tokenizer.add_tokens(made, special_tokens=True)
        if self.tokenizer.pad_token in (None, self.tokenizer.unk_token, self.tokenizer.eos_token):
            self.tokenizer.add_special_tokens({"pad_token": "<pad>"})
        self.tokenizer.padding_side = "left"
        top = max(self.tokenizer.get_vocab().values())
        if top >= self.rows:
            raise self.source.refuse(
                f"its tokenizer has a word of id {top}, its model rows for {self.rows} words: "
                "files of two models"
            )

    def id(self, word: str) -> int:
        """The id of a word that was added."""
        return int(self.tokenizer.convert_tokens_to_ids(word))


def _tokenizer(source: Source) -> Any:
    import transformers as t

    folder = source.folder
    # The first that is there: the whole tokenizer, SentencePiece's pieces, Qwen's words and merges.
    kinds = {
        "tokenizer.json": t.PreTrainedTokenizerFast.from_pretrained,
        "tokenizer.model": from_model,
        "vocab.json": t.Qwen2Tokenizer.from_pretrained,
    }
    read = next((read for name, read in kinds.items() if (folder / name).is_file()), None)
    if read is None:
        raise source.refuse(f"no tokenizer: none of {', '.join(kinds)}")
    try:
        return read(folder)
    except UsageError:
        raise
    except Exception as error:  # the tokenizer library raises nothing more specific
        raise UsageError(f"{folder}: no usable tokenizer: {one_line(error, 200)}") from None


def square(words: Words, tower: Tower, pad: bool, strategy: str) -> Any:
    """LLaVA's processor: one square an image, ``pad`` with the mean colour or cut to the middle."""
    import transformers as t

    image = t.LlavaImageProcessor(**_sizes(tower), do_pad=pad)
    return t.LlavaProcessor(image_processor=image, **_common(words, tower, strategy))


def tiles(words: Words, tower: Tower, grids: list[list[int]], strategy: str) -> Any:
    """LLaVA-NeXT's processor; ``grids`` as (height, width) in pixels."""
    import transformers as t

    image = t.LlavaNextImageProcessor(**_sizes(tower), image_grid_pinpoints=grids)
    return t.LlavaNextProcessor(image_processor=image, **_common(words, tower, strategy))


def onevision(words: Words, tower: Tower, grids: list[list[int]], aspect: str) -> Any:
    """LLaVA-OneVision's processor, for images and videos."""
    import transformers as t

    side = tower.config["image_size"]
    shared = {
        "size": {"height": side, "width": side},
        "image_mean": tower.mean,
        "image_std": tower.std,
    }
    return t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(**shared, image_grid_pinpoints=grids),
        video_processor=t.LlavaOnevisionVideoProcessor(**shared),
        tokenizer=words.tokenizer,
        num_image_tokens=tower.patches,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        video_token=VIDEO,
        vision_aspect_ratio=aspect,
        chat_template=CHATS[words.kind],
    )


def _sizes(tower: Tower) -> dict[str, Any]:
    side = tower.config["image_size"]
    return {
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": tower.mean,
        "image_std": tower.std,
    }


def _common(words: Words, tower: Tower, strategy: str) -> dict[str, Any]:
    return {
        "tokenizer": words.tokenizer,
        "patch_size": tower.config["patch_size"],
        "vision_feature_select_strategy": strategy,
        "num_additional_image_tokens": 1 if strategy == "default" else 0,  # the class token
        "image_token": IMAGE,
        "chat_template": CHATS[words.kind],
    }
