"""Refuses arguments of a model's own calls that routing would leave out of account.

Stock layers swallow what they do not know, another family's deepstack features or token types, and
answer as if it had not been there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from harness.engine.model import EngineError

_MORE = ("output_attentions", "output_hidden_states")
# Of the output's form, of the loss, of static caches: no Llama-like layer looks at these.
_DECODER = ("return_dict", "num_items_in_batch", "cache_position", "logits_to_keep")
_TOWER = ("return_dict", "interpolate_pos_encoding", *_MORE)


def check_decoder(given: Mapping[str, Any]) -> None:
    """Raise EngineError for further decoder arguments that would change an answer."""
    for name in _MORE:
        if given.get(name):
            raise EngineError(f"{name} is not available on a routed model")
    _refuse_others(given, (*_DECODER, *_MORE), "decoder")


def check_media(given: Mapping[str, Any]) -> None:
    """Raise EngineError for videos: their tokens would be taken for text."""
    encoded = given.get("mm_encoder_outputs") or {}
    if given.get("pixel_values_videos") is not None or encoded.get("video") is not None:
        raise EngineError("videos are not routed: give their frames as images")


def check_tower(given: Mapping[str, Any]) -> None:
    """The same for a tower that does not run, but whose output must have the right shape."""
    _refuse_others(given, _TOWER, "vision tower")


def _refuse_others(given: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name, value in given.items():
        if value is not None and name not in known:
            raise EngineError(
                f"the {what} was given '{name}', which the routing engine does not know: what it "
                "changes would be left out"
            )


def image_arguments(
    call: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], config: Any, fixed: Sequence[str]
) -> dict[str, Any]:
    """Arguments of a ``get_image_features`` call by name.

    Raises EngineError where they overrule what ``config`` says of ``fixed`` and the engine goes by.
    """
    given = dict(inspect.signature(call).bind(*args, **kwargs).arguments)
    given |= given.pop("kwargs", {})
    for name in fixed:
        usual = getattr(config, name)
        if given.get(name) not in (None, usual):
            raise EngineError(f"{name}={given[name]} differs from the model's own, {usual}")
    return given
