"""What every analysis works with: the dense model, the benches, the limits, and where rows go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.bench.loop import CellResult
from harness.bench.scores import doc_key
from harness.layers.dense import DenseModel, Document
from harness.store.csvfile import read_rows, write_csv
from harness.timing.documents import requests_of

HELD_OUT = 4  # times --analyse-samples documents at most to check plans on


@dataclass(frozen=True)
class Analysis:
    """One run's analyses. `evaluate` is `harness.bench.loop.evaluate`, or a stand-in."""

    dense: DenseModel
    benches: tuple[Any, ...]
    evaluate: Callable[..., CellResult]
    say: Callable[[str], None]
    folder: Path
    samples: int
    limit: int | None
    batch_size: int
    seed: int
    data: str
    kv: float
    allow: tuple[str, ...]
    parts: Path  # what a stopped analysis has, until it is done

    @property
    def model(self) -> str:
        return str(self.dense.loaded.source.model_id)

    @property
    def conditions(self) -> dict[str, Any]:
        """Columns that say under what a number was measured."""
        return {
            "device": self.dense.device,
            "dtype": self.dense.loaded.dtype,
            "batch_size": self.batch_size,
        }

    @property
    def planned(self) -> int:
        """Documents of each bench that layers are measured on: the first ones."""
        return min(self.samples, self.limit or self.samples)

    @property
    def checked(self) -> int:
        """Documents of each bench up to which plans are checked."""
        most = self.samples * (1 + HELD_OUT)
        return min(most, self.limit or most)

    def documents(self, bench: Any) -> list[Document]:
        """The first `planned` documents of a bench, of each of its tasks where it has several."""
        loaded = self.dense.loaded
        found = requests_of(loaded, bench, self.data, self.planned, self.seed)
        grouped = len({request.task for request in found}) > 1
        keys = [doc_key(r.doc_id, r.task if grouped else "") for r in found]
        keys = [bench.names.get(key, key) for key in keys]
        return [Document(bench.name, key, "", r) for key, r in zip(keys, found, strict=True)]

    def answer(self, bench: Any, method: Any, limit: int) -> CellResult:
        """`method`, training-free, on the first `limit` documents, by the bench's own scoring."""
        return self.evaluate(
            self.dense.loaded, method, bench, checkpoint=self.dense.checkpoint, limit=limit,
            batch_size=self.batch_size, seed=self.seed, progress=False,
            pictured=lambda position: False, allow=self.allow,
        )  # fmt: skip

    def write(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        """A whole CSV of the run directory."""
        write_csv(self.folder / name, columns, rows)

    def read(self, name: str) -> list[dict[str, str]]:
        """Rows of a CSV of the run directory; [] when there is none."""
        return read_rows(self.folder / name)


def image_ids(document_images: Sequence[Any]) -> str:
    """The content name the evaluation loop gives a document's images."""
    from harness.model.features import image_key

    return "+".join(image_key(image) for image in document_images)
