"""The routing of whole passes at published sizes, for the tests of published traits."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from harness.cost.replica import predicted_record
from harness.families.catalog import config_for
from harness.store.record import IMAGE, RoutingRecord
from methods import parse
from methods.base import ModelInfo

SMALL, NEXT = "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-vicuna-7b-hf"
VICUNA = ModelInfo(32, 4096, 32, 32, 128)


def parsed(spec: str) -> Any:
    """The method, whose own attributes are asked for."""
    return parse(spec)


@lru_cache(maxsize=64)
def record_of(spec: str, model: str = SMALL) -> RoutingRecord:
    """58 text tokens and one (square) image at the model's depth and length, narrow weights."""
    return predicted_record(parse(spec), config_for(model), n_text=58, n_out=1)


def tokens(spec: str, model: str = SMALL) -> list[int]:
    """Image tokens that attention and FFN of each layer process."""
    return [int(n) for n in record_of(spec, model).processed_per_layer(IMAGE)]
