"""A killed cell goes on, and ends with the same numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import methods
from harness.bench.benches import Bench
from harness.model.session import Session
from tests.loop.cells import DOCUMENTS, comparable, predictions, run


@pytest.mark.parametrize(
    ("batch_size", "damage"), [(2, "none"), (1, "half a line"), (2, "half the file")]
)
def test_killed_cell_ends_with_the_same_numbers(
    batch_size: int, damage: str, llava: Session, gqa: Bench, tmp_path: Path
) -> None:
    method = methods.parse("random")
    options: dict[str, Any] = {"batch_size": batch_size}
    whole = run(llava, gqa, method, **options)
    log, calls = tmp_path / "cell" / "log.jsonl", []

    def kill(answered: int, everything: int) -> None:
        calls.append((answered, everything))
        if answered >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(llava, gqa, method, response_log=log, on_batch=kill, **options)
    assert calls[0] == (0, DOCUMENTS)
    data = log.read_bytes()
    if damage == "half a line":
        log.write_bytes(data + data.splitlines()[-1][:40])
    elif damage == "half the file":
        log.write_bytes(data[: len(data) // 2])
    generated = []
    hook = llava.model.model.register_forward_hook(lambda *_: generated.append(1))
    try:
        resumed = run(llava, gqa, method, response_log=log, **options)
        fewer = len(generated)
        assert comparable(run(llava, gqa, method, response_log=log, **options)) == comparable(whole)
        assert len(generated) == fewer  # a finished log answers everything
    finally:
        hook.remove()
    assert comparable(resumed) == comparable(whole)
    assert set(whole.records) == {sample.doc_id for sample in whole.samples}


def test_log_of_other_requests_is_not_used(llava: Session, gqa: Bench, tmp_path: Path) -> None:
    from harness.store.response_log import VERSION

    log = tmp_path / "log.jsonl"
    dense = run(llava, gqa, response_log=log)
    for options in ({"limit": 2}, {"seed": 1}, {"method": methods.parse("uniform")}):
        other = run(llava, gqa, **{"response_log": log, **options})  # type: ignore[arg-type]
        assert json.loads(log.read_text().splitlines()[0])["version"] == VERSION
        assert comparable(other) == comparable(run(llava, gqa, **options))  # type: ignore[arg-type]
    assert predictions(dense) != predictions(other)
