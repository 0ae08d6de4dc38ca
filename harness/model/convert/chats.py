"""Prompts of the released models as chat templates (Jinja), for processors made here."""

from __future__ import annotations

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
_CONTENT = (
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
)
# LLaVA's `vicuna_v1`: a system sentence, `USER: ... ASSISTANT: ...</s>`.
VICUNA_CHAT = (
    "{{ '" + VICUNA.replace("'", "\\'") + " ' }}"
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}" + _CONTENT + "{% if message['role'] == 'assistant' %}"
    "{{ eos_token }}{% else %}{{ ' ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
# LLaVA's `mistral_instruct`: `[INST] ... [/INST] ...</s>`, no system text.
MISTRAL_CHAT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' }}"
    + _CONTENT
    + "{{ eos_token }}{% else %}{{ '[INST] ' }}"
    + _CONTENT
    + "{{ ' [/INST]' }}{% endif %}{% endfor %}"
)
# LLaVA's `qwen_1_5`: ChatML with its usual system sentence.
QWEN_CHAT = (
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}" + _CONTENT + "{{ '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATS = {"llama": VICUNA_CHAT, "mistral": MISTRAL_CHAT, "qwen2": QWEN_CHAT}
