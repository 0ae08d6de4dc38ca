"""Models and datasets the loop's tests share, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.bench.benches import Bench, resolve_bench
from harness.model.catalog import load_model
from harness.model.session import Session
from tests.fixtures.hub_data import write_gqa, write_textvqa
from tests.fixtures.hub_models import write_llava, write_llava_next
from tests.loop.cells import DOCUMENTS


@pytest.fixture(scope="session", autouse=True)
def dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the datasets library prepares goes to a temporary folder."""
    import datasets
    from lmms_eval.api import task

    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMMS_EVAL_DATASETS_CACHE", str(folder))
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        task._resolve_hf_datasets_cache_dir.cache_clear()
        yield
    task._resolve_hf_datasets_cache_dir.cache_clear()


@pytest.fixture(scope="package", autouse=True)
def one_process() -> Iterator[None]:
    """GQA's documents are mapped here; lmms-eval starts up to eight processes, one for each."""
    import datasets

    mapped = datasets.Dataset.map

    def alone(self: Any, *args: Any, **more: Any) -> Any:
        return mapped(self, *args, **(more | {"num_proc": None}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.Dataset, "map", alone)
        yield


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return load_model(str(write_llava(tmp_path_factory.mktemp("llava"))), device="cpu")


@pytest.fixture(scope="session")
def llava_next(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return load_model(str(write_llava_next(tmp_path_factory.mktemp("next"))), device="cpu")


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copies")
    write_gqa(folder, ["red"] * DOCUMENTS)
    write_textvqa(folder, [["red"] * 10] * DOCUMENTS)
    return folder


@pytest.fixture(scope="session")
def gqa(root: Path) -> Bench:
    return resolve_bench("gqa", str(root))


@pytest.fixture(scope="session")
def textvqa(root: Path) -> Bench:
    return resolve_bench("textvqa", str(root))
