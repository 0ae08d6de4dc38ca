"""A `tokenizer.model` (SentencePiece, BPE) as the library's fast tokenizer.

Vicuna's and Mistral's releases have no other file. Pieces are read through the package
sentencepiece itself, since the library's own reader depends on which release of another package
goes with it; what comes out is compared with sentencepiece's ids before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError, one_line
from harness.common.jsonfile import read_json

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
# Sentences that hold words, digits, signs, line ends and bytes that no piece has.
SAMPLES = (
    "A chat between a curious user and an artificial intelligence assistant.",
    "USER: What is 3 + 14.15, and who said so?\nAnswer briefly. ASSISTANT:",
    "  two  spaces, \u00e9t\u00e9 \u5b57 \u20ac \U0001f600\n\nend",
)


def from_model(folder: Path) -> Any:
    """The tokenizer of a folder with `tokenizer.model`, its special and added words included.

    Each stretch of text between special words gets SentencePiece's space in front, as where the
    released code tokenises the pieces of a prompt one by one. Raises UsageError, one line.
    """
    path = folder / "tokenizer.model"
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise UsageError(
            f"{path}: reading it needs the package sentencepiece; a tokenizer.json needs none"
        ) from None
    try:
        pieces = SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError, TypeError) as error:
        raise UsageError(f"{path}: not a SentencePiece model: {one_line(error, 120)}") from None
    made = _built(pieces, _settings(folder))
    for word, number in sorted(_added(folder).items(), key=lambda pair: pair[1]):
        if made.convert_tokens_to_ids(word) != number:
            made.add_tokens([word], special_tokens=True)
        if made.convert_tokens_to_ids(word) != number:
            raise UsageError(f"{folder}: its added word {word!r} has the id {number}, not the next")
    for text in SAMPLES:
        if made(text, add_special_tokens=False)["input_ids"] != pieces.encode(text):
            raise UsageError(
                f"{path}: not a SentencePiece model of Llama's kind (BPE with bytes), read anew it "
                "gives other ids"
            )
    return made


def _built(pieces: Any, settings: Mapping[str, Any]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import generate_merges

    count = pieces.get_piece_size()
    vocab = {pieces.id_to_piece(i): i for i in range(count)}
    plain = [i for i in range(count) if not (pieces.is_control(i) or pieces.is_unknown(i))]
    scores = {pieces.id_to_piece(i): pieces.get_score(i) for i in plain if not pieces.is_byte(i)}
    unknown = pieces.id_to_piece(pieces.unk_id())
    made = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=generate_merges(vocab, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    space = "\u2581"  # SentencePiece's sign for a space
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend(space), normalizers.Replace(" ", space)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace(space, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    begin = (pieces.id_to_piece(pieces.bos_id()), pieces.bos_id())
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin[0]} $A", pair=f"{begin[0]} $A {begin[0]} $B", special_tokens=[begin]
    )
    own = {
        "bos_token": begin[0],
        "eos_token": pieces.id_to_piece(pieces.eos_id()),
        "unk_token": unknown,
    }
    return PreTrainedTokenizerFast(tokenizer_object=made, **{**own, **settings})


def _settings(folder: Path) -> dict[str, Any]:
    """Special words and length limit, where the tokenizer's config says them."""
    said = {**_table(folder / "tokenizer_config.json")}
    found = {key: _word(said[key]) for key in SPECIAL if said.get(key)}
    if isinstance(said.get("model_max_length"), int):
        found["model_max_length"] = said["model_max_length"]
    return found


def _added(folder: Path) -> dict[str, int]:
    found = {str(k): int(v) for k, v in _table(folder / "added_tokens.json").items()}
    decoder = _table(folder / "tokenizer_config.json").get("added_tokens_decoder")
    if isinstance(decoder, Mapping):
        found |= {_word(word): int(number) for number, word in decoder.items()}
    return found


def _word(said: Any) -> str:
    return str(said["content"] if isinstance(said, Mapping) and "content" in said else said)


def _table(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not readable as JSON ({one_line(error, 120)})") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path}: expected a mapping, found a {type(found).__name__}")
    return found
