"""Assemble the mini Qwen2.5-VL: a fresh tower before the decoder of a tuned mini LLaVA.

The decoder's matrices are the same; Qwen2's biases of queries, keys and values start at zero and
text has one position on all three axes, so text alone gives the start model's logits (the end's at
Qwen's mark; the old end, which would tie with it, becomes a token never said). The tokenizer
is the start model's with Qwen's marks added, the prompt's form is Qwen2.5-VL's.
"""

from __future__ import annotations

import json

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import (
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from harness.common.errors import UsageError
from harness.minimodel.recipe import Recipe
from harness.minimodel.tokenizer import BOS, EOS, IMAGE, PAD

START, END, PADDING = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
SEE, SEEN = "<|vision_start|>", "<|vision_end|>"
PICTURE, FILM = "<|image_pad|>", "<|video_pad|>"
# Each new mark starts as the token that did its work in the start model.
MARKS = {PADDING: PAD, START: BOS, END: EOS, SEE: "\n", SEEN: "\n", PICTURE: IMAGE, FILM: IMAGE}
ROLES = ("system", "user", "assistant")  # one token each in Qwen's vocabulary, six in a mini one
TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% elif part['type'] == 'video' %}{{ '<|vision_start|><|video_pad|><|vision_end|>' }}"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LEAST, MOST = 64**2, 512 * 768  # pixels that the processor makes of an image: up to a large page


def marked_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """`tokenizer` with Qwen's marks behind its pieces, no token before a text, and its template."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["post_processor"] = None
    inner = Tokenizer.from_str(json.dumps(state))
    inner.add_special_tokens(list(MARKS))
    inner.add_tokens([AddedToken(role, single_word=True, normalized=False) for role in ROLES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=tokenizer.unk_token,
        eos_token=END,
        pad_token=PADDING,
        extra_special_tokens=[START, SEE, SEEN, PICTURE, FILM],
        padding_side="left",
        model_max_length=2048,
    )
    fast.chat_template = TEMPLATE
    return fast


def build_qwen(
    llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerFast]:
    """The untrained model and its tokenizer; `tokenizer` is that of the start model `llava`.

    Raises UsageError for sizes that the tower cannot have.
    """
    fast = marked_tokenizer(tokenizer)
    model = Qwen2_5_VLForConditionalGeneration(_config(llava, fast, recipe))
    old, new = llava.model.language_model, model.model.language_model
    state = {k: v for k, v in old.state_dict().items() if k != "embed_tokens.weight"}
    loaded = new.load_state_dict(state, strict=False)
    lacking = {key for key in loaded.missing_keys if not key.endswith("bias")}
    if loaded.unexpected_keys or lacking != {"embed_tokens.weight"}:
        raise UsageError("start: its decoder is no Llama: expected a mini LLaVA")
    with torch.no_grad():
        for name, value in new.named_parameters():
            if name.endswith("bias"):
                value.zero_()
        rows = new.embed_tokens.weight
        rows[: len(tokenizer)] = old.embed_tokens.weight[: len(tokenizer)]
        for token in (*MARKS, *ROLES):
            like = tokenizer(MARKS.get(token, f" {token}"), add_special_tokens=False).input_ids
            rows[fast.convert_tokens_to_ids(token)] = old.embed_tokens.weight[like].mean(0)
        # Rows are logits too. The old end and the new one would tie in every answer, for good where
        # rows are not trained: the old one, which no text has any more, becomes a token never said.
        rows[tokenizer.eos_token_id] = old.embed_tokens.weight[tokenizer.unk_token_id]
    model.tie_weights()
    generation = model.generation_config
    generation.eos_token_id, generation.pad_token_id = fast.eos_token_id, fast.pad_token_id
    generation.bos_token_id = None
    return model, fast


def _config(
    llava: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Qwen2_5_VLConfig:
    text = llava.config.text_config
    head = text.hidden_size // text.num_attention_heads
    if recipe.window % (2 * recipe.patch) or recipe.width % (4 * recipe.heads):
        raise UsageError(
            f"recipe: window {recipe.window} and width {recipe.width}: expected a window of whole "
            f"tokens ({2 * recipe.patch} pixels) and a head width that divides by 4"
        )
    side = head // 2 * 3 // 8
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            *(("image", PICTURE), ("video", FILM)),
            *(("vision_start", SEE), ("vision_end", SEEN)),
        )
    }
    return Qwen2_5_VLConfig(
        text_config={
            "model_type": "qwen2_5_vl_text",
            "vocab_size": len(tokenizer),
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "max_position_embeddings": text.max_position_embeddings,
            "use_sliding_window": False,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": text.rope_parameters["rope_theta"],
                # The release's shares of a head: 16, 24 and 24 of 64.
                "mrope_section": [head // 2 - 2 * side, side, side],
            },
        },
        vision_config={
            "model_type": "qwen2_5_vl_vision",
            "depth": recipe.layers,
            "hidden_size": recipe.width,
            # Three matrices as large as a plain MLP's two of four times the width.
            "intermediate_size": recipe.width * 8 // 3,
            "num_heads": recipe.heads,
            "patch_size": recipe.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": recipe.window,
            "fullatt_block_indexes": list(recipe.full or _every_third(recipe.layers)),
            "out_hidden_size": text.hidden_size,
            "tokens_per_second": 2,
        },
        tie_word_embeddings=True,
        **ids,
    )


def _every_third(depth: int) -> tuple[int, ...]:
    return tuple(range(2, depth, 3)) or (depth - 1,)


def qwen_processor(tokenizer: PreTrainedTokenizerFast, patch: int) -> Qwen2_5_VLProcessor:
    """Images of any shape, `LEAST` to `MOST` pixels, stretched to whole tokens."""
    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    size = {"shortest_edge": LEAST, "longest_edge": MOST}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes, size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes, size=size),
        chat_template=tokenizer.chat_template,
    )
