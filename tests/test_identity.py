"""What a result is of: every file that loading reads, and every module whose output it holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.command.cli import main
from harness.common.errors import UsageError
from harness.common.roots import ROOT
from harness.model.catalog import find_model, load_model
from harness.store.csvfile import read_rows
from tests.fakes import FakeRun, run
from tests.fixtures.bad_input import edit
from tests.fixtures.hub_models import write_llava, write_llava_next
from tests.tiers import some

import torch  # isort: skip  after the fixtures, which prepare torchvision
from safetensors.torch import load_file, save_file  # isort: skip

INDEX = "model.safetensors.index.json"


class RealFiles(FakeRun):
    """Made-up answers of a model whose files are real."""

    def source(self) -> Any:
        return find_model(self.settings.model)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the shipped model."""
    return Path(shutil.copytree(ROOT / "assets/tiny-llava", tmp_path / "model"))


def change_epsilon(folder: Path) -> None:
    text = json.loads((folder / "config.json").read_text())["text_config"]
    edit(folder / "config.json", text_config={**text, "rms_norm_eps": 0.5})


def ids(out: Path, name: str = "cells.csv") -> set[str]:
    return {row["cell_id"] for row in read_rows(out / name)}


# --- the model ----------------------------------------------------------------------------------
def test_an_edited_config_is_another_model(copy: Path, tmp_path: Path) -> None:
    how = {"methods": ("dense", "fastv"), "bench": ("gqa",), "model": str(copy)}
    assert run(tmp_path / "before", RealFiles(), **how) == 0
    change_epsilon(copy)
    with pytest.raises(UsageError, match=r"^--out: config.json of .*/model changed since"):
        run(tmp_path / "before", RealFiles(), **how)
    assert run(tmp_path / "after", RealFiles(), **how) == 0
    assert not ids(tmp_path / "before") & ids(tmp_path / "after")


LOAD = """
import sys
from pathlib import Path
folder, opened = sys.argv[1], set()
def watch(event, words):
    if event == "open" and isinstance(words[0], (str, Path)) and str(words[0]).startswith(folder):
        opened.add(str(Path(words[0]).relative_to(folder)))
sys.addaudithook(watch)
from harness.model.loading import load
from harness.model.catalog import find_model
source = find_model(folder)
opened.clear()
load(source, "cpu", "float32", "eager", None, 0)
print(*sorted(opened), sep="\\n")
"""


def with_templates(folder: Path) -> Path:
    """A repository that keeps its chat templates in files of their own."""
    write_llava_next(folder)
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.json").unlink()  # the older way to keep one
    (folder / "chat_template.jinja").write_text(template)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool.jinja").write_text("{{ messages }}")
    return folder


OPENED = {"config.json", "generation_config.json", "tokenizer_config.json", INDEX}
OPENED |= {"preprocessor_config.json", "additional_chat_templates/tool.jinja"}


@pytest.mark.slow  # a process that imports image processors
def test_everything_the_library_opens_is_hashed(tmp_path: Path) -> None:
    """Watched from below: whatever file the interpreter opens in the folder while loading it."""
    folder = with_templates(tmp_path / "next")
    command = [sys.executable, "-c", LOAD, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    opened, hashed = set(done.stdout.split()), find_model(str(folder)).file_hashes
    assert opened >= OPENED
    assert opened <= hashed.keys()


def test_every_file_that_is_hashed_changes_its_own_hash(tmp_path: Path) -> None:
    folder = with_templates(tmp_path / "next")
    hashed = find_model(str(folder)).file_hashes
    assert hashed.keys() >= OPENED
    for name in hashed:
        kept = (folder / name).read_bytes()
        (folder / name).write_bytes(kept + b" ")
        changed = {k for k, v in _hashes(folder).items() if v != hashed[k]}
        assert changed == {name}
        (folder / name).write_bytes(kept)


def _hashes(folder: Path) -> dict[str, str]:
    from harness.model.weights import setting_hashes, weight_hashes

    return {**weight_hashes(folder), **setting_hashes(folder)}


def test_shards_of_one_name_in_two_folders_are_two_files(tmp_path: Path) -> None:
    folder = write_llava(tmp_path / "llava")
    table = json.loads((folder / INDEX).read_text())["weight_map"]
    moved = {}
    for place, name in (("a", sorted(set(table.values()))[0]), ("b", max(table.values()))):
        (folder / place).mkdir()
        (folder / name).rename(folder / place / "model.safetensors")
        moved |= {k: f"{place}/model.safetensors" for k, v in table.items() if v == name}
    edit(folder / INDEX, weight_map=moved)
    before = find_model(str(folder)).file_hashes
    assert before.keys() >= {"a/model.safetensors", "b/model.safetensors"}
    for place in ("a", "b"):
        path = folder / place / "model.safetensors"
        save_file({k: v + 1 for k, v in load_file(path).items()}, path, {"format": "pt"})
        after = find_model(str(folder)).file_hashes
        assert {k for k in before if before[k] != after[k]} == {f"{place}/model.safetensors"}
        before = after


def test_the_weights_that_are_hashed_are_those_that_are_loaded(tmp_path: Path) -> None:
    """A folder with an index and a single file: the library takes the single one."""
    folder = write_llava(tmp_path / "llava")
    shards = [load_file(path) for path in sorted(folder.glob("*.safetensors"))]
    whole = {k: torch.zeros_like(v) for part in shards for k, v in part.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})
    loaded = load_model(str(folder), device="cpu")
    assert not any(value.any() for value in loaded.model.parameters())
    assert list(loaded.weight_hashes) == ["model.safetensors"]


# --- weights of methods -------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["method.json", "model.safetensors"])
def test_a_changed_checkpoint_is_refused(tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(ROOT / "assets/tiny-llava-dense", tmp_path / "dense"))
    how = {"methods": ("dense",), "bench": ("gqa",), "checkpoint": {"dense": str(folder)}}
    assert run(tmp_path / "run", **how) == 0
    assert run(tmp_path / "run", **how) == 0
    if name == "method.json":
        edit(folder / name, base=None)
    else:
        tensors = load_file(folder / name)
        save_file({k: v + 1 for k, v in tensors.items()}, folder / name)
    with pytest.raises(UsageError, match=f"{name} of the weights of dense changed"):
        run(tmp_path / "run", **how)
    assert run(tmp_path / "other", **how) == 0
    assert not ids(tmp_path / "run") & ids(tmp_path / "other")


# --- other kinds of runs ------------------------------------------------------------------------
TIMED = "--throughput --repeats 6 --warmup 1 --min-seconds 0 --workload n_text=9:n_out=2 --quiet"
KINDS = {
    "random": (f"{TIMED} --random-weights --device cpu", "cells.csv", "the config of"),
    "times": (f"{TIMED} --device cpu", "cells.csv", "config.json of"),
    "costs": ("--costs-only", "cost.csv", "the config of"),
}


@pytest.mark.parametrize("kind", some(KINDS, "times"))
def test_other_runs_know_the_config_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    words, table, said = KINDS[kind]
    folder = write_llava(tmp_path / "small")
    command = [*words.split(), "--model", str(folder), "--methods", "dense", "--out"]
    assert main([*command, str(tmp_path / "before")]) == 0
    assert main([*command, str(tmp_path / "before")]) == 0
    change_epsilon(folder)
    capsys.readouterr()
    assert main([*command, str(tmp_path / "before")]) == 2
    assert f"--out: {said}" in (line := capsys.readouterr().err) and "changed since" in line
    assert main([*command, str(tmp_path / "after")]) == 0
    assert not ids(tmp_path / "before", table) & ids(tmp_path / "after", table)


# --- the code -----------------------------------------------------------------------------------
# Edits the files of its arguments, one after the other, and says the digest before and after each.
EDITED = """
import sys
from pathlib import Path

def say():
    {code}

say()
for names in sys.argv[1:]:
    for path in map(Path, names.split()):
        path.write_bytes(path.read_bytes() + b"# changed\\n")
    say()
"""
ENGINE = "from harness.store.cells import engine_digest as d; d.cache_clear(); print(d())"
READOUT = "from harness.readouts.keys import readout_keys as k; k.cache_clear(); print(k()[{!r}])"
COST, COUNTERS, EVIDENCE = map(READOUT.format, ("cost", "counters", "evidence"))
METHOD = "import methods; print(methods.load('cdpruner').source_hash())"


@pytest.mark.parametrize(
    ("code", "parts", "others"),
    [
        (ENGINE, ["harness/engine/run.py", "harness/bench/generation.py",
                  "harness/model/loading.py", "harness/store/packing.py", "methods/base.py",
                  "harness/store/pictures.py", "harness/bench/scores.py"],
         ["reports/geometry.py", "methods/fastv.py", "methods/greedy.py", "methods/__init__.py",
          "harness/command/cli.py", "harness/options/flags.py", "harness/cost/ledger.py",
          "harness/readouts/evidence.py", "harness/statistics/stats.py"]),
        (COST, ["harness/cost/ledger.py", "harness/cost/readouts.py",
                "harness/store/columns/costs.py"],
         ["reports/geometry.py", "harness/readouts/evidence.py", "harness/engine/run.py",
          "methods/greedy.py", "harness/cost/referees.py", "harness/statistics/stats.py"]),
        (COUNTERS, ["harness/cost/referees.py", "harness/cost/modules.py"],
         ["reports/geometry.py", "harness/readouts/evidence.py", "harness/engine/run.py"]),
        (EVIDENCE, ["harness/readouts/evidence.py", "reports/geometry.py"],
         ["harness/cost/ledger.py", "harness/engine/run.py", "methods/greedy.py"]),
        (METHOD, ["methods/cdpruner.py", "methods/greedy.py", "methods/params.py"],
         ["methods/fastv.py", "methods/resampler.py", "reports/geometry.py"]),
    ],
)  # fmt: skip
def test_a_change_of_any_part_changes_the_digest(
    tmp_path: Path, code: str, parts: list[str], others: list[str]
) -> None:
    for room in ("harness", "methods", "reports"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", EDITED.format(code=code), " ".join(others), *parts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, other, *edited = done.stdout.split()
    assert first == other
    assert len(edited) == len(parts) and len({first, *edited}) == 1 + len(parts)
    for name in (*others, *parts):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes() + b"# changed\n"


def test_what_shapes_answers_imports_no_readout_option_or_job() -> None:
    from harness.store.cells import ANSWERS, REGISTRY
    from methods.sources import with_imports

    found = with_imports([ROOT / name for name in ANSWERS], lambda path: path != REGISTRY)
    rooms = {path.relative_to(ROOT).parts[:2] for path in found if path.parent != ROOT / "methods"}
    apart = ("command", "jobs", "layers", "options", "readouts", "statistics", "study", "timing")
    assert not rooms & {("harness", room) for room in apart}
    # what puts the mini data's pictures into its rows, and nothing else of what draws them
    beside = {"/".join(room) for room in rooms if room[0] != "harness"}
    assert beside <= {"minidata/__init__.py", "minidata/rows.py"}


def test_imports_for_type_checkers_are_not_followed(tmp_path: Path) -> None:
    from methods.sources import with_imports

    text = "if TYPE_CHECKING:\n    import methods.greedy\nelse:\n    import methods.params\n"
    (tmp_path / "mine.py").write_text(text)
    found = with_imports([tmp_path / "mine.py"])
    assert ROOT / "methods/params.py" in found and ROOT / "methods/greedy.py" not in found


def test_a_method_file_is_made_of_its_neighbours_too(tmp_path: Path) -> None:
    from methods.sources import with_imports

    (tmp_path / "mine.py").write_text("def f():\n    from helper import x\nimport json\n")
    (tmp_path / "helper.py").write_text("import methods.greedy\n")
    found = with_imports([tmp_path / "mine.py"])
    assert set(found) >= {tmp_path / "helper.py", ROOT / "methods/greedy.py"}
    assert all(path.is_relative_to(tmp_path) or path.is_relative_to(ROOT) for path in found)


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A method file whose helpers are a package beside it, which uses another folder's module."""
    (tmp_path / "mine/mypkg/deep").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    files = {
        "mine/method.py": "from mypkg.sub import sign\nfrom mypkg.deep import low\n",
        "mine/mypkg/__init__.py": "",
        "mine/mypkg/sub.py": "from mypkg.util import SIGN\nfrom . import util2\nimport common\n",
        "mine/mypkg/util.py": "SIGN = 1\n",
        "mine/mypkg/util2.py": "",
        "mine/mypkg/util3.py": "",
        "mine/mypkg/deep/__init__.py": "from ..util3 import x\nfrom .low import y\n",
        "mine/mypkg/deep/low.py": "",
        "shared/common.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "shared")
    return tmp_path


def test_a_method_file_is_made_of_its_package_of_helpers(packaged: Path) -> None:
    from methods.sources import with_imports

    found = with_imports([packaged / "mine/method.py"])
    assert found == sorted(packaged.rglob("*.py"))
