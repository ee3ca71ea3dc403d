import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimize.errors import UserError
from serve.scoring.input_file import Reader, describe, stored_row_bytes
from serve.scoring.partition import Task, tasks

ROWS = 100_000
TABLE = pa.table(
    {
        "x": pa.array(np.arange(ROWS)),
        "words": [["a"] * (row % 3) for row in range(ROWS)],
        "a.b": np.zeros(ROWS, np.int8),
    }
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "in.parquet"
    pq.write_table(TABLE, path, row_group_size=70_000)
    return path


@given(
    st.lists(st.integers(0, 49), min_size=1, max_size=6),
    st.sampled_from([1500, 3000, 70_000]),
)
@settings(max_examples=25, deadline=None)
def test_tasks_in_any_order_read_their_own_rows(path: Path, order: list[int], slice_rows: int) -> None:
    source, _, _ = describe(path)
    cut = tasks(source.row_groups, slice_rows, 8)
    with Reader(source, ["words", "x"], slice_rows) as reader:
        for number in order:
            task = cut[number % len(cut)]
            read = reader.read(task)
            assert read.select(["x", "words"]).equals(TABLE.select(["x", "words"]).slice(task.first_row, task.rows))


def test_column_names_with_dots_are_read(path: Path) -> None:
    source, metadata, _ = describe(path)
    with Reader(source, ["a.b"], ROWS) as reader:
        assert reader.read(Task(0, 0, 0, 0, 5)).column("a.b").to_pylist() == [0] * 5
    assert 0 < stored_row_bytes(metadata, ["a.b"]) < stored_row_bytes(metadata, ["x"]) <= 16


def test_file_without_rows_has_columns(tmp_path: Path) -> None:
    path = tmp_path / "empty.parquet"
    pq.write_table(TABLE.slice(0, 0), path)
    source, _, _ = describe(path)
    assert source.rows == 0
    with Reader(source, ["x"], 8) as reader:
        assert reader.read(Task(0, 0, 0, 0, 0)).column("x").to_pylist() == []


def test_file_is_known_by_its_content_and_time_not_its_place(path: Path, tmp_path: Path) -> None:
    source, _, _ = describe(path)
    moved = tmp_path / "moved.parquet"
    shutil.copy2(path, moved)
    assert describe(moved)[0].is_same_as(source)
    assert describe(moved)[0] != source

    os.utime(moved, ns=(0, source.modified_ns + 1))
    assert not describe(moved)[0].is_same_as(source)

    pq.write_table(TABLE.set_column(0, "x", pa.array(np.arange(ROWS) + 1)), moved, row_group_size=70_000)
    os.utime(moved, ns=(0, source.modified_ns))
    assert not describe(moved)[0].is_same_as(source)


def test_file_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(TABLE.slice(0, 10), path)
    source, _, _ = describe(path)
    with Reader(source, ["x"], 8) as reader:
        reader.read(Task(0, 0, 0, 0, 4))
        os.utime(path)
        with pytest.raises(UserError, match="was changed while it was scored"):
            reader.read(Task(1, 0, 4, 4, 4))


def test_damaged_pages_are_one_line_with_the_row_group(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(TABLE.slice(0, 5000), path, compression="gzip", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:400] = bytes(300)
    path.write_bytes(data)
    source, _, _ = describe(path)
    with Reader(source, ["x"], 8) as reader, pytest.raises(UserError, match="row group 0 cannot be read") as caught:
        reader.read(Task(0, 0, 0, 0, 5000))
    assert "\n" not in str(caught.value)


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "in.csv"
    text.write_text("x,y\n1,2\n" * 10)
    for path, message in [
        (tmp_path / "none.parquet", "no such file"),
        (tmp_path, "is a folder, wanted one Parquet file"),
        (text, "cannot be read as Parquet"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            describe(path)
        assert "\n" not in str(caught.value)


def test_large_row_group_is_read_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.parquet"
    rows = 64_000
    values = np.random.default_rng(0).random(rows * 256, dtype=np.float32)  # 65 MB that do not compress
    pq.write_table(pa.table({"x": pa.FixedSizeListArray.from_arrays(values, 256)}), path, row_group_size=rows)
    del values
    read = (  # a process of its own, as the pool's peak is one of the whole process
        "import sys, pyarrow as pa; from pathlib import Path; from serve.scoring.partition import tasks;"
        "from serve.scoring.input_file import Reader, describe\n"
        "source, _, _ = describe(Path(sys.argv[1]))\n"
        "with Reader(source, ['x'], 2000) as reader:\n"
        "    total = sum(reader.read(task).num_rows for task in tasks(source.row_groups, 2000, 8))\n"
        "print(total, pa.default_memory_pool().max_memory())"
    )
    printed = subprocess.run([sys.executable, "-c", read, str(path)], check=True, capture_output=True).stdout
    total, peak_bytes = map(int, printed.split())
    assert total == rows
    assert peak_bytes < 20e6
