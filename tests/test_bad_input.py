"""Bad input: one clear line, the contract's exit code, nothing written, nothing lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.model.session import Session
from tests.fakes import FakeRun, FakeSession, run


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line a bad command line gets."""
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--methods gama --bench gqa", "unknown method 'gama': did you mean 'gamma'?"),
        ("--methods fastv:q=3 --bench gqa", "unknown parameter 'q'"),
        ("--methods fastv:r=1.5 --bench gqa", "fastv"),
        ("--methods fastv:k=two --bench gqa", "k=two is not a whole number"),
        ("--methods fastv,fastv:k=2 --bench gqa", "twice"),
        ("--methods fastv,,pool --bench gqa", "--methods: empty item"),
        ("--methods fastv --bench gqa,gqa", "--bench: 'gqa' stands twice"),
        ("--methods fastv", "--bench is missing"),
        ("", "nothing to do"),
        ("--methods fastv --bench gqa --limit 0", "--limit: expected a whole number of at least 1"),
        ("--methods fastv --bench gqa --rank-timeout 0", "expected seconds, at least 2"),
        ("--methods fastv --bench gqa --margin 0", "--margin: expected a number of points above 0"),
        ("--methods fastv --bench gqa --margin nan", "--margin: expected a number of points"),
        ("--costs-only --methods fastv --margin 2", "--margin has no meaning with --costs-only"),
        (
            "--costs-only --methods fastv --workload batch=16",
            "--workload has no meaning with --costs-only: give --n-text, --n-out and --batch-size",
        ),
        ("--throughput --methods fastv --margin 2", "--margin has no meaning with --throughput"),
        ("--methods fastv --bench gqa --allow over-lenght", "did you mean 'over-length'?"),
        ("--throughput --methods fastv --allow over-length", "--allow has no meaning with"),
        ("--methods fastv --bench gqa --batch-size 1000000", "--batch-size: expected at most"),
        ("--plots-only runs/x --margin 2", "--margin has no meaning with --plots-only"),
        ("--diff runs/x", "--diff: expected 2 arguments"),
        ("--diff runs/x runs/y", "--diff: runs/x is not a directory"),
        ("--diff a b --list methods", "--list and --diff exclude each other"),
        ("--methods fastv --bench gqa --limit ten", "--limit: expected a whole number, got 'ten'"),
        ("--methods fastv --bench gqa --batch-size -1", "--batch-size: expected"),
        ("--methods fastv --bench gqa --seed -1", "--seed: expected"),
        ("--methods fastv --bench gqa --dtype bf61", "did you mean 'bf16'?"),
        ("--methods fastv --bench gqa --attn spda", "did you mean 'sdpa'?"),
        ("--methods fastv --bench gqa --device gpu", "unknown device 'gpu'"),
        ("--methods fastv --bench gqa --data minni", "did you mean 'mini'?"),
        ("--methods fastv --bench gqa --limt 5", "unknown flag '--limt': did you mean '--limit'?"),
        ("--methods fastv --bench gqa extra", "unexpected argument 'extra'"),
        ("--methods fastv --bench gqa --limit", "--limit: expected one argument"),
        ("--methods fastv --bench gqa --checkpoint pmod", "expected method=PATH_OR_ID"),
        ("--list methds", "did you mean 'methods'?"),
        ("--check pmodd", "--check: unknown method 'pmodd': did you mean 'pmod'?"),
        ("--list methods --check all", "--list and --check exclude each other"),
        ("--list methods --bench gqa", "--bench has no meaning with --list"),
        ("--plots-only runs/x --limit 3", "--limit has no meaning with --plots-only"),
        ("--costs-only --methods fastv --bench gqa", "--bench has no meaning with --costs-only"),
        ("--methods fastv --bench gqa --n-out 3", "--n-out has no meaning with a run"),
        ("--suite first-ligt", "did you mean 'first-light'?"),
        ("--plots-only nowhere", "there is no run directory 'nowhere'"),
        ("--costs-only --methods fastv --model nobody/nothing", "sizes of 'nobody/nothing'"),
        ("--model llava-hr-7b --methods fastv --bench gqa", "it runs with --costs-only"),
        ("--model tiny-lava --methods fastv --bench gqa", "did you mean 'tiny-llava'?"),
    ],
)
def test_command_lines(
    line: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused(line.split(), capsys)
    assert list(tmp_path.iterdir()) == []


LONG = "x" * 5000
RUN = ["--methods", "random", "--bench", "pope"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([*RUN, "--model", LONG], "--model: 'xx"),
        ([*RUN, "--data", LONG], "--data: 'xx"),
        ([*RUN, "--checkpoint", f"random={LONG}"], "--checkpoint: 'xx"),
        ([*RUN, "--checkpoint", "random=~no.body/x"], "--checkpoint: '~no.body/x' is no path"),
        ([*RUN, "--model", "~no.body/x"], "--model: '~no.body/x' is no path"),
        (["--costs-only", "--methods", "random", "--model", LONG], "--model: 'xx"),
        (["--suite", LONG], "--suite: 'xx"),
        (["--plots-only", LONG], "--plots-only: 'xx"),
        (["--diff", LONG, "b"], "--diff: 'xx"),
        (["--check", f"{LONG}.py"], "no such file"),
        (["--check", "~no.body/x.py"], "no such file"),
        (["--methods", "\udcff.py", "--bench", "gqa"], "'?.py' is not UTF-8 text"),
        (["--list", "a\0b"], "'a?b' is not UTF-8 text"),
        ([*RUN, "--bench", "gqa"], "--bench stands twice, with 'pope' and 'gqa': one comma list"),
        ([*RUN, "--limit", "9" * 5000], "--limit: expected a whole number"),
        ([*RUN, "--limit", "nan"], "--limit: expected a whole number"),
        (["--costs-only", "--methods", "pmod:beta=nan"], "beta=nan is not a number"),
        (["--costs-only", "--methods", "fastv:k=" + "9" * 5000], "is not a whole number"),
        (["--methods", "fastv:", "--bench", "gqa"], "'' is not key=value"),
        (["--methods", "fastv:foo=1", "--bench", "gqa"], "(it has tokens, ratio, kv, k, r"),
        (["--throughput", "--methods", "random", "--workload", "bench=nope"], "'nope'"),
        (["--throughput", "--methods", "random", "--bench", "nope"], "'nope'"),
        ([*RUN, "--with-throughput", "--workload", "bench=nope"], "'nope'"),
    ],
)
def test_what_no_file_system_or_library_would_take(
    argv: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(argv, capsys)
    assert said in line
    assert len(line) < 1100
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_the_program_is_one_line_with_its_place(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harness.command import listing

    def broken(kind: str) -> list[str]:
        raise KeyError(kind)

    monkeypatch.setattr(listing, "lines", broken)
    assert main(["--list", "suites"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'suites' (a fault of this program, test_bad_input.py, line" in line
    assert main(["--list", "suites", "--verbose"]) == 3
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("methods: pmod\nbenchs: gqa\n", "unknown key 'benchs': did you mean 'bench'?"),
        ("methods: pmod\nbench: gqa\nlimit: -3\n", "limit: expected a whole number"),
        ("methods: pmod\nbench: gqa\nlimit: [1, 2]\n", "limit takes one value, not a list"),
        ("methods: pmod\nbench: gqa\nquiet: perhaps\n", "quiet is true or false, not 'perhaps'"),
        ("methods: pmod\nbench: gqa\nmodel:\n", "model takes a plain value"),
        ("methods: {a: 1}\n", "methods takes a plain value"),
        ("checkpoint: pmod=x\n", "checkpoint is a list"),
        ("checkpoint: {pmod: [x]}\n", "checkpoint takes one value, not a list"),
        ("list: methods\n", "unknown key 'list'"),
        ("- pmod\n- gqa\n", "expected `key: value` lines"),
        ("methods: [pmod\n", "not valid YAML"),
        ("", "expected `key: value` lines"),
    ],
)
def test_suites(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tmp_path / "study.yaml"
    suite.write_text(content)
    line = refused(["--suite", str(suite)], capsys)
    assert said in line
    assert "study.yaml" in line


# --- trained methods ----------------------------------------------------------------------------


def test_a_trained_method_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "run", methods=("gamma",))
    assert str(caught.value) == (
        "gamma is a trained method and there are no weights of it for fake-model: "
        "pass --checkpoint gamma=PATH_OR_ID"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ({"fastv": "x"}, "there is no folder 'x'"),
        ({"pmod": "x"}, "it is not among --methods"),
    ],
)
def test_weights_for_nobody(tmp_path: Path, checkpoint: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(tmp_path / "run", checkpoint=checkpoint)


def _folder(path: Path, weights: bytes | None, meta: str = '{"method": "pmod"}') -> Path:
    path.mkdir()
    (path / "method.json").write_text(meta)
    if weights is not None:
        (path / "model.safetensors").write_bytes(weights)
    return path


def test_checkpoints_that_are_none(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save

    good = save({"router.0.weight": np.zeros((1, 8), np.float32)})
    folders = {
        "cut short or damaged": _folder(tmp_path / "cut", good[:-4]),
        "not a safetensors file": _folder(tmp_path / "text", b"just some text, no weights"),
        "no weights": _folder(tmp_path / "none", None),
        "was trained for 'gamma'": _folder(tmp_path / "other", good, '{"method": "gamma"}'),
        "there is no folder": tmp_path / "nowhere",
    }
    for said, folder in folders.items():
        with pytest.raises(UsageError, match=said) as caught:
            run(tmp_path / "run", methods=("pmod",), checkpoint={"pmod": str(folder)})
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_depth_stop_the_run_before_it_writes(tmp_path: Path) -> None:
    """The real check, on a real (tiny, random) model."""
    import torch

    import methods
    from harness.engine import model_info
    from harness.model.checkpoints import load_checkpoint, save_checkpoint
    from tests.tiny import tiny_llava

    pmod = methods.parse("pmod")
    deep, shallow = tiny_llava(layers=6), tiny_llava(layers=4)
    modules = pmod.build_modules(model_info(deep))
    assert isinstance(modules, torch.nn.Module)
    save_checkpoint(tmp_path / "weights", pmod, modules, model_info(deep))

    class Shallow(FakeSession):
        model = shallow
        check = Session.check  # type: ignore[assignment]

        def weights(self, path: Path, method: Any) -> Any:
            return load_checkpoint(path, shallow, method)

    class Loads(FakeRun):
        def load(self, show: Any) -> Any:
            return Shallow()

    with pytest.raises(UsageError, match=r"--checkpoint: .*6 layers, this one has 4"):
        run(
            tmp_path / "run",
            Loads(),
            methods=("pmod",),
            checkpoint={"pmod": str(tmp_path / "weights")},
        )
    assert not (tmp_path / "run").exists()


# --- data ---------------------------------------------------------------------------------------
