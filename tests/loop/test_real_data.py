"""Local copies of the real datasets, checkpoints in the published formats."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import methods
from harness.bench.benches import Bench, resolve_bench
from harness.model.session import Session
from tests.fixtures.hub_data import write_gqa, write_textvqa
from tests.loop.cells import DOCUMENTS, comparable, predictions, run
from tests.tiers import some

import torch  # isort: skip  after the fixtures, which prepare torchvision


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_gqa_scores_planted_answers(
    family: str, gqa: Bench, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two configurations joined by upstream's process_docs; exact match ignores case and dots."""
    loaded = request.getfixturevalue(family)
    first = run(loaded, gqa)
    assert first.n == DOCUMENTS and first.headline.metric == "exact_match"
    right = [s.prediction.upper() + "." for s in first.samples[:3]]
    write_gqa(tmp_path, [*right, "quite another", "thing"])
    again = run(loaded, resolve_bench("gqa", str(tmp_path)))
    assert [s.score for s in again.samples] == [1, 1, 1, 0, 0]
    assert again.headline.value == pytest.approx(3 / 5) and again.headline.is_mean
    assert again.headline.scores == {s.doc_id: s.score for s in again.samples}
    assert [s.target for s in again.samples][:3] == right
    # Two questions share an image; another image has another key.
    images = [s.image_id for s in again.samples]
    assert images[0] == images[1] != images[2]


def test_textvqa_scores_the_share_of_annotators(
    llava: Session, textvqa: Bench, tmp_path: Path
) -> None:
    first = run(llava, textvqa)
    said = [s.prediction for s in first.samples]
    counts = zip(said, (10, 3, 2, 1, 0), strict=True)
    planted = [[word] * k + ["zz"] * (10 - k) for word, k in counts]
    write_textvqa(tmp_path, planted)
    again = run(llava, resolve_bench("textvqa", str(tmp_path)))
    scores = [s.score for s in again.samples]
    assert scores[0] == 1 and 1 > scores[1] > scores[2] > scores[3] > scores[4] == 0  # type: ignore
    assert again.headline.value == pytest.approx(sum(scores) / 5)  # type: ignore[arg-type]
    assert [m.metric for m in again.metrics] == ["exact_match"]  # no submission file
    assert again.samples[1].target == "zz"  # the commonest, not the literal word "answer"
    assert not list(tmp_path.rglob("*submission*")) and not Path("submissions").exists()


def test_answers_are_those_of_plain_generate(llava: Session, gqa: Bench, root: Path) -> None:
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    folder = root / "lmms-lab-encoder" / "GQA"
    rows = pq.read_table(next(folder.glob("*instructions/*.parquet"))).to_pylist()
    shots = pq.read_table(next(folder.glob("*images/*.parquet"))).to_pylist()
    pictures = {row["id"]: Image.open(io.BytesIO(row["image"]["bytes"])) for row in shots}
    expected = []
    for row in rows:
        question = row["question"] + "\nAnswer the question using a single word or phrase."
        inputs = llava.processor(
            text=f"USER: <image>\n{question} ASSISTANT:",
            images=pictures[row["imageId"]],
            return_tensors="pt",
        )
        ids = llava.model.generate(**inputs, max_new_tokens=16, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        text = llava.processor.tokenizer.decode(new, skip_special_tokens=True)
        expected.append(text.split("\n\n")[0].strip())
    assert predictions(run(llava, gqa)) == expected
    assert len(set(expected)) > 1  # the pictures and questions matter


METHODS = ("dense", "fastv:k=1:r=0.5", "random", "blind")
BOTH = list(itertools.product(("llava", "llava_next"), METHODS))
# Each method, dense and one that drops on both.
EACH = [case for case in BOTH if case[1] in METHODS[:2] or case in (BOTH[2], BOTH[7])]


@pytest.mark.parametrize("case", some(BOTH, *EACH))
def test_batches_answer_like_single_samples(
    case: tuple[str, str], gqa: Bench, request: pytest.FixtureRequest
) -> None:
    family, spec = case
    loaded, method = request.getfixturevalue(family), methods.parse(spec)
    single = run(loaded, gqa, method)
    batched = run(loaded, gqa, method, batch_size=4)
    assert predictions(single) == predictions(batched)
    assert comparable(single)["records"] == comparable(batched)["records"]
    assert list(single.records) == [s.doc_id for s in single.samples]
    record = single.records["0"]
    assert record.n_image and record.n_out == single.samples[0].n_out - 1
    if family == "llava_next":
        assert {g["kind"] for g in record.grid} == {"base", "tile"} and record.grid[-1]["newline"]
    if spec != "dense":
        assert record.kv_ratio_vision is not None and record.kv_ratio_vision < 1


def test_trained_method_with_weights(llava: Session, gqa: Bench, tmp_path: Path) -> None:
    from harness.engine import model_info
    from harness.model.checkpoints import save_checkpoint

    method, info = methods.parse("pmod"), model_info(llava.model)
    torch.manual_seed(0)
    modules = method.build_modules(info)
    assert modules is not None
    for parameter in modules.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_checkpoint(tmp_path / "pmod", method, modules, info)
    result = run(llava, gqa, method, checkpoint=tmp_path / "pmod")
    assert 0 < result.records["0"].skip_all_layers < 1
    name = "model.multi_modal_projector.linear_1.weight"
    width = dict(llava.model.named_parameters())[name].shape
    delta = {name: (torch.randn(1, width[1]), torch.randn(width[0], 1))}
    save_checkpoint(tmp_path / "moved", method, modules, info, deltas=delta)
    moved = run(llava, gqa, method, checkpoint=tmp_path / "moved")
    # New projector, new features: the stored ones of the dense model must not be served.
    assert predictions(moved) != predictions(result)
    assert predictions(run(llava, gqa)) == predictions(run(llava, gqa, share_features=False))


def test_prepared_dataset_is_used_offline(
    llava: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run with a network left in the library's cache is enough, login or not."""
    import datasets
    from lmms_eval.api import task

    folder = write_textvqa(tmp_path / "made", [["red"] * 10] * 2)
    cache = tmp_path / "cache"
    datasets.load_dataset(str(folder), cache_dir=str(cache))
    (cache / "textvqa").rename(cache / "lmms-lab-encoder___textvqa")
    monkeypatch.setenv("LMMS_EVAL_DATASETS_CACHE", str(cache))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    task._resolve_hf_datasets_cache_dir.cache_clear()
    try:
        result = run(llava, resolve_bench("textvqa", "hub"))
    finally:
        task._resolve_hf_datasets_cache_dir.cache_clear()
    assert result.n == 2 and result.task == "textvqa_val"


def test_mini_bench_runs(llava: Session) -> None:
    bench = resolve_bench("pope", "mini")
    result = run(llava, bench, limit=4)
    assert result.n == 4 and result.data == "mini" and result.task == "pope_mini"
    assert [m.metric for m in result.metrics][:2] == ["pope_accuracy", "pope_precision"]
    assert result.headline.is_mean and len(result.headline.scores) == 4
    assert not result.metrics[1].is_mean and result.metrics[1].scores == {}
