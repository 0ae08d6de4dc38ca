"""What layouts on LLaVA's original code share: the decoder's config, words, and names of tensors.

Names in memory are written as this library release has them; `frame` compares them with an
instantiated model, so that a release with others is an error and no random weight. Torch-free.
"""

from __future__ import annotations

from typing import Any

from harness.families.configs import shown
from harness.model.convert.layout import LEFT_OUT, MODEL, Place, Source

DECODER = (
    ("model.layers.", "model.language_model.layers."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.norm.", "model.language_model.norm."),
    ("lm_head.", "lm_head."),
)
PROJECTOR = (
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
)
NEWLINE = "model.image_newline"
ROWS = frozenset({"model.language_model.embed_tokens.weight", "lm_head.weight"})
PAD_TO = 64  # rows of words, as the library's own conversion pads them
# Fields of the decoder that shape its numbers, under the library's names.
FIELDS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings"),
    *("rms_norm_eps", "rope_theta", "rope_scaling", "rope_parameters", "attention_bias"),
    *("mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers"),
    *("bos_token_id", "eos_token_id"),
)


def padded(count: int) -> int:
    """Rows for ``count`` words, a whole multiple of `PAD_TO`."""
    return -(-count // PAD_TO) * PAD_TO


def text_config(source: Source, kind: str, words: int = 2) -> dict[str, Any]:
    """The decoder's config, with rows for ``words`` more words than the source has."""
    config = source.config
    rows = config.get("vocab_size")
    if type(rows) is not int or rows < 1:
        raise source.refuse(f"vocab_size is {shown(rows)}, expected a whole number above 0")
    found = {key: config[key] for key in FIELDS if config.get(key) is not None}
    if "sliding_window" in config:  # null means none, and leaving it out the library's 4,096
        found["sliding_window"] = config["sliding_window"]
    rest = {"vocab_size": padded(rows + words), "tie_word_embeddings": tied(source)}
    return {"model_type": kind, **found, **rest}


def tied(source: Source) -> bool:
    """Whether the head is the word embedding: the config says so, and no head is stored."""
    said = bool(source.config.get("tie_word_embeddings", False))
    return said and "lm_head.weight" not in source.names


def decoder_place(name: str) -> Place | None:
    """The place of a tensor of decoder, projector or head under its original name."""
    if name.endswith("rotary_emb.inv_freq"):  # a buffer of old releases
        return LEFT_OUT
    for before, after in (*DECODER, *PROJECTOR):
        if name.startswith(before):
            return Place(MODEL, after + name.removeprefix(before))
    return None


def expect(source: Source, field: str, allowed: tuple[Any, ...], missing: Any = None) -> Any:
    """A field's value if it is one of ``allowed``; ``missing`` stands for a field left out.

    Raises UsageError naming the field, its value and what is read.
    """
    value = source.config.get(field, missing)
    # 0 and False, 1 and True are equal and the same wish.
    if value not in allowed:
        raise source.refuse(
            f"{field} is {shown(value)}, which is not converted; read is "
            + " or ".join(shown(one) for one in allowed)
        )
    return value
