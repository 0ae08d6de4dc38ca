"""The rows of a mini benchmark: read with their pictures, and told by content.

Benchmarks that ask about the same pictures (`minidata.tasks.SHARED`) leave `image` empty in their
own file; the pictures lie once in another, with the `scene_id` of each.  Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.common.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


def read(files: Sequence[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a benchmark, each with its picture; `columns`: only these.

    `files`: the rows, then the pictures where they lie apart (`minidata.tasks.data_files`).
    Raises OSError for a file that is missing, UsageError for a picture that is, or a second one.
    """
    import pyarrow.parquet as pq

    apart = files[1:] if columns is None or "image" in columns else ()
    wanted = None if columns is None else list(dict.fromkeys([*columns, "scene_id"]))
    table = pq.read_table(files[0], columns=wanted)
    for pictures in apart:
        table = _filled(table, pq.read_table(pictures))
    return table if columns is None else table.select(list(columns))


def joined(dataset: Dataset) -> Dataset:
    """lmms-eval's `process_docs`: rows with pictures, of rows followed by pictures.

    `datasets` reads both files of a task as one split, in which a picture has no question and a
    row no picture. Rows that all have theirs come back as they are.
    """
    import pyarrow.compute as pc
    from datasets import Dataset, DatasetInfo

    table = dataset.with_format("arrow")[:]
    pictures = pc.is_valid(table["image"])
    if table["image"].null_count == 0:
        return dataset
    rows = _filled(table.filter(pc.invert(pictures)), table.filter(pictures))
    return Dataset(rows, info=DatasetInfo(features=dataset.features), split=dataset.split)


def _filled(rows: pa.Table, pictures: pa.Table) -> pa.Table:
    """`rows` with the image that `pictures` has of each one's scene; schema and order stay."""
    import pyarrow.compute as pc

    known = pc.drop_null(pictures["scene_id"])
    if len(known) != pc.count_distinct(pictures["scene_id"], mode="all").as_py():
        raise UsageError("mini data: a scene of several pictures, or of none: run make data")
    at = pc.index_in(rows["scene_id"], pictures["scene_id"].combine_chunks())
    if at.null_count:
        scene = rows["scene_id"].filter(pc.is_null(at))[0]
        raise UsageError(f"mini data: no picture of scene {scene} beside its rows: run make data")
    place = rows.schema.get_field_index("image")
    return rows.set_column(place, rows.schema.field(place), pictures["image"].take(at))


def without_pictures(rows: pa.Table) -> pa.Table:
    """`rows` with `image` left empty, to be stored beside a file of pictures."""
    import pyarrow as pa

    field = rows.schema.field("image")
    empty = pa.nulls(len(rows), field.type)
    return rows.set_column(rows.schema.get_field_index("image"), field, empty)


def digest(rows: pa.Table, limit: int | None = None) -> str:
    """sha256 over the first `limit` rows, pictures included; what stands behind them has no say."""
    text = json.dumps(rows.slice(0, limit).to_pylist(), sort_keys=True, default=_content)
    return _content(text.encode())


def _content(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()
