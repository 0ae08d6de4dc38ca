"""The command line: flags, suites, listings, and that light commands stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.command.cli import main, parse
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.jobs.runner import resume_command
from harness.options.flags import build_parser
from harness.options.settings import SUITES, Settings
from tests.fakes import run

LIGHT = """
import sys
sys.argv = ["run_suite.py", *{argv!r}]
try:
    code = __import__("runpy").run_path("run_suite.py", run_name="__main__")
except SystemExit as end:
    code = end.code
heavy = [name for name in ("torch", "transformers", "lmms_eval") if name in sys.modules]
print("heavy:", heavy, file=sys.stderr)
sys.exit(code)
"""


def light(*argv: str) -> subprocess.CompletedProcess[str]:
    """A command in its own process, which says what heavy modules it has loaded."""
    return subprocess.run(
        [sys.executable, "-c", LIGHT.format(argv=list(argv))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("argv", "shows"),
    [
        (["--help"], "exit codes"),
        (["--list", "methods"], "pmod"),
        (["--list", "benches"], "textvqa"),
        (["--list", "models"], "tiny-llava"),
        (["--list", "fastv"], "rounding"),
        (["--list", "fastv"], "layers that see all image tokens"),
        (["--list", "fastervlm"], "needs a tower with a class token"),
        (["--list", "pmod"], "needs weights of its own: --checkpoint pmod=PATH_OR_ID"),
        (["--list", "suites"], "first-light"),
    ],
)
def test_help_and_lists_load_nothing_heavy(argv: list[str], shows: str) -> None:
    done = light(*argv)
    assert done.returncode == 0, done.stderr
    assert shows in done.stdout
    assert "heavy: []" in done.stderr


def test_plots_only_loads_nothing_heavy(tmp_path: Path) -> None:
    assert run(tmp_path / "run", methods=("fastv",), bench=("gqa",)) == 0
    done = light("--plots-only", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "run/report.html")
    assert "exact match" in (tmp_path / "run/report.html").read_text()
    assert "heavy: []" in done.stderr


def test_the_reference_page_has_every_flag_and_every_file() -> None:
    import importlib
    import pkgutil
    import runpy

    from harness.store import columns
    from harness.store.columns.table import Table

    found = runpy.run_path(str(ROOT / "docs/tables.py"))["tables"]()
    page = (ROOT / "docs/reference.md").read_text()
    assert all(marker in page for marker in found)
    options, files = found.values()
    for action in build_parser()._actions[1:]:
        assert f"| `{action.option_strings[-1]}" in options
    every = [
        table
        for module in pkgutil.iter_modules(columns.__path__)
        for table in vars(importlib.import_module(f"{columns.__name__}.{module.name}")).values()
        if isinstance(table, Table) and table.file  # one holds the columns that others begin with
    ]
    assert len(every) > 25
    for table in every:
        section = files.partition(f"### `{table.file}`\n")[2].partition("\n### ")[0]
        for column in table.about_columns:
            assert f"| `{column.name}`" in section, f"{table.file}: {column.name}"


def test_the_methods_page_has_every_method_and_every_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import runpy

    import methods
    from methods.describe import parameters

    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    found = runpy.run_path(str(ROOT / "docs/methodpages.py"))["sections"]()
    page = (ROOT / "docs/methods.md").read_text()
    assert all(marker in page for marker in found)
    overview, each = found.values()
    assert overview.count("#method-") == len(methods.names())
    for name in methods.names():
        section = each.partition(f"### {name}\n")[2].partition("(method-")[0]
        for one in parameters(methods.load(name)):
            assert f"| `{one.name}` |" in section, f"{name}: {one.name}"


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("dense", "nowhere"),
        ("fastv", "in the decoder's layers"),
        ("sparsevlm", "in the decoder's layers"),
        ("gamma", "in the decoder's layers, on generated tokens"),
        ("prumerge", "before the language model"),
        ("random", "before the language model"),
        ("vscan", "before the language model, in the decoder's layers"),
        ("illava", "in the vision tower, in the decoder's layers"),
    ],
)
def test_listing_a_method_says_where_it_acts(
    name: str, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--list", name]) == 0
    assert f"acts {place} (by default)" in capsys.readouterr().out.splitlines()


def test_lists_have_one_line_per_entry(capsys: pytest.CaptureFixture[str]) -> None:
    import methods
    from harness.bench.catalog import BENCHES

    assert main(["--list", "methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == methods.names()
    assert main(["--list", "benches"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(BENCHES)


def test_every_flag_of_the_contract_is_known_and_kept() -> None:
    line = (
        "--methods fastv:k=3:r=0.75,pmod --bench gqa,textvqa --model some/model "
        "--checkpoint pmod=a --checkpoint gamma=b --data hub --limit 7 "
        "--batch-size auto --device cuda:1 --dtype bf16 --attn flash --seed 3 --out here --quiet"
    )
    _, settings = parse(line.split())
    assert settings == Settings(
        methods=("fastv:k=3:r=0.75", "pmod"),
        bench=("gqa", "textvqa"),
        model="some/model",
        checkpoint={"pmod": "a", "gamma": "b"},
        data="hub",
        limit=7,
        batch_size="auto",
        device="cuda:1",
        dtype="bfloat16",
        attn="flash_attention_2",
        seed=3,
        out="here",
        quiet=True,
    )


def test_defaults() -> None:
    _, settings = parse(["--methods", "pmod", "--bench", "gqa"])
    assert settings == Settings(methods=("pmod",), bench=("gqa",))
    assert (settings.model, settings.data, settings.batch_size) == ("tiny-llava", "auto", None)


def test_data_may_be_a_folder(tmp_path: Path) -> None:
    _, settings = parse(["--methods", "pmod", "--bench", "gqa", "--data", str(tmp_path)])
    assert settings.data == str(tmp_path)


def test_a_suite_is_the_same_settings_and_flags_override_it(tmp_path: Path) -> None:
    suite = tmp_path / "study.yaml"
    suite.write_text(
        "description: a study\nmethods: [pmod, 'fastv:k=3']\nbench: gqa,pope\nlimit: 50\n"
        "batch-size: 4\nseed: 2\ndtype: fp16\ncheckpoint: {pmod: weights}\nverbose: true\n"
    )
    _, settings = parse(["--suite", str(suite), "--limit", "9", "--checkpoint", "gamma=other"])
    assert settings == Settings(
        methods=("pmod", "fastv:k=3"),
        bench=("gqa", "pope"),
        limit=9,
        batch_size=4,
        seed=2,
        dtype="float16",
        checkpoint={"pmod": "weights", "gamma": "other"},
        verbose=True,
    )


def test_shipped_suites_parse_and_describe_themselves() -> None:
    from harness.options.suites import describe, suite_names

    assert suite_names() == sorted(path.stem for path in SUITES.glob("*.yaml"))
    for name in suite_names():
        _, settings = parse(["--suite", name])
        assert settings.methods or settings.published or settings.study
        assert describe(name)


def test_an_underscore_in_a_key_is_a_dash(tmp_path: Path) -> None:
    suite = tmp_path / "study.yaml"
    suite.write_text("methods: pmod\nbench: gqa\nbatch_size: 4\n")
    assert parse(["--suite", str(suite)])[1].batch_size == 4


def test_resume_command_repeats_the_arguments_and_names_the_folder() -> None:
    settings = Settings(out=None)
    again = resume_command(["--methods", "fastv:k=3"], settings, Path("runs/a b"))
    assert again == "python run_suite.py --methods fastv:k=3 --out 'runs/a b'"
    settings = Settings(out="mine")
    assert resume_command(["--out", "mine"], settings, Path("mine")).count("--out") == 1


def test_check_turns_its_verdict_into_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    asked: list[str] = []

    def run_check(name: str, say: object) -> bool:
        asked.append(name)
        return name == "all"

    monkeypatch.setitem(sys.modules, "harness.check", types.SimpleNamespace(run_check=run_check))
    assert main(["--check", "all"]) == 0
    assert main(["--check", "pmod"]) == 3
    assert asked == ["all", "pmod"]


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} run_suite.py --list benches | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("gqa")
    assert done.stderr == ""


def test_settings_that_cannot_change_a_number_are_not_recorded() -> None:
    one = Settings(methods=("pmod",), out="a", quiet=True).recorded()
    two = Settings(methods=("pmod",), out="b", verbose=True).recorded()
    assert one == two == Settings(methods=("pmod",), margin=2.5).recorded()  # verdicts only
    with pytest.raises(UsageError, match="exclude each other"):
        parse(["--methods", "pmod", "--bench", "gqa", "--quiet", "--verbose"])
