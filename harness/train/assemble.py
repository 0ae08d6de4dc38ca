"""A new LLaVA from a language model, a vision tower and a projector, as LLaVA's stages start.

Special tokens and config are those of transformers' LLaVA conversion: `<image>` and `<pad>` behind
the vocabulary, embeddings padded to a multiple of 64, new rows drawn around the mean of the old.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.common.errors import UsageError, one_line
from harness.families.trust import refuse_foreign, refuse_keys
from harness.model.convert.chats import VICUNA_CHAT
from harness.model.weights import check_weights, file_hash, setting_hashes
from harness.train.recipe import InstructRecipe
from harness.train.rows import IMAGE

PAD_TO = 64  # rows of the embeddings
# LLaVA-NeXT's grids, (height, width) in crops.
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
# Projector weights: LLaVA's own names (an MLP's layers 0 and 2) and transformers'.
NAMES = {
    "0.weight": "linear_1.weight",
    "0.bias": "linear_1.bias",
    "2.weight": "linear_2.weight",
    "2.bias": "linear_2.bias",
}


def assemble(recipe: InstructRecipe) -> tuple[Any, Any]:
    """(model in float32, processor); LLaVA-NeXT where `image_aspect` is anyres.

    Raises UsageError for parts that cannot be loaded or do not fit together.
    """
    if not (recipe.decoder and recipe.vision):
        raise UsageError("a model is put together from decoder and vision: the recipe has one only")
    text, tokenizer = _decoder(recipe)
    tower, image_processor = _tower(recipe)
    _add_tokens(text, tokenizer)
    model = _join(recipe, text, tower, tokenizer)
    if recipe.projector:
        _load_projector(model, Path(recipe.projector).expanduser())
    return model, _processor(recipe, tokenizer, image_processor, tower.config)


def _decoder(recipe: InstructRecipe) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        _check_files(Path(recipe.decoder))
        config = AutoConfig.from_pretrained(recipe.decoder, trust_remote_code=False)
        refuse_keys(config.to_dict(), "its config")  # parts of a model ask for code by themselves
        text = AutoModelForCausalLM.from_pretrained(
            recipe.decoder,
            dtype=torch.float32,
            attn_implementation=recipe.attn,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(recipe.decoder, trust_remote_code=False)
    except Exception as error:  # the libraries raise nothing more specific
        raise UsageError(f"decoder {recipe.decoder}: {one_line(error, 200)}") from None
    if not hasattr(text, "model") or not hasattr(text.model, "layers"):
        raise UsageError(f"decoder {recipe.decoder}: {type(text).__name__} is no Llama-type model")
    return text, tokenizer


def _tower(recipe: InstructRecipe) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, CLIPVisionModel

    try:
        _check_files(Path(recipe.vision))
        tower = CLIPVisionModel.from_pretrained(recipe.vision, dtype=torch.float32)
        return tower, AutoImageProcessor.from_pretrained(recipe.vision, trust_remote_code=False)
    except Exception as error:
        raise UsageError(f"vision {recipe.vision}: {one_line(error, 200)}") from None


def _check_files(folder: Path) -> None:
    """A local folder's weights and wishes, before the library sees them. Raises UsageError."""
    if folder.is_dir():
        refuse_foreign(folder)
        if any(folder.glob("model.safetensors*")):
            check_weights(folder)


def part_hashes(recipe: InstructRecipe) -> dict[str, str]:
    """Path -> sha256 of the local files that a model is put together from; none for hub ids."""
    found: dict[str, str] = {}
    for part in (recipe.decoder, recipe.vision):
        if (folder := Path(part)).is_dir():
            weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
            hashes = {**setting_hashes(folder), **{path.name: file_hash(path) for path in weights}}
            found |= {f"{part}/{name}": value for name, value in hashes.items()}
    if recipe.projector:
        found[recipe.projector] = file_hash(Path(recipe.projector).expanduser())
    return found


def _add_tokens(text: Any, tokenizer: Any) -> None:
    from transformers import AddedToken

    tokenizer.add_tokens(AddedToken(IMAGE, special=True, normalized=False), special_tokens=True)
    if tokenizer.pad_token in (None, tokenizer.unk_token, tokenizer.eos_token):
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.padding_side = "left"  # for generation; training pads by itself
    text.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=PAD_TO)


def _join(recipe: InstructRecipe, text: Any, tower: Any, tokenizer: Any) -> Any:
    import transformers as t

    for part in (text, tower):
        part.config._name_or_path = ""  # a folder of this machine says nothing to others
    size, patch = tower.config.image_size, tower.config.patch_size
    shared = {
        "vision_config": tower.config,
        "text_config": text.config,
        "image_token_index": tokenizer.convert_tokens_to_ids(IMAGE),
        "projector_hidden_act": "gelu",
        "vision_feature_layer": recipe.vision_layer,
        "vision_feature_select_strategy": "default",
        "image_seq_length": (size // patch) ** 2,
        "tie_word_embeddings": bool(text.config.tie_word_embeddings),
    }
    model: Any
    if recipe.image_aspect == "anyres":
        grids = [[size * h, size * w] for h, w in GRIDS]
        model = t.LlavaNextForConditionalGeneration(
            t.LlavaNextConfig(**shared, image_grid_pinpoints=grids)
        )
    else:
        model = t.LlavaForConditionalGeneration(t.LlavaConfig(**shared))
    model.set_attn_implementation(recipe.attn)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.tie_weights()
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config = t.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model.float()


def _processor(recipe: InstructRecipe, tokenizer: Any, image: Any, vision: Any) -> Any:
    import transformers as t

    common = {
        "tokenizer": tokenizer,
        "patch_size": vision.patch_size,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,  # CLIP's class token
        "image_token": IMAGE,
        "chat_template": VICUNA_CHAT,
    }
    if recipe.image_aspect != "anyres":
        return t.LlavaProcessor(image_processor=image, **common)
    side = vision.image_size
    image = t.LlavaNextImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=[[side * h, side * w] for h, w in GRIDS],
        image_mean=image.image_mean,
        image_std=image.image_std,
    )
    return t.LlavaNextProcessor(image_processor=image, **common)


def _load_projector(model: Any, path: Path) -> None:
    """Projector weights (and LLaVA-NeXT's newline where there is one) from a `.bin` or
    `.safetensors` file, in LLaVA's own names (`model.mm_projector.0.weight`) or transformers'."""
    found: dict[str, Tensor] = {}
    for name, value in _read(path).items():
        if name.endswith("image_newline"):
            if hasattr(model.model, "image_newline"):
                model.model.image_newline.data.copy_(value)
            continue
        tail = ".".join(name.split(".")[-2:])
        if "mm_projector" in name or "multi_modal_projector" in name:
            found[NAMES.get(tail, tail)] = value.float()
    wanted = model.model.multi_modal_projector.state_dict()
    if found.keys() != wanted.keys():
        lacking = sorted(wanted.keys() - found.keys())
        raise UsageError(
            f"projector {path}: no two-layer projector in it, it lacks {', '.join(lacking)}"
        )
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise UsageError(
                f"projector {path}: {name} has shape {list(found[name].shape)}, decoder and tower "
                f"need {list(value.shape)}"
            )
    model.model.multi_modal_projector.load_state_dict(found)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    if not path.is_file():
        raise UsageError(f"projector: no file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle and safetensors raise their own kinds
        raise UsageError(f"projector {path}: cannot be read: {one_line(error, 200)}") from None
