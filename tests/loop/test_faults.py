"""What goes wrong is said, never answered with an empty text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.bench.benches import Bench, resolve_bench
from harness.common.errors import CellError
from harness.model.session import Session
from tests.fixtures.hub_data import write_gqa, write_textvqa
from tests.loop.cells import DOCUMENTS, comparable, predictions, run
from tests.tiers import some

import torch  # isort: skip  after the fixtures, which prepare torchvision


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Put something before the generator's answer to a batch."""
    from harness.bench.generation import Generator

    real = Generator.answer

    def install(before: Callable[..., Any]) -> None:
        def wrapped(self: Any, batch: Any) -> Any:
            before(batch)
            return real(self, batch)

        monkeypatch.setattr(Generator, "answer", wrapped)

    return install


@pytest.mark.parametrize("how", some(["torch", "cpu allocator", "python"], "torch", "python"))
def test_out_of_memory_halves_the_batch(
    how: str, llava: Session, gqa: Bench, answer: Any, tmp_path: Path
) -> None:
    errors = {
        "torch": torch.OutOfMemoryError("CUDA out of memory."),
        "cpu allocator": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        "python": MemoryError(),
    }
    sizes = []

    def full(batch: Any) -> None:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise errors[how]

    answer(full)
    result = run(llava, gqa, batch_size=5, response_log=tmp_path / "log")
    assert sizes == [5, 2, 2, 1] and result.batch_size == 2
    assert result.notes == ("out of memory at batch size 5, halved to 2",)
    assert predictions(result) == predictions(run(llava, gqa))
    # The log remembers: a resumed cell does not try the large batch again.
    sizes.clear()
    before = comparable(result)  # its records lie in the log
    lines = (tmp_path / "log").read_bytes().splitlines(keepends=True)
    (tmp_path / "log").write_bytes(b"".join(lines[:4]))
    assert comparable(run(llava, gqa, batch_size=5, response_log=tmp_path / "log")) == before
    assert sizes == [2, 1]


def test_out_of_memory_at_one_sample(llava: Session, gqa: Bench, answer: Any) -> None:
    def full(batch: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    answer(full)
    with pytest.raises(
        CellError, match=r"dense: out of memory on cpu at batch size 1, sample gqa/"
    ):
        run(llava, gqa, batch_size=4)


def test_other_errors_are_raised_not_answered(
    llava: Session, gqa: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(llava.model, "generate", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(llava, gqa)


def test_nan_logits_name_method_and_sample(llava: Session, gqa: Bench) -> None:
    steps = []

    def poison(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        steps.append(output.shape[0])
        output = output.clone()
        if len(steps) == 2:
            output[0] = float("nan")
        return output

    hook = llava.model.lm_head.register_forward_hook(poison)
    try:
        with pytest.raises(CellError) as caught:
            run(llava, gqa, methods.parse("uniform"), batch_size=2)
    finally:
        hook.remove()
    line = str(caught.value)
    assert "uniform" in line and "NaN" in line and "sample gqa/" in line and "token 2" in line


def test_checkpoint_of_another_depth(llava: Session, gqa: Bench, tmp_path: Path) -> None:
    from harness.model.checkpoints import save_checkpoint
    from methods.base import ModelInfo

    method = methods.parse("pmod")
    info = ModelInfo(layers=7, width=32, heads=4, kv_heads=2, head_dim=8)
    modules = method.build_modules(info)
    assert modules is not None
    save_checkpoint(tmp_path, method, modules, info)
    with pytest.raises(ValueError, match="7 layers"):
        run(llava, gqa, method, checkpoint=tmp_path)


def test_dataset_of_another_schema_is_one_line(llava: Session, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = write_textvqa(tmp_path, [["red"] * 10])
    path = next(folder.rglob("*.parquet"))
    pq.write_table(pa.table({"question": ["what?"]}), path)
    with pytest.raises((CellError, KeyError), match=r"image|answers"):
        run(llava, resolve_bench("textvqa", str(tmp_path)))


def test_nothing_is_printed(llava: Session, gqa: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    run(llava, gqa)
    out = capfd.readouterr()
    assert out.out == "" and out.err == ""
    seen: list[int] = []
    run(llava, gqa, progress=True, on_batch=lambda n, total: print(n, total))
    out = capfd.readouterr()
    assert out.out.split("\n")[0] == f"0 {DOCUMENTS}" and f"{DOCUMENTS}/{DOCUMENTS}" in out.err
    assert seen == []


def test_a_raising_method_names_its_sample(llava: Session, gqa: Bench) -> None:
    from harness.common.errors import one_line

    method = methods.parse("fastv:k=1:r=0.5")
    calls = []

    def broken(module: Any, *args: Any, **kwargs: Any) -> None:
        calls.append(module)
        if len(calls) > 2:
            raise ZeroDivisionError

    hook = llava.model.model.multi_modal_projector.register_forward_hook(broken)
    try:
        with pytest.raises(ZeroDivisionError) as caught:
            run(llava, gqa, method, share_features=False)
    finally:
        hook.remove()
    assert one_line(caught.value) == (
        f"ZeroDivisionError, method {method.label}, sample gqa/{len(calls) - 1}"
    )


@pytest.mark.parametrize(
    ("bench", "field", "value"),
    [
        ("gqa", "answer", None),
        ("gqa", "question", None),
        ("textvqa", "question", None),
        ("textvqa", "answers", None),
        ("textvqa", "image", None),
        ("textvqa", "image", {"bytes": b"no picture", "path": "a.png"}),
    ],
)
def test_an_odd_document_is_named(
    bench: str, field: str, value: Any, llava: Session, tmp_path: Path
) -> None:
    if bench == "gqa":
        folder = write_gqa(tmp_path, ["red"] * 4) / "testdev_balanced_instructions"
    else:
        folder = write_textvqa(tmp_path, [["red"] * 10] * 4)
    rewrite(folder, lambda rows: rows[2].update({field: value}))
    with pytest.raises(
        CellError, match=rf"{bench}(_val/|_val: document |: document )2\b"
    ) as caught:
        run(llava, resolve_bench(bench, str(tmp_path)))
    assert "\n" not in str(caught.value) and "RetryError" not in str(caught.value)


def test_an_odd_first_document_is_named(llava: Session, tmp_path: Path) -> None:
    """lmms-eval tries it while it loads the task."""
    rewrite(write_textvqa(tmp_path, [["red"] * 10]), lambda rows: rows[0].update(question=None))
    with pytest.raises(CellError, match=r"^textvqa_val: document 0: AttributeError"):
        run(llava, resolve_bench("textvqa", str(tmp_path)))


def test_no_documents(llava: Session, tmp_path: Path) -> None:
    folder = write_textvqa(tmp_path, [["red"] * 10])
    rewrite(folder, lambda rows: rows.clear())
    with pytest.raises(CellError, match="textvqa_val: the data hold no documents"):
        run(llava, resolve_bench("textvqa", str(tmp_path)))


def test_a_limit_beyond_all_documents(llava: Session, gqa: Bench) -> None:
    assert run(llava, gqa, limit=10**30, batch_size=1024).n == DOCUMENTS


def rewrite(folder: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a dataset's one parquet file, schema and notes kept."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = folder.rglob("*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
