"""Methods that pick image tokens by likeness: published examples, plain references, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.engine import EngineError, routed
from harness.families.tiny import Clip
from harness.families.tiny import any_resolution_inputs as any_resolution
from methods import MethodError, cdpruner, divprune, mmtok, parse
from methods.picking import split, unit
from tests.naive_choosers import determinants, spread
from tests.routing_tools import ROWS
from tests.similarity_tools import PICKERS, SPECS, X, everywhere, kept, run, sizes, states
from tests.test_engine_questions import questions
from tests.tiny import batch, tiny_llava, tiny_llava_next


def test_divprune_picks_in_the_published_order() -> None:
    x = states(X)
    assert divprune.pick(x, everywhere(x), 8)[0].tolist() == [7, 5, 2, 3, 1, 6, 0, 4]
    assert parse("divprune").kept(576) == 56


def test_divprune_never_repeats_equal_tokens() -> None:
    x = states([[1, 2, 3]] * 8)
    assert divprune.pick(x, everywhere(x), 4)[0].tolist() == [0, 1, 2, 3]


def test_divprune_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 20, 6))
    there = torch.arange(20) < torch.tensor([[20], [13], [17]])
    picks = divprune.pick(torch.tensor(x) * there.unsqueeze(-1), there, 9)
    for i, n in enumerate((20, 13, 17)):
        assert picks[i].tolist() == spread(x[i, :n], 9)


# --- CDPruner
SWAPPED = [[row[1], row[0], row[3], row[2]] for row in X]  # stands for CLIP's patches


def relevance() -> torch.Tensor:
    found = -unit(states(SWAPPED)) @ unit(torch.tensor([1.0, 0, 0, 1]))
    return cdpruner.scaled(found, everywhere(states(X)), torch.tensor([0]))


def test_cdpruner_relevance_and_sets_of_the_worked_example() -> None:
    expected = [1.0000, 0.8000, 0.7317, 0.1768, 0.0000, 0.1515, 0.2000, 0.6107]
    assert relevance()[0].tolist() == pytest.approx(expected, abs=6e-5)
    x = states(X)
    sets = {}
    for k in (3, 4, 6, 8):
        picks = cdpruner.pick(x, relevance(), everywhere(x), k)[0].tolist()
        assert len(set(picks)) == k
        sets[k] = set(picks)
    assert sets[3] == {0, 2, 7}
    assert sets[4] == {0, 1, 2, 7}
    assert sets[6] == {0, 1, 2, 7, 6, 3}  # rank 4: the most relevant fill up


def test_cdpruner_survives_blank_images() -> None:
    x = states([[1.0, 2, 3]] * 6)
    flat = cdpruner.scaled(torch.zeros(1, 6), everywhere(x), torch.tensor([0]))
    assert flat.tolist() == [[1.0] * 6]
    assert cdpruner.pick(x, flat, everywhere(x), 4)[0].tolist() == [0, 1, 2, 3]
    assert len(set(cdpruner.pick(x * 0, flat, everywhere(x), 6)[0].tolist())) == 6


def test_cdpruner_scales_over_all_crops_of_an_image_and_over_no_other() -> None:
    found = torch.tensor([[1.0, 2.0], [3.0, 9.0], [0.0, 4.0]])
    there = torch.tensor([[True, True], [True, False], [True, True]])
    scaled = cdpruner.scaled(found, there, torch.tensor([0, 0, 1]))
    expected = torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(scaled, expected, atol=2e-6, rtol=0)


def test_cdpruner_against_determinants_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(2)
    x, r = draw.normal(size=(3, 14, 16)), draw.random(size=(3, 14))
    there = torch.arange(14) < torch.tensor([[14], [9], [11]])
    weight = torch.tensor(r) * there
    picks = cdpruner.pick(torch.tensor(x) * there.unsqueeze(-1), weight, there, 7)
    for i, n in enumerate((14, 9, 11)):
        assert picks[i].tolist() == determinants(x[i, :n], r[i, :n], 7)


def test_cdpruner_refuses_to_guess_without_clip() -> None:
    model = tiny_llava()
    with pytest.raises(EngineError, match="pass --checkpoint cdpruner=PATH_OR_ID, or use"):
        run(model, batch(model, ROWS), "cdpruner", clip=None)


def test_mmtok_picks_and_gains_of_the_worked_example() -> None:
    x, words = states(X), states([[4, 1, 0, 0], [0, 0, 1, 4]])
    real = torch.ones(1, 2, dtype=torch.bool)
    worth = parse("mmtok").worth(x, states(SWAPPED), everywhere(x), words, real)
    picks, gains = mmtok.cover(worth, everywhere(x), 5)
    assert picks[0].tolist() == [7, 1, 5, 3, 2]
    assert gains[0].tolist() == pytest.approx([0.5559, 0.4423, 0.0541, 0.0537, 0.0105], abs=6e-5)


def naive_mmtok(x: np.ndarray, v: np.ndarray, z: np.ndarray, k: int) -> list[int]:
    x, v, z = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, v, z))
    p, q = np.exp(z @ x.T / 0.02), np.exp(v @ v.T / 0.2)
    p, q = p / p.sum(1, keepdims=True) / len(z), q / q.sum(1, keepdims=True) / len(v)
    rows, covered, picks = np.concatenate([p, 0.5 * q]), np.zeros(len(z) + len(v)), []
    while len(picks) < k:
        gain = np.maximum(0, rows - covered[:, None]).sum(0)
        gain[picks] = -1
        picks.append(int(gain.argmax()))
        covered = np.maximum(covered, rows[:, picks[-1]])
    return picks


def test_mmtok_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(3)
    x, v, z = (draw.normal(size=(2, n, 6)) for n in (15, 15, 4))
    there = torch.arange(15) < torch.tensor([[15], [11]])
    real = torch.arange(4) < torch.tensor([[4], [2]])
    worth = parse("mmtok").worth(*map(torch.tensor, (x, v)), there, torch.tensor(z), real)
    picks, _ = mmtok.cover(worth, there, 8)
    for i, (n, t) in enumerate(((15, 4), (11, 2))):
        assert picks[i].tolist() == naive_mmtok(x[i, :n], v[i, :n], z[i, :t], 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What is the color of A car?\nAnswer the question using a single word or phrase.",
         "color of car"),
        ("Is it?", "Is it?"),
        ("<image>\n", "see this image"),
    ],
)  # fmt: skip
def test_mmtok_keywords(text: str, words: str) -> None:
    assert mmtok.keywords(text).replace("in ", "") == words


@pytest.mark.parametrize("spec", ["mmtok:keep=200", "cdpruner:relevance=words:keep=200"])
def test_the_question_decides_and_its_padding_does_not(spec: str) -> None:
    model = tiny_llava(dtype=torch.float64)
    inputs = batch(model, ROWS)
    seen = []

    def tokenizer(texts: list[str], add_special_tokens: bool) -> dict[str, Any]:
        return {"input_ids": [[3 + len(w) for w in text.split()] for text in texts]}

    for asked in (["red", "a", "cat", "dog on tables"], ["red", "a", "cat", "extraordinary"]):
        _, records = run(model, inputs, spec, asked, tokenizer=tokenizer)
        seen.append([kept(record) for record in records])
    assert seen[0][:3] == seen[1][:3]
    assert seen[0][3] != seen[1][3]


# --- all of them
def test_shares_add_up_and_stay_within_the_crops() -> None:
    assert split(320, [576] * 5) == [64] * 5
    assert split(7, [4, 4, 2]) == [3, 3, 1]
    assert split(3, [0, 3, 0]) == [0, 3, 0]
    for total in range(20):
        parts = split(total, [3, 7, 1, 8])
        assert sum(parts) == total
        assert all(a <= b for a, b in zip(parts, [3, 7, 1, 8], strict=True))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_a_ragged_batch_is_its_rows(spec: str, attn: str) -> None:
    model = tiny_llava(attn=attn, dtype=torch.float64)
    inputs = batch(model, ROWS)
    _, together = run(model, inputs, spec)
    first = 0
    for i, (_, images, _) in enumerate(ROWS):
        real = inputs["attention_mask"][i].bool()
        single = {k: inputs[k][i][real][None] for k in ("input_ids", "attention_mask")}
        if images:
            single["pixel_values"] = inputs["pixel_values"][first : first + len(images)]
        first += len(images)
        with torch.no_grad(), routed(model, parse(spec), clip=Clip(model)) as one:
            one.set_samples([f"doc {i}"])
            model(**single)
            (alone,) = one.records()
        assert (alone.keep == together[i].keep).all()


@pytest.mark.parametrize("spec", PICKERS)
@pytest.mark.parametrize("amount", ["tokens=7", "ratio=0.25", "kv=0.5"])
@pytest.mark.parametrize("tiles", [False, True])
def test_budgets_are_met_exactly(spec: str, amount: str, tiles: bool) -> None:
    name = spec.partition(":")[0]
    rest = [p for p in spec.split(":")[1:] if not p.startswith("keep")]
    method = parse(":".join([name, *rest, amount]))
    if tiles:
        model = tiny_llava_next(dtype=torch.float64)
        inputs = any_resolution(model, [(20, 30), (32, 14)])
    else:
        model = tiny_llava(dtype=torch.float64)
        inputs = batch(model, ROWS)
    _, records = run(model, inputs, method.spec)
    for record in records:
        always = "newlines=keep" in spec
        wanted = [max(round(method.target(n)), lines * always) for n, lines in sizes(record)]
        assert len(kept(record)) == sum(wanted)


@pytest.mark.parametrize("spec", SPECS)
def test_everything_kept_is_dense_with_tiles_too(spec: str) -> None:
    model = tiny_llava_next()
    inputs = any_resolution(model, [(20, 30), (16, 60)])
    with torch.no_grad():
        plain = model(**inputs).logits
    rest = [p for p in spec.split(":") if not p.startswith("keep")]
    logits, _ = run(model, inputs, ":".join([*rest, "ratio=1.0"]))
    assert torch.equal(plain, logits)


@pytest.mark.parametrize("spec", ["divprune", "cdpruner:relevance=words", "mmtok", "sparsevlm"])
def test_nothing_is_asked_of_the_device_but_where_the_images_stand(spec: str) -> None:
    drawn = 3 * 3 if spec == "sparsevlm" else 0  # on the host, at 3 stages for 3 rows with images
    assert questions(spec, ROWS, 8)[0] == questions("dense", ROWS, 8)[0] + 1 + drawn
    frames = [(3, [16] * 5, 4), (2, [], 3)]
    asked = questions("freevideollm:relevance=words", frames, 4)[0]
    assert asked == questions("dense", frames, 4)[0] + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mmtok:tau_v=0", "mmtok: tau_t and tau_v must be above 0"),
        ("cdpruner:keep=-1", "cdpruner: keep=-1 is below 0"),
        ("freevideollm:alpha=0", "freevideollm: alpha=0.0 is outside 0..1"),
        ("divprune:keep=2", "divprune: keep=2.0 is outside 0..1"),
        ("sparsevlm:budget=100", "sparsevlm: budget=100 is not one of 192, 128, 96, 64"),
        ("sparsevlm:layers=2+3+9", "sparsevlm: layers must rise by 2 or more"),
        ("sparsevlm:layers=2+6", "sparsevlm: layers and keep need equally many entries"),
        ("divprune:ratio=0.5:kv=0.5", "divprune: ratio and kv exclude each other"),
    ],
)
def test_bad_input_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(MethodError, match="^" + message):
        parse(text)
