"""Where a task's documents are read from: named and fingerprinted, never guessed.

Torch-free; the ``datasets`` library comes in only where its cache has to be looked at.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.bench import hubdata
from harness.common.errors import UsageError
from harness.model.weights import file_hash

# Names by which the datasets library reads plain files; the task file says which ones.
BUILDERS = ("arrow", "csv", "imagefolder", "json", "pandas", "parquet", "text", "webdataset")
ON_HUB = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@[^/]+)?/")
SHOWN = 12  # digits of a commit or hash in a report


@dataclass(frozen=True)
class Source:
    """What one task reads: a dataset of the hub by id, or files of this machine.

    ``dataset``, ``config`` and ``files`` are the task file's; ``folder`` is where that file lies,
    ``root`` the folder of local copies given with ``--data``.
    """

    dataset: str
    config: str
    files: tuple[str, ...]
    folder: Path
    root: Path | None = None

    @classmethod
    def of_task(cls, task: dict[str, Any], folder: Path, root: Path | None) -> Source:
        """The source of a task file's content."""
        kwargs = task.get("dataset_kwargs")
        files = tuple(_texts(kwargs.get("data_files") if isinstance(kwargs, dict) else None))
        path, name = str(task.get("dataset_path") or ""), str(task.get("dataset_name") or "")
        return cls(path, name, files, folder, root)

    @property
    def hub_id(self) -> str:
        """The hub dataset that is asked for; "" where plain files are."""
        if self.dataset in BUILDERS:
            found = next((m for m in map(ON_HUB.match, self.files) if m), None)
            return found.group(1) if found else ""
        return "" if hubdata.is_folder(self.dataset) else self.dataset

    @property
    def found(self) -> str:
        """The dataset by the id under which it is here, which may be an older or a newer one."""
        return hubdata.found_id(self.dataset, self.config, self.root)

    @property
    def kind(self) -> str:
        """``hub``, or ``local`` for files and folders of the user's own choice."""
        if not self.hub_id or (self.root is not None and self.dataset not in BUILDERS):
            return "local"
        return "hub"

    @cached_property
    def version(self) -> str:
        """A commit of the hub, or a hash over the local files."""
        if self.hub_id:
            if self.dataset in BUILDERS:
                return hubdata.hub_revision(self.hub_id)
            return hubdata.revision(self.dataset, self.config, self.root)
        paths = self._paths()
        if self.dataset in BUILDERS:  # own files are read whole: they are small, and get edited
            lines = "".join(f"{path.name} {file_hash(path)}\n" for path in paths)
            return hashlib.sha256(lines.encode()).hexdigest()
        return hubdata.listing(paths, self._base)

    def documents(self, split: str) -> int | None:
        """Documents of a split that is ready to use in the cache; None where it is not."""
        if self.kind != "hub" or self.dataset in BUILDERS:
            return None
        return hubdata.prepared_documents(self.dataset, self.config, split, self.root)

    def __str__(self) -> str:
        """As reports name it: without the path, which is this machine's business."""
        if self.hub_id:
            asked = self.hub_id if self.dataset in BUILDERS else self.found
            name = asked if self.kind == "hub" else asked.rpartition("/")[2]
        else:
            paths = self._paths() if self.dataset in BUILDERS else [self._base]
            name = ", ".join(dict.fromkeys(path.name for path in paths))
        return f"{name}@{self.version[:SHOWN]}"

    def require(self, configs: tuple[str, ...], bench: str) -> None:
        """Raise UsageError, naming what is missing and how to get it, unless it can be read."""
        away = [f for f in self.files if "://" in f and not ON_HUB.match(f)]
        if self.dataset in BUILDERS and away:
            raise UsageError(
                f"--bench: {bench} reads {away[0]}, whose content cannot be pinned: download it "
                "and name the file in a task file of your own"
            )
        if self.hub_id and self.dataset in BUILDERS:
            hubdata.require_hub(self.hub_id, bench)
        elif self.hub_id:
            hubdata.require_dataset(self.hub_id, (self.config, *configs), self.root, bench)
        elif not self._paths():
            named = ", ".join(self.files) or self.dataset
            raise UsageError(f"--bench: {bench} reads {named}, which is not on this machine")

    @property
    def _base(self) -> Path:
        return self.folder if self.dataset in BUILDERS else Path(self.dataset).resolve()

    def _paths(self) -> list[Path]:
        """The local files, in a stable order; empty where any of them is missing."""
        if self.dataset not in BUILDERS:
            return list(hubdata.files_of(self._base))
        found: list[Path] = []
        for name in self.files:
            place = Path(self.folder, name)  # an absolute name stays as it is
            matches = [place] if place.is_file() else sorted(place.parent.glob(place.name))
            if not matches:
                return []
            found += matches
        return found


def _texts(value: Any) -> Iterator[str]:
    """All texts of a ``data_files`` entry: one, a list, or either by split."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
