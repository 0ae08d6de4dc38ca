"""What methods may read beyond the running states: tower crops, origins, attention, words."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch

import methods
from harness.engine import routed
from harness.families.tiny import any_resolution_inputs as any_resolution
from methods.base import Method
from tests.routing_tools import ROWS
from tests.tiny import batch, tiny_llava, tiny_llava_next


class Spy(Method):
    """Dense, but it looks."""

    name = "spy"
    reads_tower = True

    def taps(self, info):
        return (-2,)

    def __init__(self, look: Any) -> None:
        object.__setattr__(self, "look", look)

    def before(self, seq: Any) -> None:
        self.look(seq)


def looked(model: Any, inputs: dict[str, Any], look: Any, **options: Any) -> None:
    with torch.no_grad(), routed(model, Spy(look), record=False, **options) as run:
        run.set_samples(["a"], ["what is it"])
        model(**inputs)


def check_origins(seq: Any) -> None:
    """The projector on the patch behind a token gives the token's own embedding."""
    patches = seq.project(torch.cat([crop.states[1:] for crop in seq.crops]))
    origins = seq.origins
    there = origins >= 0
    assert int(there.sum()) > 0
    assert bool((there <= seq.image).all())
    torch.testing.assert_close(patches[origins[there]], seq.hidden[there])
    newlines = int((seq.image & ~there).sum())
    assert newlines == sum(g["rows"] for row in seq.grids for g in row if g["newline"])


def test_origins_of_square_images_in_a_ragged_batch() -> None:
    model = tiny_llava()
    looked(model, batch(model, ROWS), check_origins)


@pytest.mark.parametrize("sizes", [[(20, 30)], [(32, 14), (30, 30)], [(16, 60), (60, 16)]])
def test_origins_of_unpadded_tiles(sizes: Any) -> None:
    model = tiny_llava_next()
    looked(model, any_resolution(model, sizes), check_origins)


def test_attention_of_chosen_rows_equals_eager() -> None:
    model = tiny_llava(layers=4, attn="eager")
    inputs = batch(model, ROWS[:1])
    with torch.no_grad():
        maps = model(**inputs, output_attentions=True).attentions[1]
    seen = {}

    def spy(self: Any, layer: int, seq: Any) -> None:
        if layer == 1:
            rows = seq.valid & (seq.index % 3 == 1)
            seen["mine"], seen["rows"] = seq.attention(1, rows), rows

    dense = methods.parse("dense")
    with torch.no_grad(), patch.object(type(dense), "layer", spy), routed(model, dense):
        model(**inputs)
    expected = maps[:, :, seen["rows"][0]].mean(dim=2)
    torch.testing.assert_close(seen["mine"], expected)


def test_words_are_rows_of_the_embedding_table() -> None:
    model = tiny_llava()

    def tokenizer(texts: list[str], add_special_tokens: bool) -> dict[str, Any]:
        assert not add_special_tokens
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}

    def look(seq: Any) -> None:
        (words,) = seq.words(seq.questions)
        table = model.model.language_model.embed_tokens.weight
        assert torch.equal(words, table[torch.tensor([4, 2, 2])])

    looked(model, batch(model, ROWS[:1]), look, tokenizer=tokenizer)
