"""The real datasets: from a folder of local copies, from the caches, or from the hub.

lmms-eval loads its datasets by hub id. A local copy of a dataset repository, exactly as
``hf download ORG/NAME --repo-type dataset`` lays it out, takes the place of the hub: in a folder
given by the user as ``FOLDER/ORG/NAME``, else in the hub cache. Torch-free; the ``datasets``
library is imported only when a real dataset is asked for. A dataset that moved to another owner is
found under either id (:mod:`harness.bench.hubids`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from harness.bench.hubids import ids_of
from harness.common.errors import UsageError

HUB_ID = re.compile(r"[\w.-]+/[\w.+-]+")
DATA_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json", ".csv", ".zip", ".tar")
CONTAINERS = (".parquet", ".arrow", ".zip", ".tar")
END = 1 << 16  # bytes read at either end of a container to know it again
TIMEOUT_S = 10.0  # for the one question to the hub that tells whether it can be reached


def is_folder(dataset: str) -> bool:
    """Whether the datasets library takes this name for a place on this machine."""
    return bool(dataset) and os.path.exists(dataset)


def found_id(dataset: str, config: str, root: Path | None) -> str:
    """The id under which a dataset is in the caches; the one that was asked for where none is."""
    if root is None and HUB_ID.fullmatch(dataset):
        for one in ids_of(dataset):
            if _hub_cache(one) is not None or prepared(one, config) is not None:
                return one
    return dataset


def local_copy(dataset: str, root: Path | None) -> Path | None:
    """The folder of a local copy of a dataset repository, or None.

    In the hub cache under this very id; in ``root`` under an older or newer one as well.

    Raises UsageError when ``root`` was given and holds no copy: a silent fall-back to the network
    would not be the data that was asked for.
    """
    if root is not None:
        first, *others = ids_of(dataset)
        for name in (first, dataset.rpartition("/")[2], *others):
            if (folder := root / name).is_dir():
                return folder
        raise UsageError(
            f"--data: {root} has no folder {dataset}; fetch it with "
            f"'hf download {dataset} --repo-type dataset --local-dir {root / dataset}'"
        )
    return _hub_cache(dataset)


@cache
def _hub_cache(dataset: str) -> Path | None:
    """A downloaded snapshot with data in it; a card alone is not the dataset."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(dataset, repo_type="dataset", local_files_only=True))
    except (OSError, ValueError):
        return None
    data = (p for p in folder.rglob("*") if p.suffix in DATA_SUFFIXES and p.parent != folder)
    return folder if next(data, None) is not None else None


def prepared(dataset: str, config: str) -> Path | None:
    """The folder where the ``datasets`` library keeps this dataset ready to use, or None."""
    from datasets import config as settings
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = dataset.rpartition("/")
    where = os.environ.get("LMMS_EVAL_DATASETS_CACHE") or str(settings.HF_DATASETS_CACHE)
    folder = Path(where).expanduser() / f"{owner}___{camelcase_to_snakecase(name)}"
    done = list(folder.glob(f"{config or '*'}/*/*/dataset_info.json"))
    if not config and len({path.parents[2] for path in done}) > 1:
        done = [path for path in done if path.parents[2].name == "default"]
    newest = max(done, key=lambda path: path.parent.stat().st_mtime, default=None)
    return newest.parent if newest is not None else None


def prepared_documents(dataset: str, config: str, split: str, root: Path | None) -> int | None:
    """Documents of a split that is ready to use in the cache; None where it is not."""
    dataset = found_id(dataset, config, root)
    if not HUB_ID.fullmatch(dataset) or local_copy(dataset, root) is not None:
        return None
    ready = prepared(dataset, config)
    if ready is None:
        return None
    try:
        about = json.loads((ready / "dataset_info.json").read_text(encoding="utf-8"))
        return int(about["splits"][split]["num_examples"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


@cache
def hub_revision(dataset: str) -> str:
    """The dataset's current commit on the hub.

    Raises ConnectionError when the hub cannot be reached, UsageError when it has no such dataset.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise ConnectionError("offline mode")
    try:
        return str(HfApi().dataset_info(dataset, timeout=TIMEOUT_S).sha)
    except (RepositoryNotFoundError, GatedRepoError):
        raise UsageError(
            f"--bench: the hub has no open dataset '{dataset}'; for a gated one: hf auth login"
        ) from None
    except (OSError, HfHubHTTPError) as error:
        raise ConnectionError(str(error)) from None
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests", "urllib3"):
            raise ConnectionError(str(error)) from None
        raise


def require_dataset(
    dataset: str, configs: Sequence[str], root: Path | None, bench: str = ""
) -> None:
    """Raise UsageError, naming the dataset and how to get it, unless it can be loaded."""
    here = found_id(dataset, configs[0], root)
    if HUB_ID.fullmatch(here) and local_copy(here, root) is not None:
        return
    if all(prepared(here, config) is not None for config in configs):
        return
    try:
        hub_revision(dataset)
    except ConnectionError:
        from huggingface_hub import constants

        raise UsageError(
            f"--bench: {bench or 'this task'} needs the dataset '{dataset}', which is not on this "
            "machine, and the hub cannot be reached: where there is a network run "
            f"'hf download {dataset} --repo-type dataset', then copy its cache here and set "
            f"HF_HOME (now {constants.HF_HOME})"
        ) from None


def require_hub(dataset: str, bench: str) -> None:
    """Raise UsageError unless the hub answers: single files of a dataset are read from there."""
    try:
        hub_revision(dataset)
    except ConnectionError:
        raise UsageError(
            f"--bench: {bench} reads single files of the dataset '{dataset}' from the hub, which "
            "cannot be reached: no copy of the dataset takes their place"
        ) from None


def revision(dataset: str, config: str, root: Path | None) -> str:
    """What identifies a dataset's content: a commit, or a hash over a local folder's listing."""
    dataset = found_id(dataset, config, root)
    copy = local_copy(dataset, root) if HUB_ID.fullmatch(dataset) else None
    if copy is not None:
        snapshot = root is None and copy.parent.name == "snapshots"
        return copy.name if snapshot else listing(files_of(copy), copy)
    ready = prepared(dataset, config)
    if ready is not None:
        return ready.name
    return hub_revision(dataset)


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a dataset copy, in a stable order, without the download tool's notes."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if ".cache" not in path.relative_to(folder).parts:
            yield path


def listing(files: Iterable[Path], base: Path) -> str:
    """sha256 over names (below ``base``, else the last part) and content of files.

    Of large containers only the size and both ends are read; whole ones would take minutes. The
    end of a parquet file holds the offsets and statistics of all its columns, so other rows show.
    """
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        name = path.relative_to(base) if path.is_relative_to(base) else path.name
        digest.update(f"{name} {size}\n".encode())
        with path.open("rb") as file:
            if path.suffix not in CONTAINERS or size <= 2 * END:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            digest.update(file.read(END))
            file.seek(size - END)
            digest.update(file.read())
    return digest.hexdigest()


def _state(folder: Path) -> str:
    """A name for this folder as it is now: place, files, sizes, times of change."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in files_of(folder):
        stat = path.stat()
        line = f"{path.relative_to(folder)} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode())
    return digest.hexdigest()[:16]


@contextmanager
def dataset_sources(root: Path | None, ready: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Let ``datasets.load_dataset`` prefer local copies while the context is open.

    Task code calls that function by hub id, some of it for a second configuration (gqa's images).
    ``token=True``, which such code asks for, is dropped where nobody is logged in: the datasets
    are public, and the library would stop for want of a token it does not need. A dataset that
    is ready in the cache is used as it is, and a fresh one is fetched at the commit that
    :func:`revision` named: datasets have been re-pointed under their users. ``ready``: datasets by
    name that are in memory already.
    """
    import datasets

    original = datasets.load_dataset

    def load(path: str, name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        if (found := (ready or {}).get(str(path))) is not None:
            return found
        if not HUB_ID.fullmatch(str(path)) or os.path.exists(path):
            return original(path, name, *args, **kwargs)
        path = found_id(str(path), name or "", root)
        copy = local_copy(path, root)
        if copy is not None:
            for option in ("token", "revision", "download_config"):
                kwargs.pop(option, None)
            # The library knows a folder in its cache by its last name alone, and would serve
            # what it prepared from another copy, or from this one before it changed.
            base = Path(kwargs.pop("cache_dir", None) or datasets.config.HF_DATASETS_CACHE)
            kwargs["cache_dir"] = str(base / "local-copies" / _state(copy))
            return original(str(copy), name, *args, **kwargs)
        from huggingface_hub import get_token

        if kwargs.get("token") is True and get_token() is None:
            kwargs["token"] = None
        if prepared(path, name or "") is not None:
            with _offline():
                return original(path, name, *args, **kwargs)
        kwargs.setdefault("revision", hub_revision(path))  # the one the fingerprint names
        return original(path, name, *args, **kwargs)

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original


@contextmanager
def _offline() -> Iterator[None]:
    """Tell the hub library that it is offline, so that it takes what is in the cache."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
