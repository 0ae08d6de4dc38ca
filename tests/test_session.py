"""A run reads every file of weights once, however many cells, methods and benches it has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import safetensors.torch

from harness.command.cli import main


@pytest.mark.usefixtures("uncounted", "undrawn")
def test_each_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    real = safetensors.torch.load_file

    def counted(name: str, *args: object, **kwargs: object) -> object:
        reads[Path(name).parent.name] += 1
        return real(name, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "load_file", counted)
    argv = ["--methods", "pmod,fastv", "--bench", "pope,gqa", "--limit", "1"]
    assert main([*argv, "--quiet", "--out", str(tmp_path / "run")]) == 0
    shipped = {"tiny-llava-dense", "tiny-llava-pmod"}
    assert dict(reads) == dict.fromkeys(shipped, 1)
