"""Test tiers and a closed network.

Unmarked tests run everywhere: CPU, no network, seconds. ``slow`` tests run with ``--slow``,
``network`` tests with ``--network``, ``gpu`` tests wherever a CUDA device is.
"""

from __future__ import annotations

import copy
import functools
import gc
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.common.torchvision_ops import declare_missing_ops

# Before any hub library is imported: it reads these once.
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Tests start hundreds of processes, and each would compile what it imports again where a shell says
# that no bytecode is to be kept.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Test modules import transformers in any order; beside a CPU torch that needs these first.
declare_missing_ops()

# A shell starts what runs behind it with interrupts ignored, and programs pass that on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

LOOPBACK = ("127.", "::1", "localhost")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tiers")
    group.addoption("--slow", action="store_true", help="also run tests marked slow")
    group.addoption("--network", action="store_true", help="also run tests marked network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for tier in ("slow", "network"):
            if item.get_closest_marker(tier) and not config.getoption(f"--{tier}"):
                item.add_marker(pytest.mark.skip(reason=f"needs --{tier}"))
        if item.get_closest_marker("gpu") and not _cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def _patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short step may last on a loaded machine: its line would stand beside the one expected."""
    if request.node.path.name != "test_progress.py":
        monkeypatch.setattr("harness.common.progress.PATIENCE", 3600.0)


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _empty(sheet: Any, folder: Path, title: str, caption: str, alts: Any, table: Any) -> Any:
    """A drawn sheet without a drawing: its table, and a blank point."""
    from PIL import Image

    from harness.store.csvfile import csv_text
    from reports.sheet import Drawn

    rows = csv_text(table)
    (folder / f"{sheet.name}.csv").write_text(rows, encoding="utf-8")
    (folder / f"{sheet.name}.svg").write_bytes(b"")
    (folder / f"{sheet.name}.pdf").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(folder / f"{sheet.name}.png")
    return Drawn(sheet.name, title, caption, "", rows, wide=sheet.columns == 1)


PAINT: list[Any] = []  # how a sheet is really saved


def pytest_sessionstart(session: pytest.Session) -> None:
    """Figures of a report are their tables, and no pictures, unless a module is ``painted``.

    Painting takes two thirds of a report's time, and most tests read words and tables.
    """
    from reports.sheet import Sheet

    PAINT.append(Sheet.save)
    Sheet.save = _empty  # type: ignore[method-assign]
    _ask_once()


def _ask_once() -> None:
    """What is the same for every run of a session is found out for one of them.

    The commit of this tree, which a run asks git for; the code of a report's templates; the mini
    data's rows with their pictures; what a recipe's file says (a study reads one for every arm and
    seed); the types of fields; the certificates of clients that meet a closed network. And files
    need not outlast a power cut, for which each of them would wait on some disks.
    """
    import jinja2

    from harness.common import typed
    from harness.minimodel import recipe
    from harness.store import runinfo
    from methods import params
    from minidata import rows
    from reports import build

    codes: dict[Any, Any] = {}
    tables: dict[str, Any] = {}
    join = rows.joined

    class Environment(jinja2.Environment):
        def compile(self, source: Any, name: Any = None, *more: Any, **words: Any) -> Any:
            key = (source, name, self.autoescape, *more, *words.items())
            if key not in codes:
                codes[key] = super().compile(source, name, *more, **words)
            return codes[key]

    def joined(dataset: Any) -> Any:
        if dataset._fingerprint not in tables:  # a hash of what the dataset is made of
            tables[dataset._fingerprint] = join(dataset)
        return tables[dataset._fingerprint]

    @functools.cache
    def text(path: Path, shown: str, changed: int, size: int) -> dict[str, Any]:
        return read(path, shown)

    def read_mapping(path: Path, shown: str = "") -> dict[str, Any]:
        if not path.is_file():
            return read(path, shown)
        found = path.stat()
        return copy.deepcopy(text(path, shown, found.st_mtime_ns, found.st_size))

    read, recipe.read_mapping = recipe.read_mapping, read_mapping
    typed.TypeAdapter = functools.cache(typed.TypeAdapter)  # type: ignore[misc]
    typed.get_type_hints = functools.cache(typed.get_type_hints)
    params.field_types = functools.cache(params.field_types)
    build.Environment = Environment  # type: ignore[misc]
    rows.joined = joined
    runinfo.git_commit = functools.cache(runinfo.git_commit)
    ssl.create_default_context = functools.cache(ssl.create_default_context)
    os.fsync = lambda descriptor: None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """lmms-eval starts git four times a bench; most tests do without lmms-eval."""
    utils = sys.modules.get("lmms_eval.utils")
    if utils is not None and not hasattr(utils._git_output, "cache_info"):
        utils._git_output = functools.cache(utils._git_output)  # type: ignore[attr-defined]


def _keep() -> None:
    """What is there now is no garbage: looking it through again and again takes a tenth."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish(session: pytest.Session) -> None:
    _keep()
    gc.set_threshold(50_000, 20, 20)


DONE: set[Path] = set()  # the files whose tests have run


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """As after the collection, now and then: a run collects garbage after every failed cell.

    Libraries that tests import make that last half a second each time.
    """
    if nextitem is not None and nextitem.path != item.path:
        DONE.add(item.path)
        if len(DONE) % 8 == 0:
            _keep()


def _painted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reports.sheet.Sheet.save", PAINT[0])
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test end without a report: drawing one takes longer than a small run."""
    from tests.fakes import without_report

    without_report(monkeypatch)


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test have no counters of FLOPs: they take a second to examine a model."""
    from tests.fakes import without_counters

    without_counters(monkeypatch)


@pytest.fixture
def paint(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Called with names of sheets: these have their pictures, unlike the others."""

    def only(*names: str) -> None:
        def save(sheet: Any, *parts: Any, **more: Any) -> Any:
            return (PAINT[0] if sheet.name in names else _empty)(sheet, *parts, **more)

        monkeypatch.setattr("reports.sheet.Sheet.save", save)

    return only


@pytest.fixture
def painted() -> Iterator[None]:
    """Reports of this test have their pictures."""
    yield from _painted()


@pytest.fixture(scope="module")
def painted_module() -> Iterator[None]:
    """Reports of this module's tests have theirs, those of its fixtures as well."""
    yield from _painted()


@pytest.fixture(autouse=True)
def closed_network(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is not marked ``network`` fails when it connects to anything but this machine."""
    if request.node.get_closest_marker("network"):
        yield
        return
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host and not str(host).startswith(LOOPBACK):
            raise AssertionError(f"a test without the network marker connects to {host}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield
