"""Samples that are answered although something is wrong with them: counted, or refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import methods
from harness.bench.benches import Bench, resolve_bench
from harness.common.errors import CellError
from harness.model.context import context_length
from harness.model.session import Session
from tests.fixtures.hub_data import truncate_image, write_refcoco, write_textvqa
from tests.loop.cells import predictions, run
from tests.tiers import some


@pytest.mark.parametrize(
    "spec", some(["dense", "fastv:k=1:r=0.25", "random", "blind"], "fastv:k=1:r=0.25", "blind")
)
def test_longer_than_the_context(
    spec: str, llava: Session, gqa: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the prompt as asked, whatever a method drops of it: the same samples for every method."""
    method = methods.parse(spec)
    free = run(llava, gqa, method)
    assert free.over_length == 0 and free.notes == ()
    asked = [record.n for record in free.records.values()]
    if spec == "blind":  # its records start behind the image
        asked = [record.n for record in run(llava, gqa).records.values()]
    ends = [n + s.n_out - 1 for n, s in zip(asked, free.samples, strict=True)]
    context = sorted(ends)[-2]
    longest = [doc for doc, end in enumerate(ends) if end > context]
    text = llava.model.config.text_config
    monkeypatch.setattr(text, "max_position_embeddings", context)
    with pytest.raises(
        CellError, match=rf"gqa/{longest[0]}: .* context of {context}: --allow over"
    ):
        run(llava, gqa, method)
    log = tmp_path / "log"
    for _ in range(2):  # the second reads the answers of the first
        allowed = run(llava, gqa, method, allow=("over-length",), batch_size=2, response_log=log)
        assert allowed.over_length == len(longest) > 0
        assert predictions(allowed) == predictions(free)
        (note,) = allowed.notes
        assert note.startswith(f"{len(longest)} of 5 samples longer than the model's context")


@pytest.mark.parametrize(
    ("length", "rope", "expected"),
    [
        (4096, {"rope_type": "default"}, 4096),
        (4096, {"rope_type": "linear", "factor": 4.0}, 16384),
        (32768, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        (131072, {"rope_type": "llama3", "factor": 8.0,
                  "original_max_position_embeddings": 8192}, 131072),
        (None, None, None),
    ],
)  # fmt: skip
def test_context_of_a_stretched_model(length: Any, rope: Any, expected: Any) -> None:
    text = SimpleNamespace(max_position_embeddings=length, rope_parameters=rope)
    assert context_length(SimpleNamespace(get_text_config=lambda: text)) == expected


def test_truncated_images_are_counted(llava: Session, tmp_path: Path) -> None:
    folder = write_textvqa(tmp_path, [["red"] * 10] * 3)
    whole = run(llava, resolve_bench("textvqa", str(tmp_path)))
    assert whole.truncated_images == 0 and whole.notes == ()
    truncate_image(folder, 1)
    cut = run(llava, resolve_bench("textvqa", str(tmp_path)))
    assert cut.truncated_images == 1
    assert cut.notes == ("truncated images, their rest grey: 1 in 3 samples",)
    same = [a.image_id == b.image_id for a, b in zip(cut.samples, whole.samples, strict=True)]
    assert same == [True, False, True]


def test_a_task_that_reads_its_images_ahead(llava: Session, tmp_path: Path) -> None:
    """RefCOCO's documents are decoded and stored anew before they are asked: no trace is left."""
    folder = write_refcoco(tmp_path, [((60, 40), (1, 2, 30, 20))] * 2)
    truncate_image(folder, 1)
    with pytest.raises(CellError, match="ends too early"):
        run(llava, resolve_bench("refcoco", str(tmp_path)))
