"""Methods that pick image tokens by likeness: published examples, plain references, layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

from harness.engine import EngineError, routed
from harness.errors import UsageError
from harness.model.checkpoints import CheckpointError, load_checkpoint
from harness.model.clip import load_clip
from harness.model.tiny import Clip
from harness.model.tiny import any_resolution_inputs as any_resolution
from harness.parts import Parts
from methods import MethodError, cdpruner, divprune, mmtok, parse
from methods.base import IMAGE
from methods.dpc import cluster
from methods.picking import split, unit
from tests.naive import Naive
from tests.routing_tools import ROWS, exact_norms, naive_sample
from tests.test_engine_questions import questions
from tests.tiny import batch, tiny_llava, tiny_llava_next, vision_config

# The worked example of all these methods: features of eight tokens.
X = [[4, 0, 0, 1], [4, 1, 0, 1], [3, 0, 1, 0], [0, 4, 0, 1]]
X += [[0, 4, 1, 1], [0, 0, 4, 0], [1, 0, 4, 1], [1, 1, 1, 4]]
PICKERS = ["divprune:keep=0.3", "divprune:keep=0.3:space=crop:newlines=keep"]
PICKERS += ["cdpruner:keep=200", "cdpruner:relevance=words:keep=200", "mmtok:keep=200"]
SPECS = [*PICKERS, "sparsevlm", "sparsevlm:version=2"]


def states(rows: Any) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def everywhere(x: torch.Tensor) -> torch.Tensor:
    return torch.ones(x.shape[:2], dtype=torch.bool)


def run(model: Any, inputs: Any, spec: str, questions: Any = None, **options: Any) -> Any:
    """Logits and records of one pass."""
    options.setdefault("clip", Clip(model))
    with torch.no_grad(), routed(model, parse(spec), **options) as run:
        names = [f"doc {i}" for i in range(len(inputs["input_ids"]))]
        run.set_samples(names, questions)
        return model(**inputs).logits, run.records()


def kept(record: Any, layer: int = -1) -> list[int]:
    """Image columns of a record that a layer processes."""
    return np.nonzero(record.keep[layer] & (record.kinds == IMAGE))[0].tolist()


def sizes(record: Any) -> list[tuple[int, int]]:
    """(tokens, newlines) of each image of a record."""
    found: list[list[int]] = []
    for grid in record.grid:
        if grid["kind"] == "base":
            found.append([0, 0])
        found[-1][0] += grid["rows"] * (grid["cols"] + grid["newline"])
        found[-1][1] += grid["rows"] * grid["newline"]
    return [(n, lines) for n, lines in found]


# --- DivPrune
def test_divprune_picks_in_the_published_order() -> None:
    x = states(X)
    assert divprune.pick(x, everywhere(x), 8)[0].tolist() == [7, 5, 2, 3, 1, 6, 0, 4]
    assert parse("divprune").kept(576) == 56


def test_divprune_never_repeats_equal_tokens() -> None:
    x = states([[1, 2, 3]] * 8)
    assert divprune.pick(x, everywhere(x), 4)[0].tolist() == [0, 1, 2, 3]


def naive_divprune(x: np.ndarray, k: int) -> list[int]:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    d = 1 - x @ x.T
    n = len(x)
    picks = [int(np.argmax([np.sort(np.delete(d[i], i))[0] for i in range(n)]))]
    while len(picks) < k:
        worth = [-9.0 if j in picks else min(d[i, j] for i in picks) for j in range(n)]
        picks.append(int(np.argmax(worth)))
    return picks


def test_divprune_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(3, 20, 6))
    there = torch.arange(20) < torch.tensor([[20], [13], [17]])
    picks = divprune.pick(torch.tensor(x) * there.unsqueeze(-1), there, 9)
    for i, n in enumerate((20, 13, 17)):
        assert picks[i].tolist() == naive_divprune(x[i, :n], 9)


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


def naive_dpp(x: np.ndarray, r: np.ndarray, k: int) -> list[int]:
    """Greedy by determinants, straight from the definition."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    kernel = r[:, None] * (x @ x.T) * r[None]
    picks: list[int] = []
    while len(picks) < k:
        rest = [i for i in range(len(x)) if i not in picks]
        value = {i: np.linalg.det(kernel[np.ix_([*picks, i], [*picks, i])]) for i in rest}
        picks.append(max(rest, key=lambda i: value[i]))
    return picks


def test_cdpruner_against_determinants_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(2)
    x, r = draw.normal(size=(3, 14, 16)), draw.random(size=(3, 14))
    there = torch.arange(14) < torch.tensor([[14], [9], [11]])
    weight = torch.tensor(r) * there
    picks = cdpruner.pick(torch.tensor(x) * there.unsqueeze(-1), weight, there, 7)
    for i, n in enumerate((14, 9, 11)):
        assert picks[i].tolist() == naive_dpp(x[i, :n], r[i, :n], 7)


def test_cdpruner_refuses_to_guess_without_clip() -> None:
    model = tiny_llava()
    with pytest.raises(EngineError, match="pass --checkpoint cdpruner=PATH_OR_ID, or use"):
        run(model, batch(model, ROWS), "cdpruner", clip=None)


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A tiny CLIP model on disk, of the tiny towers' shape, with a tokenizer of letters."""
    import transformers as t

    vision = vision_config().to_dict()
    text = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 1, "projection_dim": 8}
    config = t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    t.CLIPModel(config).save_pretrained(tmp_path / "clip")
    letters = {"<s>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(letters, unk_token="<s>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    t.PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


def test_clip_reads_long_texts_in_chunks_and_pools_frames_as_clip_does(clip_folder: Path) -> None:
    import transformers as t

    model = tiny_llava()
    clip, whole = load_clip(clip_folder, model), t.CLIPModel.from_pretrained(clip_folder)
    short, long = clip.text(["ab", "abcdefghij" * 10])
    assert (tuple(short.shape), tuple(long.shape)) == ((1, 8), (2, 8))
    with torch.no_grad():
        alone = whole.get_text_features(torch.tensor([[0, 2, 3, 1]])).pooler_output
        torch.testing.assert_close(short, alone)
        pixels = torch.randn(1, 3, 16, 16)
        tower = whole.vision_model(pixels, output_hidden_states=True)
        torch.testing.assert_close(
            clip.frame(tower.hidden_states[-2][0]),
            whole.get_image_features(pixels).pooler_output[0],
        )


def test_a_clip_folder_is_the_checkpoint_of_a_method_that_reads_it(clip_folder: Path) -> None:
    model, method = tiny_llava(), parse("cdpruner:keep=200")
    loaded = load_checkpoint(clip_folder, model, method)
    assert loaded.method == method
    inputs = batch(model, ROWS)
    _, records = run(model, inputs, method.spec, ["a", "b", "c", "d"], clip=loaded.clip)
    assert [len(kept(r)) for r in records] == [6, 0, 12, 6]
    assert set(Parts().checkpoint_hashes(clip_folder)) == {"model.safetensors", "config.json"}
    with pytest.raises(CheckpointError, match="is a CLIP model, which dense does not read"):
        load_checkpoint(clip_folder, model, parse("dense"))
    model.config.vision_config.hidden_size = 32
    with pytest.raises(UsageError, match="not the CLIP model of this vision tower: its hidden_s"):
        load_checkpoint(clip_folder, model, method)


# --- MMTok
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


# --- SparseVLM
@pytest.mark.parametrize(
    ("version", "budget", "counts", "mean"),
    [
        ("1.5", 192, [309, 204, 113], 206.5),
        ("1.5", 128, [312, 117, 39], 145.4),
        ("1.5", 96, [249, 55, 27], 114.1),
        ("1.5", 64, [82, 32, 18], 82.3),
        ("2", 192, [300, 200, 118], 206.8),
        ("2", 128, [238, 108, 60], 144.1),
        ("2", 96, [246, 54, 28], 113.9),
        ("2", 64, [66, 34, 20], 81.8),
    ],
)
def test_sparsevlm_counts_are_those_of_the_released_tables(
    version: str, budget: int, counts: list[int], mean: float
) -> None:
    method = parse(f"sparsevlm:version={version}:budget={budget}")
    found = [kept + merged for kept, merged in method.kept(576, 32)]
    assert found == counts
    layers = [576] * 3 + [found[0]] * 4 + [found[1]] * 9 + [found[2]] * 16
    assert abs(sum(layers) / 32 - mean) < 0.06
    assert [layer for layer, _ in method.stages(32)] == [2, 6, 15]


def test_sparsevlm_single_stages_of_the_other_port() -> None:
    method = parse("sparsevlm:layers=2:keep=180")
    for keep, merged in ((180, 12), (114, 14), (48, 16)):
        assert method.folded(576 - keep)[1] == merged


@pytest.mark.parametrize("version", ["1.5", "2"])
@pytest.mark.parametrize("amount", ["tokens=192", "ratio=0.25", "kv=0.7", "ratio=1.0"])
def test_sparsevlm_meets_a_budget_as_a_mean_over_layers(version: str, amount: str) -> None:
    method = parse(f"sparsevlm:version={version}:{amount}")
    for n, depth in ((576, 32), (144, 12), (2340, 32)):
        ends = [*(layer + 1 for layer, _ in method.stages(depth)), depth]
        total = n * ends[0]
        for i, (kept, merged) in enumerate(method.kept(n, depth)):
            total += (kept + merged) * (ends[i + 1] - ends[i])
        if method.target(n) > n * ends[0] / depth:  # else the first layers hold too much alone
            assert abs(total / depth - method.target(n)) < 0.6


def test_sparsevlm_scales_its_layers_to_the_depth() -> None:
    method = parse("sparsevlm")
    assert [layer for layer, _ in method.stages(40)] == [2, 8, 19]
    assert method.stages(12) == [(0, 300), (2, 200), (6, 110)]
    assert method.stages(5) == [(0, 200), (2, 110)]


def naive_cluster(x: np.ndarray, count: int, jitter: np.ndarray) -> tuple[list[int], list[int]]:
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1)) / np.sqrt(x.shape[1])
    near = np.sort(distance, axis=1)[:, :count]
    density = np.exp(-(near**2).mean(axis=1)) + jitter
    worth = []
    for i in range(len(x)):
        denser = [distance[i, j] for j in range(len(x)) if density[j] > density[i]]
        worth.append(density[i] * (min(denser) if denser else distance.max()))
    centres = sorted(range(len(x)), key=lambda i: -worth[i])[:count]
    owner = [int(np.argmin([distance[i, c] for c in centres])) for i in range(len(x))]
    return centres, owner


def test_clusters_against_a_plain_reference_in_a_ragged_batch() -> None:
    draw = np.random.default_rng(1)
    x, jitter = draw.normal(size=(3, 12, 5)), draw.random(size=(3, 12)) * 1e-6
    sizes = [(12, 4), (7, 2), (3, 1)]
    real = torch.arange(12) < torch.tensor([[m] for m, _ in sizes])
    limits = torch.tensor([[c] for _, c in sizes])
    centres, owner = cluster(torch.tensor(x), real, limits, 4, torch.tensor(jitter))
    for i, (m, c) in enumerate(sizes):
        expected = naive_cluster(x[i, :m], c, jitter[i, :m])
        assert (centres[i, :c].tolist(), owner[i, :m].tolist()) == expected


@pytest.mark.parametrize("spec", ["sparsevlm:cluster=2", "sparsevlm:version=2"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_sparsevlm_against_a_plain_pass(spec: str, attn: str) -> None:
    """Tokens really leave and move here: the whole sequence is rebuilt at every stage."""
    model = exact_norms(tiny_llava(layers=8, side=6, dtype=torch.float64, attn=attn))
    inputs = batch(model, [(3, [36], 6)])
    logits, (record,) = run(model, inputs, spec)
    method = parse(spec)
    naive = Naive(model, naive_sample(model, inputs, torch.zeros(0, dtype=torch.long), "doc 0"))
    kinds = np.array([0] * 3 + [2] * 36 + [1] * 6)
    with torch.no_grad():
        x = naive.x.numpy()
        share = np.exp(x[3:39] @ x[39:].T)
        mean = (share / share.sum(axis=1, keepdims=True)).mean(axis=0)
        rows = np.zeros(45, dtype=bool)
        rows[39:] = mean > mean.mean()
        for layer in range(8):
            places = [place for place, _ in method.stages(8)]
            if layer - 1 in places:
                count, clusters = method.kept(36, 8)[places.index(layer - 1)]
                image = np.nonzero(kinds == 2)[0]
                order = sorted(image, key=lambda i: -score[i])
                stay = sorted({*order[:count], *np.nonzero(kinds != 2)[0]})
                last, parts, states = max(image), [], naive.x
                if clusters:
                    pruned = order[count:]
                    best = pruned[: int(0.3 * len(pruned)) + 1]
                    dice = naive_noise(len(best))
                    points = states[best].numpy()
                    _, owner = naive_cluster(points, clusters, dice)
                    for c in range(clusters):
                        mine = [i for i, o in zip(best, owner, strict=True) if o == c]
                        parts.append(states[mine].mean(dim=0, keepdim=True))
                front = [i for i in stay if i <= last]
                back = [i for i in stay if i > last]
                naive.x = torch.cat([states[front], *parts, states[back]])
                kinds = np.concatenate([kinds[front], np.full(clusters, 2), kinds[back]])
                rows = np.concatenate([rows[front], np.zeros(clusters, dtype=bool), rows[back]])
                original = naive.position[front + back]
                naive.position = torch.arange(len(kinds)) if clusters else original
                naive.alive = torch.ones(len(kinds), dtype=torch.bool)
            if layer in places:
                maps = naive.probabilities(layer, naive.alive, naive.position)
                if method.version == "2":
                    ones = torch.ones(len(kinds), 1, naive.size, dtype=torch.float64)
                    turned = naive.turned(ones, naive.position)[:, 0]
                    bias = turned @ turned.T / naive.size**0.5
                    maps = maps / bias.clamp(min=0.01 * naive.size**0.5)
                heads = maps[:, rows][:, :, kinds == 2].sum(dim=(1, 2)).argsort(descending=True)
                heads = heads[: round(14 * 4 / 32)] if method.version == "2" else heads
                score = maps[heads][:, rows].mean(dim=(0, 1)).numpy()
            naive.run_layer(layer)
        expected = model.lm_head(model.model.language_model.norm(naive.x[-1]))
    assert int((kinds == 2).sum()) == sum(method.kept(36, 8)[-1]) == len(kept(record))
    torch.testing.assert_close(logits[0, -1], expected, rtol=1e-6, atol=1e-6)


def naive_noise(count: int) -> np.ndarray:
    number = int.from_bytes(hashlib.sha256(b"0:doc 0").digest()[:7], "big")
    return 1e-6 * torch.rand(count, generator=torch.Generator().manual_seed(number)).numpy()


# --- Free Video-LLM
def test_freevideollm_counts() -> None:
    method = parse("freevideollm")
    assert method.box(24)[2:] == (21, 11)
    assert parse("freevideollm:grid=as_released").box(24)[2:] == (11, 21)
    assert method.count(50, 24) == 2648
    for amount in ("tokens=40", "ratio=0.05", "kv=0.09"):
        fitted = parse(f"freevideollm:{amount}")
        wanted = fitted.target(28800, 50)
        assert 0 <= wanted - fitted.fitted(28800, 50, 24).count(50, 24) <= 8 * 21


def naive_streams(x: np.ndarray, like: np.ndarray, heat: np.ndarray) -> list[np.ndarray]:
    """slow=1, middle=2, fast 2x2, alpha=.5 on frames [F, 4, 4, d] and patch likeness [F, 4, 4]."""
    made = []
    for f in [int(like.argmax()), len(x) // 4, 3 * len(x) // 4]:
        cells = np.maximum(x[f][:, 0::2], x[f][:, 1::2])  # [4, 2, d]
        warm = np.maximum(heat[f][:, 0::2], heat[f][:, 1::2])
        best = sorted(((r, c) for r in range(4) for c in range(2)), key=lambda at: -warm[at])[:4]
        top = sum(r for r, _ in best) // 4 - 3 // 2
        left = sum(c for _, c in best) // 4 - 1 // 2
        top, left = min(max(top, 0), 1), min(max(left, 0), 1)
        made += list(cells[top : top + 3, left : left + 1].reshape(-1, x.shape[-1]))
    for f in range(len(x)):
        made += [x[f][r : r + 2, c : c + 2].mean(axis=(0, 1)) for r in (0, 2) for c in (0, 2)]
    return made


def test_freevideollm_streams_against_a_plain_reference() -> None:
    draw = np.random.default_rng(4)
    method = parse("freevideollm:slow=1:middle=2:alpha=0.5:fast_grid=12")
    for _ in range(5):
        x, like, heat = draw.normal(size=(5, 4, 4, 3)), draw.random(5), draw.random((5, 4, 4))
        frames, patches = torch.tensor(x).flatten(1, 2), torch.tensor(heat).flatten(1)
        found = method.streams(frames, torch.tensor(like), patches, 4)
        assert len(found) == method.count(5, 4)
        np.testing.assert_allclose(found, np.stack(naive_streams(x, like, heat)))


@pytest.mark.parametrize("tiles", [False, True])
def test_freevideollm_refuses_a_single_image_and_takes_frames(tiles: bool) -> None:
    spec = "freevideollm:slow=1:middle=1"
    model = tiny_llava_next() if tiles else tiny_llava()
    for count in (1, 3):
        if tiles:
            inputs = any_resolution(model, [(20, 30)] * count)
        else:
            inputs = batch(model, [(3, [16] * count, 4)])
        if count == 1:
            with pytest.raises(MethodError, match="a single image is no video"):
                run(model, inputs, spec)
            continue
        _, (record,) = run(model, inputs, spec)
        assert len(kept(record)) == parse(spec).count(3, 4)


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
