"""A session around a model that is loaded already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.common.errors import UsageError
from harness.model.session import Session


@dataclass(frozen=True)
class InMemory:
    """Stands where a model's files would: it has a name, and none of what files give."""

    model_id: str
    weight_hashes: dict[str, str]
    revision: None = None
    mini: bool = False


def session_around(model: Any, processor: Any) -> Session:
    """A session on a transformers model of the caller's own. Raises UsageError, one line."""
    from harness.engine import find_parts
    from harness.families.catalog import shape_from_config

    if not hasattr(model, "config") or not hasattr(model, "generate"):
        raise UsageError(f"a transformers model expected, not {type(model).__name__}")
    find_parts(model)  # refuses what cannot be routed
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise UsageError(
            f"processor: one of tokenizer and image processor expected, not "
            f"{type(processor).__name__}"
        )
    if processor.tokenizer.pad_token_id is None:
        raise UsageError("processor: its tokenizer has no padding token: set tokenizer.pad_token")
    name = str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
    return Session(
        model=model,
        processor=processor,
        source=InMemory(name, {}),  # type: ignore[arg-type]
        device_name=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        attn=str(model.config._attn_implementation),
        info=shape_from_config(model.config.to_dict(), name),
    )


def require_files(session: Session) -> None:
    """Raise UsageError for a model without files: a cell's identity would have nothing to hold."""
    if isinstance(session.source, InMemory):
        raise UsageError(
            "compare: a model in memory has no identity that results could be kept under: "
            "save it to a folder and give ms.load the folder"
        )
