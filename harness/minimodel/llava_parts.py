"""The mini LLaVA's own: 144 patches of a CLIP tower behind a projector, one position each."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.common.errors import UsageError
from harness.minimodel.build import build_processor
from harness.minimodel.features import cache_features
from harness.minimodel.labels import DenseScenes, Vocabulary
from harness.minimodel.packing import PackedScenes, Packer, Probe, parted
from harness.minimodel.parts import Job
from harness.minimodel.recipe import Recipe
from harness.minimodel.scenes import ROUNDS, Scenes
from harness.minimodel.tower import DenseHeads, DenseTower
from methods.base import Crop


class LlavaParts:
    """See `harness.minimodel.parts.Parts`."""

    mark: ClassVar[str] = "<image>"
    what: ClassVar[
        str
    ] = """A stock `LlavaForConditionalGeneration`: CLIP-type tower (6 layers, width 192, CLS
token, patch 16), two-layer projector, Llama decoder with 12 layers of width 288, 144 image tokens.
Loads with `from_pretrained`. The tower was pretrained on dense labels of the scenes, the projector
aligned with the decoder's word embeddings, then decoder and projector tuned on captions and
questions, in two of the parts with the tower."""
    origin: ClassVar[str] = "The decoder starts from stories15M (MIT, via llama2.c)."
    ranked: ClassVar[bool] = True
    folder: ClassVar[str] = "tiny"
    recipes: ClassVar[tuple[str, ...]] = (
        *("tower", "align", "dense-first", "dense-second"),
        *("tower-text", "refit", "dense-third", "tower-numbers", "refit-numbers"),
        *("dense-fourth", "dense-fifth", "dense", "dense-longer-first", "dense-longer"),
        *("mod-first", "mod", "pmod-first", "pmod"),
        *("gamma-first", "gamma-second", "gamma-third", "gamma"),
        "llavolta",
        *("mqt-first", "mqt-second", "mqt"),
    )
    drawn: ClassVar[dict[str, Any]] = {"rounds": ROUNDS}
    ships: ClassVar[dict[str, str]] = {
        "dense": "",
        "dense-longer": "-dense",
        **{name: f"-{name}" for name in ("mod", "gamma", "pmod", "llavolta", "mqt")},
    }

    shared: ClassVar[None] = None

    def jobs(self) -> dict[str, Job]:
        from harness.minimodel import llava_pretrain, resample

        return {
            "tower": llava_pretrain.train_tower,
            "align": llava_pretrain.align,
            "resample": resample.start_resampler,
        }

    def load(self, folder: Path) -> Any:
        return LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)

    def processor(self, model: Any, tokenizer: Any) -> Any:
        vision = model.config.vision_config
        return build_processor(tokenizer, vision.image_size, vision.patch_size)

    def images(
        self, recipe: Recipe, scenes: Scenes, model: Any, work: Path, heads: Path
    ) -> tuple[Any, DenseHeads | None]:
        if recipe.pages:
            raise UsageError("recipe: pages: the images of a llava model have one size: none here")
        tower, layer = model.model.vision_tower, model.config.vision_feature_layer
        if not recipe.train_tower:
            tower.requires_grad_(False)
            path = work / f"features-{tower_key(tower, layer)}-{scenes.key}.npy"
            return cache_features(tower, scenes, path, layer), None
        vocabulary = Vocabulary.of(scenes)
        dense = DenseTower(tower, vocabulary)
        dense.load_heads(heads)
        return DenseScenes(scenes, vocabulary, tower.config.patch_size), dense

    def packer(
        self, recipe: Recipe, model: Any, dense: DenseHeads | None, data: PackedScenes
    ) -> Packer:
        return Packer(
            data.prefix,
            (model.config.image_token_id, model.config.image_seq_length),
            data.tokenizer.pad_token_id,
            recipe.max_text,
            recipe.seed,
            recipe.packed,
            recipe.forms,
            recipe.packed,
        )

    def probes(self, packer: Packer, held: PackedScenes, count: int) -> list[Probe]:
        windowed = packer.windowed
        whole = Packer(held.prefix, packer.image, packer.pad_id, 10_000, 0, windowed=windowed)
        return [Probe(whole, rows) for rows in parted(range(count), windowed)]

    def see(
        self, model: Any, dense: DenseHeads | None, images: dict[str, Tensor], reads: bool
    ) -> tuple[Any, dict[str, Tensor] | None]:
        """`features` [B, P, D] from the tower; or `pixel_values` [B, 3, H, W] and the labels of
        `DenseScenes`."""
        losses, features = None, images.get("features")
        if features is None:
            assert isinstance(dense, DenseTower)
            labels = {k: v for k, v in images.items() if k != "pixel_values"}
            seen = dense.tower(images["pixel_values"], output_hidden_states=True)
            features = seen.hidden_states[model.config.vision_feature_layer][:, 1:]
            losses = dense.losses(seen, **labels)
        projected = model.model.multi_modal_projector(features)
        image: Any = BaseModelOutputWithPooling(pooler_output=list(projected))
        if reads:
            # The features as the tower's crops; a class token of zeros stands before each.
            heads = int(model.config.vision_config.num_attention_heads)
            states = nn.functional.pad(features, (0, 0, 1, 0))
            image.crops = [Crop(one, {}, heads) for one in states]
        return image, losses


def tower_key(tower: nn.Module, layer: int) -> str:
    """12 hex digits over everything that features of a frozen tower depend on, but the images."""
    key = hashlib.sha256(f"{tower.config.to_json_string()}{layer}".encode())
    for value in tower.state_dict().values():
        key.update(value.cpu().numpy())
    return key.hexdigest()[:12]
