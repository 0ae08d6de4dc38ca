"""What a run needs of this machine, looked up without asking the network. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.bench import hubdata
from harness.bench.sources import BUILDERS
from harness.common.errors import UsageError, one_line
from harness.common.roots import DATA
from harness.model.catalog import HUB_ID, MODELS, NEEDED
from harness.model.convert.released import Weights
from harness.model.convert.use import is_released
from harness.model.weights import check_weights


def is_mini(model: str) -> bool:
    """Whether a model is one of those that were trained for the mini benchmarks."""
    return model in MODELS and MODELS[model].mini


def lacking_model(model: str) -> str:
    """What is missing of a model's weights here, and how to get it; empty where they are all."""
    if is_mini(model):
        here = (DATA / MODELS[model].source).is_dir()
        return "" if here else f"the weights of {model}: run make checkpoints"
    return _lacking(model, f"the weights of {model}", "--model FOLDER")


def lacking_weights(method: str, wanted: str) -> str:
    """The same of the weights of a trained method."""
    return _lacking(wanted, f"the weights of {method} ({wanted})", f"--checkpoint {method}=FOLDER")


def _lacking(name: str, what: str, flag: str) -> str:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ""
    if not HUB_ID.fullmatch(name):
        return f"{what}: there is no folder of that name; give {flag}"
    if _snapshot(name):
        return ""
    return f"{what}: hf download {name}, or give {flag}"


def _snapshot(repo: str) -> bool:
    """Whether all of a repository's weights lie in the hub's cache."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=NEEDED))
        if is_released(folder):
            Weights(folder)
        else:
            check_weights(folder)
    except (OSError, ValueError, UsageError):
        return False
    return True


def lacking_data(bench: Any) -> Iterator[str]:
    """What is missing of a bench's data here, and how to get it.

    ``bench``: a `harness.bench.benches.Bench`.
    """
    if bench.mini:
        try:
            bench.require()
        except UsageError as error:
            yield one_line(error)
        return
    for source in bench.sources:
        if not source.hub_id:
            try:
                source.require(bench.configs, bench.name)
            except UsageError as error:
                yield one_line(error)
        elif not _dataset(source, bench.configs):
            get = f"hf download {source.hub_id} --repo-type dataset"
            if source.root is not None:
                get += f" --local-dir {source.root / source.hub_id}"
            yield f"the data of {bench.name} ({source.hub_id}): {get}"


def _dataset(source: Any, configs: tuple[str, ...]) -> bool:
    pinned = source.root if source.dataset not in BUILDERS else None
    try:
        if hubdata.local_copy(source.hub_id, pinned) is not None:
            return True
    except UsageError:  # --data FOLDER has no copy
        return False
    names = (source.config, *configs)
    return all(hubdata.prepared(source.hub_id, name) is not None for name in names)
