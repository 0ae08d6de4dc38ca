"""Which models there are, where their files lie, and loading one. Torch-free until `load_model`.

A model is named by the table below, by a local folder, or by its model-hub id. Finding it checks
everything that can be checked without loading: family, weight format, completeness, hashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.common.errors import UsageError
from harness.common.nearest import nearest, unknown
from harness.common.roots import DATA
from harness.families.catalog import (
    FAMILIES,
    KNOWN,
    MINIS,
    SIZES_ONLY,
    not_here,
    read_config,
)
from harness.families.trust import refuse_foreign
from harness.model.convert.released import Weights
from harness.model.convert.use import as_model, is_released
from harness.model.session import Session
from harness.model.source import ModelSource, Progress
from harness.model.weights import check_weights

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
NEEDED = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
RELEASED = ["pytorch_model*.bin"]  # beside them, of weights in a research code's layout


@dataclass(frozen=True)
class Entry:
    """One line of ``--list models``. ``source`` is a folder below the project, or a hub id."""

    source: str
    summary: str
    mini: bool = False


MODELS: dict[str, Entry] = {
    **{name: Entry(f"assets/{name}", mini.summary, mini=True) for name, mini in MINIS.items()},
    **{
        name: Entry(name, line)
        for f in FAMILIES.values()
        for name, line in f.summaries.items()
        if name not in SIZES_ONLY
    },
}


def find_model(name: str) -> ModelSource:
    """The files behind a model name, checked; fetches a hub model that is not here yet.

    Raises UsageError, one line: unknown name, missing folder, another family, weights missing,
    cut short or not safetensors, hub model absent while the hub cannot be reached.
    """
    entry = MODELS.get(name)
    if entry is not None and entry.mini:
        folder, revision = DATA / entry.source, None
        if not folder.is_dir():
            raise UsageError(not_here(name))
    else:
        folder, revision = _locate(name)
    folder = as_model(folder)
    config = read_config(folder)
    refuse_foreign(folder)
    check_weights(folder)
    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer.model")):
        raise UsageError(f"{folder}: no tokenizer (tokenizer.json)")
    return ModelSource(
        model_id=name if entry or not Path(name).is_dir() else str(Path(name)),
        folder=folder,
        config=config,
        revision=revision,
        mini=entry is not None and entry.mini,
    )


def _locate(name: str) -> tuple[Path, str | None]:
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder, _snapshot(folder)
    if folder.exists():
        raise UsageError(f"--model: '{name}' is a file; give the folder that holds it")
    if name in MODELS or HUB_ID.fullmatch(name):
        folder = _hub_folder(name)
        return folder, _snapshot(folder)
    if name in SIZES_ONLY:
        more = ""
        if KNOWN[name]["model_type"] in FAMILIES:
            more = ", --throughput --random-weights, or from a folder with its converted weights"
        raise UsageError(
            f"--model: only the sizes of '{name}' are known: it runs with --costs-only{more}"
        )
    if "/" in name or name.startswith((".", "~")):
        raise UsageError(f"--model: there is no folder '{name}'")
    raise UsageError("--model: " + unknown("model", name, MODELS))


def _whole(folder: Path) -> None:
    """Raise UsageError for weights that are not all there, in our layout or a released one."""
    if is_released(folder):
        Weights(folder)
    else:
        check_weights(folder)


def _snapshot(folder: Path) -> str | None:
    """The commit a hub snapshot folder is named after."""
    real = folder.absolute()
    return real.name if real.parent.name == "snapshots" else None


def _hub_folder(repo: str) -> Path:
    """Folder of a hub model's files, from the local cache or downloaded now."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError as NoSuchRepo

    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=NEEDED))
        _whole(folder)
        return folder
    except (LocalEntryNotFoundError, UsageError):
        pass
    close = nearest(repo, [name for name in MODELS if "/" in name])
    hint = f" (did you mean '{close}'?)" if close and close != repo else ""
    try:
        if constants.HF_HUB_OFFLINE:
            raise ConnectionError("offline mode")
        HfApi().model_info(repo, timeout=10)  # fails at once where a download would keep trying
        folder = Path(snapshot_download(repo, allow_patterns=NEEDED))
        if is_released(folder) and not any(folder.glob("*.safetensors")):
            return Path(snapshot_download(repo, allow_patterns=[*NEEDED, *RELEASED]))
        return folder
    except (NoSuchRepo, GatedRepoError):
        raise UsageError(
            f"--model: the hub has no open model '{repo}'{hint}; "
            "for a gated one log in first: hf auth login"
        ) from None
    except OSError as error:
        raise UsageError(_how_to_get(repo, hint, constants.HF_HOME, error)) from None
    except Exception as error:
        if not _is_network_error(error):
            raise
        raise UsageError(_how_to_get(repo, hint, constants.HF_HOME, error)) from None


def _is_network_error(error: BaseException) -> bool:
    """Errors of the hub's HTTP library, whichever one the installed version uses."""
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "requests", "urllib3")


def _how_to_get(repo: str, hint: str, home: str, error: BaseException) -> str:
    full_disk = isinstance(error, OSError) and error.errno == 28
    why = "the disk is full" if full_disk else "the model hub cannot be reached"
    return (
        f"--model: '{repo}' is not complete on this machine and {why}{hint}: where there is a "
        f"network run 'hf download {repo}', then copy its cache here and set HF_HOME "
        f"(now {home}), or give --model the folder"
    )


def load_model(
    name: str | ModelSource,
    device: str = "auto",
    dtype: str = "auto",
    attn: str = "auto",
    progress: Progress | None = None,
    feature_cache_mib: int = 1024,
    device_map: str | Mapping[str, Any] | None = None,
) -> Session:
    """Load a model and its processor once, ready for every method in turn.

    ``device``: auto, cpu, cuda, cuda:N, mps. ``auto`` takes the first accelerator, and spreads a
    model that does not fit over all devices. ``dtype``: auto, float32, bfloat16, float16 (or
    fp32, bf16, fp16). ``attn``: auto, sdpa, eager, flash_attention_2. ``progress`` gets one line
    per stage. ``feature_cache_mib`` bounds the shared vision features; 0 switches sharing off.
    ``device_map``: spread it as transformers does (auto, balanced, ...), or module by module.
    Raises UsageError, one line, for anything wrong with the files or the wishes.
    """
    from harness.model.loading import load  # torch and transformers only from here on

    source = name if isinstance(name, ModelSource) else find_model(name)
    return load(source, device, dtype, attn, progress, feature_cache_mib, device_map)
