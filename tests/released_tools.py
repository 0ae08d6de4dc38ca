"""Tiny folders in the layouts of released research code, names written out by hand.

Nothing here shares code with `harness.model.convert`. A reference model gets the same numbers put
into its modules one by one.
"""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, FFN, LAYERS, WORDS = 16, 32, 4, 330
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "patch_size": 4}
SIDE, BLOCKS = 16, 3  # pixels, layers of the tower
ROWS = 384  # 330 words and two more, up to a multiple of 64
IMAGE = 330
TEXT = [
    "the cat is red and the dog is blue",
    "what colour has the cat",
    "a user asks an assistant USER ASSISTANT : . ' chat between curious gives helpful answers",
] * 5


class Draw:
    """Random tensors from one generator, wide enough that every part matters."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def __call__(self, *shape: int) -> Tensor:
        return (torch.randn(shape, generator=self.generator) * 0.3).to(self.dtype)


@cache
def sentencepiece_model() -> bytes:
    """A tokenizer.model of Llama's kind with 330 pieces."""
    import sentencepiece

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=made, vocab_size=WORDS, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
        hard_vocab_limit=False, character_coverage=1.0, minloglevel=2, unk_id=0, bos_id=1,
        eos_id=2, pad_id=-1,
    )  # fmt: skip
    return made.getvalue()


def decoder(
    draw: Draw, layers: int = LAYERS, inner: str = "", routed: Any = ()
) -> dict[str, Tensor]:
    """A Llama decoder; layers in ``routed`` have their names behind ``inner``."""
    found = {
        "model.embed_tokens.weight": draw(WORDS, WIDTH),
        "model.norm.weight": 1 + draw(WIDTH),
        "lm_head.weight": draw(WORDS, WIDTH),
    }
    for i in range(layers):
        at = f"model.layers.{i}." + (inner if i in routed else "")
        found[at + "self_attn.q_proj.weight"] = draw(WIDTH, WIDTH)
        found[at + "self_attn.k_proj.weight"] = draw(WIDTH // 2, WIDTH)
        found[at + "self_attn.v_proj.weight"] = draw(WIDTH // 2, WIDTH)
        found[at + "self_attn.o_proj.weight"] = draw(WIDTH, WIDTH)
        found[at + "mlp.gate_proj.weight"] = draw(FFN, WIDTH)
        found[at + "mlp.up_proj.weight"] = draw(FFN, WIDTH)
        found[at + "mlp.down_proj.weight"] = draw(WIDTH, FFN)
        found[at + "input_layernorm.weight"] = 1 + draw(WIDTH)
        found[at + "post_attention_layernorm.weight"] = 1 + draw(WIDTH)
    return found


def projector(draw: Draw) -> dict[str, Tensor]:
    return {
        "model.mm_projector.0.weight": draw(WIDTH, 16),
        "model.mm_projector.0.bias": draw(WIDTH),
        "model.mm_projector.2.weight": draw(WIDTH, WIDTH),
        "model.mm_projector.2.bias": draw(WIDTH),
    }


def tower(draw: Draw, prefix: str, kind: str = "clip", blocks: int = BLOCKS) -> dict[str, Tensor]:
    """A CLIP or SigLIP tower under ``prefix``."""
    cells = (SIDE // 4) ** 2
    found = {
        "embeddings.patch_embedding.weight": draw(16, 3, 4, 4),
        "embeddings.position_embedding.weight": draw(cells + (kind == "clip"), 16),
        "post_layernorm.weight": 1 + draw(16),
        "post_layernorm.bias": draw(16),
    }
    if kind == "clip":
        found["embeddings.class_embedding"] = draw(16)
        found["pre_layrnorm.weight"] = 1 + draw(16)
        found["pre_layrnorm.bias"] = draw(16)
    else:
        found["embeddings.patch_embedding.bias"] = draw(16)
    for i in range(blocks):
        at = f"encoder.layers.{i}."
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            found[f"{at}self_attn.{name}.weight"] = draw(16, 16)
            found[f"{at}self_attn.{name}.bias"] = draw(16)
        found |= {at + "mlp.fc1.weight": draw(32, 16), at + "mlp.fc1.bias": draw(32)}
        found |= {at + "mlp.fc2.weight": draw(16, 32), at + "mlp.fc2.bias": draw(16)}
        for name in ("layer_norm1", "layer_norm2"):
            found[f"{at}{name}.weight"] = 1 + draw(16)
            found[f"{at}{name}.bias"] = draw(16)
    return {prefix + name: value for name, value in found.items()}


def config(layers: int = LAYERS, **more: Any) -> dict[str, Any]:
    """What LLaVA-1.5's config.json says, at these sizes; None takes a field away."""
    said = {
        "architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava_llama",
        "hidden_size": WIDTH, "intermediate_size": FFN, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": WORDS,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
        "torch_dtype": "float16", "use_cache": True, "transformers_version": "4.31.0",
        "mm_vision_tower": "openai/tiny-tower", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "mm_hidden_size": 16, "use_mm_proj": True,
        "mm_projector_type": "mlp2x_gelu", "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False, "image_aspect_ratio": "pad",
        "freeze_mm_mlp_adapter": False, "tune_mm_mlp_adapter": False,
    } | more  # fmt: skip
    return {key: value for key, value in said.items() if value is not None}


def write(folder: Path, said: dict[str, Any], tensors: dict[str, Tensor], form: str) -> Path:
    """A released folder. ``form``: bin or safetensors, two files and an index; or one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said))
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    words: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    words |= {"pad_token": "<unk>", "tokenizer_class": "LlamaTokenizer", "model_max_length": 2048}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    write_weights(folder, tensors, form)
    return folder


def write_weights(folder: Path, tensors: dict[str, Tensor], form: str) -> None:
    plain = {name: value.contiguous().clone() for name, value in tensors.items()}
    if form == "one.bin":
        torch.save(plain, folder / "pytorch_model.bin")
        return
    if form == "one.safetensors":
        save_file(plain, folder / "model.safetensors")
        return
    names = sorted(plain)
    where: dict[str, str] = {}
    stem, end = {"bin": ("pytorch_model", ".bin"), "safetensors": ("model", ".safetensors")}[form]
    for part, some in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{part:05d}-of-00002{end}"
        shard = {name: plain[name] for name in some}
        if form == "bin":
            torch.save(shard, folder / file)
        else:
            save_file(shard, folder / file)
        where |= dict.fromkeys(some, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (folder / f"{stem}{end}.index.json").write_text(json.dumps(index))


def write_tower(folder: Path, kind: str = "clip", blocks: int = BLOCKS, seed: int = 5) -> Path:
    """A tower's own folder as OpenAI's CLIP has it: one .bin of the whole model."""
    folder.mkdir(parents=True, exist_ok=True)
    vision: dict[str, Any] = {**TOWER, "num_hidden_layers": blocks, "image_size": SIDE}
    vision["model_type"] = f"{kind}_vision_model"
    said: dict[str, Any] = {
        "model_type": kind,
        "vision_config": vision,
        "text_config": {"hidden_size": 16},
    }
    (folder / "config.json").write_text(json.dumps(said))
    tensors = tower(Draw(seed), "vision_model.", kind, blocks)
    tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    tensors |= {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.ones(())}
    tensors |= {"visual_projection.weight": torch.ones(4, 16)}
    write_weights(folder, tensors, "one.bin")
    return folder


def put(module: Any, path: str, value: Tensor) -> None:
    """Write a tensor into a module's parameter, which must have its shape."""
    *way, last = path.split(".")
    for step in way:
        module = module[int(step)] if step.isdecimal() else getattr(module, step)
    target = getattr(module, last)
    assert target.shape == value.shape, path
    with torch.no_grad():
        target.copy_(value)


def reference(
    tensors: dict[str, Tensor],
    sight: dict[str, Tensor],
    newline: bool = False,
    layers: int = LAYERS,
    grids: Any = None,
    kind: str = "llama",
    **more: Any,
) -> Any:
    """The dense model in memory with these numbers, `sight` under a tower's plain names.

    Rows of words behind the released ones are left at random.
    """
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    import transformers as t

    text = t.AutoConfig.for_model(
        kind, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, vocab_size=ROWS, rms_norm_eps=1e-5,
        max_position_embeddings=512, **more,
    )  # fmt: skip
    vision = t.CLIPVisionConfig(**TOWER, num_hidden_layers=BLOCKS, image_size=SIDE)
    shared = {
        "text_config": text, "vision_config": vision, "image_token_index": IMAGE,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default",
    }  # fmt: skip
    model: Any
    if newline:
        made = t.LlavaNextConfig(**shared, image_grid_pinpoints=grids)
        model = t.LlavaNextForConditionalGeneration(made)
        put(model, "model.image_newline", tensors["model.image_newline"])
    else:
        model = t.LlavaForConditionalGeneration(t.LlavaConfig(**shared))
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[:WORDS] = tensors[
            "model.embed_tokens.weight"
        ]
        model.lm_head.weight[:WORDS] = tensors["lm_head.weight"]
    put(model.model.language_model, "norm.weight", tensors["model.norm.weight"])
    for name, value in tensors.items():
        if name.startswith("model.layers.") and "router" not in name and "inv_freq" not in name:
            plain = name.replace("decoder_layer.", "")
            put(model.model.language_model, plain.removeprefix("model."), value)
    for old, new in (("0", "linear_1"), ("2", "linear_2")):
        for part in ("weight", "bias"):
            value = tensors[f"model.mm_projector.{old}.{part}"]
            put(model.model.multi_modal_projector, f"{new}.{part}", value)
    for name, value in sight.items():
        put(model.model.vision_tower, name, value)
    return model.eval()


def prompt(text: int = 5, count: int = 16, seed: int = 0) -> dict[str, Tensor]:
    """Ids with one image of ``count`` tokens in them, and its pixels (LLaVA-1.5)."""
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(3, WORDS, (text + 4,), generator=draw).tolist()
    ids = torch.tensor([[1, *words[:4], *[IMAGE] * count, *words[4:]]])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(1, 3, SIDE, SIDE, generator=draw),
    }


def loaded(folder: Path) -> Any:
    """A converted folder in the library's own hands; nothing may be missing or left over."""
    from harness.common.torchvision_ops import declare_missing_ops

    declare_missing_ops()
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=torch.float32,
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    assert not report["mismatched_keys"]
    return model.eval()


def made(source: Path, to: Path, tower: Path | None = None) -> Path:
    """Convert, and where."""
    from harness.model.convert.use import convert

    convert(source, to, tower, lambda line: None)
    return to


def plain(seed: int = 0, **more: Any) -> dict[str, Tensor]:
    """LLaVA-1.5's tensors, without a tower."""
    draw = Draw(seed)
    old = {"model.layers.0.self_attn.rotary_emb.inv_freq": draw(2)}
    return decoder(draw, **more) | projector(draw) | old
