"""ARank against explicit maps, in batches, with grouped heads; cosines and the layer plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.layers import ranks
from harness.layers.states import arank, dense_layers, measure
from tests.tiny import batch, row, tiny_llava

ROWS = [(3, [16], 5), (2, [16], 20), (4, [], 30)]
IMAGES = [[0], [1], []]


def naive(model: Any, sample: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Ranks by numpy on explicit maps, [layers][heads] of both variants, and states by layer."""
    states = model(**sample, output_hidden_states=True).hidden_states
    text = model.model.language_model
    n = states[0].shape[1]
    width = text.layers[0].self_attn.head_dim
    angle = np.outer(np.arange(n), 10000.0 ** (-np.arange(0, width, 2) / width))
    cos, sin = (np.tile(f(angle), 2).astype(np.float32) for f in (np.cos, np.sin))

    def turn(x: Any) -> Any:
        half = width // 2
        return x * cos + np.concatenate([-x[:, half:], x[:, :half]], axis=1) * sin

    eq5, probs = [], []
    for layer, state in zip(text.layers, states, strict=False):
        attention, x = layer.self_attn, layer.input_layernorm(state)[0]
        q, k = (f(x).detach().numpy() for f in (attention.q_proj, attention.k_proj))
        eq5.append([])
        probs.append([])
        for head in range(4):
            mine = q[:, head * width : (head + 1) * width]
            theirs = k[:, head // 2 * width : (head // 2 + 1) * width]  # two queries share a key
            eq5[-1].append(int(np.linalg.matrix_rank(mine @ theirs.T)))
            scores = turn(mine) @ turn(theirs).T / np.sqrt(width)
            scores[np.triu_indices(n, 1)] = -np.inf
            map_ = np.exp(scores - scores.max(axis=1, keepdims=True))
            map_ /= map_.sum(axis=1, keepdims=True)
            np.fill_diagonal(map_, 0)
            probs[-1].append(int(np.linalg.matrix_rank(map_.astype(np.float32))))
    return eq5, probs, [s[0].detach().double().numpy() for s in states]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_llava(layers=3, width=32)


@pytest.fixture(scope="module")
def samples(model: Any) -> list[dict[str, Any]]:
    inputs = batch(model, ROWS)
    return [row(inputs, i, images) for i, images in enumerate(IMAGES)]


def test_both_variants_are_those_of_explicit_maps(
    model: Any, samples: list[dict[str, Any]]
) -> None:
    found = measure(model, samples)
    for i, sample in enumerate(samples):
        eq5, probs, _ = naive(model, sample)
        assert found.ranks["logits"][i] == eq5
        # A singular value beside the tolerance may fall on either side of it.
        assert np.abs(np.array(found.ranks["probs"][i]) - np.array(probs)).max() <= 1
        assert np.mean(np.array(found.ranks["probs"][i]) == np.array(probs)) > 0.8
    assert {max(map(max, r)) for r in found.ranks["logits"]} == {8}  # the heads' width
    assert min(min(map(min, r)) for r in found.ranks["probs"]) > 8


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_ragged_batch_gives_the_numbers_of_single_samples(
    model: Any, samples: list[dict[str, Any]], padding: str
) -> None:
    alone = measure(model, samples)
    together = measure(model, [batch(model, ROWS, padding=padding)])
    assert together.ranks == alone.ranks
    for name in ("block_influence", "cosine"):
        assert torch.allclose(together.per_layer(name), alone.per_layer(name), atol=1e-6)


def test_groups_of_heads_and_threads_change_nothing(
    model: Any, samples: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = measure(model, samples).ranks
    monkeypatch.setattr(ranks, "MAP_BYTES", 1)  # a head at a time
    assert measure(model, samples).ranks == before
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert measure(model, samples).ranks == before
    finally:
        torch.set_num_threads(threads)


def test_block_influence_and_cosine_by_hand(model: Any, samples: list[dict[str, Any]]) -> None:
    found = measure(model, samples, ())
    _, _, states = naive(model, samples[0])
    for layer in range(2):  # the last state is behind the final norm
        x, y = states[layer], states[layer + 1]
        alike = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        assert found.block_influence[0][layer] == pytest.approx(1 - alike.mean(), abs=1e-6)
        assert found.cosine[0][layer] == pytest.approx(alike[3:19].mean(), abs=1e-6)


def test_hooks_leave_no_trace_and_unknown_variants_are_refused(
    model: Any, samples: list[dict[str, Any]]
) -> None:
    def hooks() -> list[int]:
        found = [h for m in model.modules() for h in (m._forward_hooks, m._forward_pre_hooks)]
        return [len(hooked) for hooked in found]

    before = hooks()
    assert arank(model, samples, "logits").shape == (3, 3)
    with pytest.raises(ValueError, match="'logits' or 'probs'"):
        arank(model, samples, "both")  # type: ignore[arg-type]
    assert hooks() == before


def test_the_four_highest_stay_dense_ties_to_the_lowest() -> None:
    assert dense_layers(torch.tensor([1.0, 5, 3, 5, 5, 3, 0])) == [1, 2, 3, 4]
    assert dense_layers(torch.tensor([[1.0, 2, 3], [3.0, 2, 2]]), keep=1) == [2]
