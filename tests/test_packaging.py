"""Packaging: what is declared is pinned, shipped and reachable from make and from CI."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import methods
from harness.store.cells import engine_digest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("harness", "methods", "modsuite", "reports", "minidata")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Module name -> distribution name, where they differ.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "lmms_eval": "lmms-eval"} | {
    "pynvml": "nvidia-ml-py"
}
# Their wheels are dependencies of declared ones, at versions these ask for.
NOT_SOURCES = (
    ".git",
    ".venv*",
    "build",
    "runs",
    "results",
    "docs",
    "tests",
    "*_cache",
    "*.egg-info",
)
INDIRECT = {"huggingface_hub", "markupsafe", "packaging", "tqdm", "loguru", "tenacity"}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def declared(extra: str = "") -> list[Requirement]:
    table = PROJECT["project"]
    lines = table["optional-dependencies"][extra] if extra else table["dependencies"]
    return [Requirement(line) for line in lines]


def sources() -> list[Path]:
    return [ROOT / "run_suite.py"] + [p for n in PACKAGES for p in sorted((ROOT / n).rglob("*.py"))]


@pytest.mark.parametrize("extra", ["", "cluster", "dev", "train"])
def test_every_dependency_is_pinned_inside_its_range(extra: str) -> None:
    pins = constraints()
    for one in declared(extra):
        assert one.specifier, f"{one.name} has no lower bound"
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one.name


def test_constraints_are_plain_public_versions() -> None:
    pins = constraints()
    assert (pins["torch"], pins["torchvision"]) == ("2.13.0", "0.28.0")  # they belong together
    assert [name for name, version in pins.items() if not re.fullmatch(r"[\w.!]+", version)] == []


def test_every_import_is_declared() -> None:
    extras = [one for extra in ("cluster", "nvml", "train") for one in declared(extra)]
    names = {canonicalize_name(one.name) for one in [*declared(), *extras]}
    found = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    found -= {*sys.stdlib_module_names, *PACKAGES, *INDIRECT, "run_suite"}
    assert "torch" in found
    asked = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in found}
    assert asked - names == set()


def test_every_data_file_of_a_package_is_shipped() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    files = [p for n in PACKAGES for p in (ROOT / n).rglob("*") if p.is_file()]
    data = [p for p in files if p.suffix not in (".py", ".pyc") and "__pycache__" not in p.parts]
    assert any(p.suffix == ".j2" for p in data)
    missing = [p for p in data if not any(fnmatch.fnmatch(p.name, one) for one in patterns)]
    assert missing == []


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {p.parent for p in sources() if p.parent != ROOT}
    assert [f for f in folders if not (f / "__init__.py").exists()] == []


def test_makefile_is_portable_and_runs_what_the_contract_says() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert not re.search(r"\$\((shell|wildcard|patsubst|foreach|if) |^(ifeq|ifdef|define)|[:+]=",
                         text, re.MULTILINE)  # fmt: skip
    assert "\n    " not in text.replace("\\\n", "")
    command = ["make", "-n", "demo", "VENV=elsewhere"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "run_suite.py --methods gamma,pmod,fastv --bench gqa,textvqa --out runs/demo" in shown
    assert "-c constraints.txt" in shown
    assert "runs/demo/report.html" in shown


def test_ci_stops_at_the_first_failure(tmp_path: Path) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    calls = tmp_path / "calls"
    fake = tmp_path / "make"
    fake.write_text(f'#!/bin/sh\necho "$1" >> "{calls}"\n[ "$1" != "$FAILS" ]\n', encoding="utf-8")
    fake.chmod(0o755)
    for tool in ("pdflatex", "apt-get"):  # nothing is installed where it runs
        (tmp_path / tool).write_text("#!/bin/sh\n", encoding="utf-8")
        (tmp_path / tool).chmod(0o755)
    for fails, expected, code in (("check", ["check"], 1), ("none", ["check", "test"], 0)):
        calls.unlink(missing_ok=True)
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "FAILS": fails}
        done = subprocess.run(["bash", str(script)], env=env, cwd=tmp_path, check=False)
        assert done.returncode == code
        assert calls.read_text(encoding="utf-8").split() == expected


@pytest.mark.parametrize("fails", ["nothing", "update"])
def test_ci_installs_latex_where_it_can_and_goes_on_where_not(fails: str, tmp_path: Path) -> None:
    calls, tools = tmp_path / "calls", tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "dirname", "date", "sed", "basename"):
        (tools / tool).symlink_to(_path(tool))
    said = "After this operation, 151 MB of additional disk space will be used."
    note = f'echo "$(basename "$0") $1" >> "{calls}"'
    for tool, lines in {
        "id": "echo 0",
        "apt-get": f'{note}\necho "{said}"\n[ "$1" != {fails} ]',
        "make": note,
    }.items():
        (tools / tool).write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        (tools / tool).chmod(0o755)
    command = [_path("bash"), str(ROOT / ".ci" / "run")]
    done = subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = ["apt-get update", *(["apt-get install"] if fails == "nothing" else [])]
    assert calls.read_text().splitlines() == [*asked, "make check", "make test"]
    assert ("151 MB" in done.stdout) is (fails == "nothing")
    assert ("are skipped" in done.stdout) is (fails == "update")


def _path(tool: str) -> str:
    found = shutil.which(tool)
    assert found
    return found


def test_runs_and_environments_are_ignored() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/runs/", ".venv*/", "__pycache__/"} <= set(ignored)


@pytest.mark.slow
def test_a_wheel_holds_what_the_main_job_needs(tmp_path: Path) -> None:
    """Built from the sdist, as an installer would; run from another folder, beside nothing."""
    tree = shutil.copytree(ROOT, tmp_path / "tree", ignore=shutil.ignore_patterns(*NOT_SOURCES))
    built, site = tmp_path / "built", tmp_path / "site"
    source = _build(tree, "build_sdist", built)
    shutil.unpack_archive(source, tmp_path / "sdist", filter="data")
    (unpacked,) = (tmp_path / "sdist").iterdir()
    wheel = _build(unpacked, "build_wheel", built)
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        file.extractall(site)
    for folder in ("assets", "recipes", "suites"):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"]
        assert {f"modsuite/data/{p.relative_to(ROOT).as_posix()}" for p in files} <= names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert wheel.stat().st_size < 60e6
    code = (
        "import sys; from harness.command.cli import main; import harness; "
        f"assert harness.__file__.startswith({str(site)!r}); "
        "import methods; open('source', 'w').write(methods.parse('gamma').source_hash()); "
        "sys.exit(main('--methods gamma --bench gqa --limit 2 --quiet --out mine'.split()))"
    )
    away = tmp_path / "away"
    away.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=away, check=True,
                   env={**os.environ, "PYTHONPATH": str(site)})  # fmt: skip
    about = json.loads((away / "mine" / "run.json").read_text(encoding="utf-8"))
    assert about["checkpoints"]["gamma"]["path"] == "assets/tiny-llava-gamma"
    # The same cells as in a checkout: what else is installed is no part of their keys.
    assert about["engine_hash"] == engine_digest()
    assert (away / "source").read_text() == methods.parse("gamma").source_hash()


def _build(tree: Path, what: str, into: Path) -> Path:
    into.mkdir(exist_ok=True)
    code = f"from setuptools import build_meta as b; print(b.{what}({str(into)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, check=True,
                          capture_output=True, text=True)  # fmt: skip
    return into / done.stdout.split()[-1]


def test_rooms_below_the_jobs_do_not_know_them() -> None:
    """A job is made of rooms, never the other way round."""
    above = ("jobs", "command")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "harness").rglob("*.py"))
        if path.relative_to(ROOT / "harness").parts[0] not in above
        and re.search(r"(from|import) harness\.(jobs|command)\b", path.read_text("utf-8"))
    ]
    assert found == []
