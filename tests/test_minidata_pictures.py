"""Pictures that several mini benchmarks share: stored once, and joined to every row that asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.common.errors import UsageError
from minidata import tasks
from minidata.rows import joined, read, without_pictures


def test_a_picture_is_stored_once() -> None:
    """Those of several benches in a file of their own, the key of each row's being its scene."""
    pictures = pq.read_table(tasks.folder().parent / tasks.PICTURES)
    bytes_of = pictures["image"].combine_chunks().field("bytes").to_pylist()
    assert len(set(bytes_of)) == len(bytes_of) == len(set(pictures["scene_id"].to_pylist()))
    used: set[str] = set()
    for bench in tasks.SHARED:
        rows = pq.read_table(tasks.data_file(bench))
        assert rows["image"].null_count == len(rows)
        assert without_pictures(read(tasks.data_files(bench))).equals(rows, check_metadata=True)
        used |= set(rows["scene_id"].to_pylist())
    assert used == set(pictures["scene_id"].to_pylist())


def test_a_row_without_its_picture_is_refused(tmp_path: Path) -> None:
    rows, pictures = tasks.data_files("gqa")
    table = pq.read_table(pictures)
    pq.write_table(table.slice(0, len(table) - 2), tmp_path / "fewer.parquet")
    lost = table["scene_id"][-2].as_py()
    with pytest.raises(UsageError, match=f"^mini data: no picture of scene {lost} .*make data$"):
        read([rows, tmp_path / "fewer.parquet"])
    asked = read([rows, tmp_path / "fewer.parquet"], ["question", "answer"])  # which need none
    assert asked.column_names == ["question", "answer"] and len(asked) == 2000


def test_a_scene_of_several_pictures_is_refused(tmp_path: Path) -> None:
    rows, pictures = tasks.data_files("gqa")
    table = pq.read_table(pictures)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), tmp_path / "twice.parquet")
    with pytest.raises(UsageError, match=r"^mini data: a scene of several pictures"):
        read([rows, tmp_path / "twice.parquet"])


def test_rows_are_joined_once_whatever_is_asked_again(tmp_path: Path) -> None:
    """Through `datasets`' own reader, with another picture when the file behind it changes."""
    shipped = tasks.data_files("pope")
    files = [tmp_path / path.name for path in shipped]
    rows, pictures = (pq.read_table(path) for path in shipped)
    pq.write_table(rows.slice(0, 5), files[0])

    def loaded() -> Any:
        return datasets.load_dataset(
            "parquet", data_files={"test": [*map(str, files)]}, cache_dir=str(tmp_path / "cache")
        )["test"]

    for order in (range(len(pictures)), [*range(1, len(pictures)), 0]):
        image = pictures["image"].take(pa.array(order))
        place = pictures.schema.get_field_index("image")
        pq.write_table(pictures.set_column(place, pictures.schema.field(place), image), files[1])
        once = joined(loaded())
        assert once.with_format("arrow")[:].equals(read(files))
        assert joined(once).with_format("arrow")[:].equals(read(files))
