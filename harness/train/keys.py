"""A short name for everything of a processor that decides token ids and counts."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def processor_key(processor: Any) -> str:
    """sha256 (first 12 digits) of tokenizer, chat template and image settings."""
    tokenizer = processor.tokenizer
    text = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer)
    settings = json.dumps(processor.image_processor.to_dict(), sort_keys=True, default=str)
    extra = [processor.patch_size, processor.vision_feature_select_strategy]
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    whole = json.dumps([text, settings, str(template), *map(str, extra)])
    return hashlib.sha256(whole.encode()).hexdigest()[:12]
