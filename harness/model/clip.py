"""The text side of the CLIP model that a vision tower comes from, for methods that compare there.

``--checkpoint METHOD=PATH_OR_ID`` names the CLIP checkpoint (for LLaVA's towers
openai/clip-vit-large-patch14-336). Only what stands behind the tower is kept: the text tower, both
projections, the last norm, and the layers behind the one that the projector reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json
from methods.base import on_device
from methods.vocabulary import CLIP_CHUNK, ClipSizes

OLD_WEIGHTS = "pytorch_model.bin"  # what the 336-pixel CLIP is published as


def is_clip(folder: Path) -> bool:
    """Whether a folder holds a whole CLIP model, by its config."""
    try:
        kind = read_json(folder / "config.json")["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(kind == "clip")


def clip_hashes(folder: Path) -> dict[str, str]:
    """Path below the folder -> sha256 of all that loading a CLIP folder reads.

    Raises UsageError where there are no whole weights, or code or quantised ones are asked for.
    """
    from harness.families.trust import refuse_foreign
    from harness.model.weights import check_weights, file_hash, setting_hashes, weight_hashes

    refuse_foreign(folder)
    old = folder / OLD_WEIGHTS
    if old.is_file() and not any(folder.glob("model.safetensors*")):
        return {old.name: file_hash(old), **setting_hashes(folder)}
    check_weights(folder)
    return {**weight_hashes(folder), **setting_hashes(folder)}


class Clip:
    """Implements ``methods.base.Clip``."""

    def __init__(self, model: Any, tokenizer: Any, last: int) -> None:
        """``last``: the layer (from the end, -2 the last but one) the tower's states come from."""
        self.text_model, self.text_projection = model.text_model, model.text_projection
        self.projection, self.tokenizer = model.visual_projection, tokenizer
        vision = getattr(model.vision_model, "vision_model", model.vision_model)
        self.norm = vision.post_layernorm
        self.rest = list(vision.encoder.layers)[last + 1 :] if last != -1 else []
        text = model.config.text_config
        self.sizes = ClipSizes(
            layers=int(text.num_hidden_layers),
            width=int(text.hidden_size),
            ffn=int(text.intermediate_size),
            out=int(model.config.projection_dim),
            behind=len(self.rest),
        )

    @torch.no_grad()
    def patches(self, states: Tensor) -> Tensor:
        """[..., w] tower states in the joint space, [..., p] in float32 or better."""
        weight = self.projection.weight
        wide = torch.promote_types(states.dtype, torch.float32)
        return self.norm(states).to(wide) @ weight.to(wide).T

    @torch.no_grad()
    def frame(self, states: Tensor) -> Tensor:
        """[1 + P, w] one crop's states -> [p]: its class token after the tower's last layer."""
        x = states.unsqueeze(0)
        for layer in self.rest:
            out = layer(x, attention_mask=None)
            x = out[0] if isinstance(out, tuple) else out
        return self.patches(x[0, 0])

    @torch.no_grad()
    def text(self, texts: list[str]) -> list[Tensor]:
        """[chunks, p] each: a text whole, in chunks of 77 tokens, the last padded with id 0."""
        found = []
        for text in texts:
            ids = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
            gap = -len(ids) % CLIP_CHUNK
            mask = [1] * len(ids) + [0] * gap
            chunks, seen = (
                on_device(row, self.projection.weight.device).view(-1, CLIP_CHUNK)
                for row in (ids + [0] * gap, mask)
            )
            pooled = self.text_model(input_ids=chunks, attention_mask=seen).pooler_output
            found.append(self.text_projection(pooled))
        return found


def load_clip(folder: str | Path, model: Any) -> Clip:
    """The CLIP model in ``folder`` beside ``model``, in its dtype and on its device."""
    from transformers import AutoTokenizer, CLIPModel

    from harness.engine.model import feature_layer, find_parts
    from harness.model.quiet import quiet_library

    try:
        with quiet_library():
            clip = CLIPModel.from_pretrained(
                folder, dtype=model.dtype, local_files_only=True, attn_implementation="sdpa"
            )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the library raises nothing more specific
        why = one_line(error, 160)
        raise UsageError(f"--checkpoint: {folder}: cannot be loaded: {why}") from None
    have, want = clip.config.vision_config, model.config.vision_config
    for name in ("hidden_size", "num_hidden_layers", "patch_size"):
        if getattr(have, name) != getattr(want, name):
            raise UsageError(
                f"--checkpoint: {folder} is not the CLIP model of this vision tower: its {name} "
                f"is {getattr(have, name)}, the tower's {getattr(want, name)}"
            )
    depth = int(want.num_hidden_layers)
    last = feature_layer(find_parts(model)) - depth
    return Clip(clip.to(model.device).eval().requires_grad_(False), tokenizer, last)
