from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.budgets import Dim
from optimize.manifest import OperatingPoint, SessionOptions, Signature, TensorSpec
from serve.scoring.partition import (
    LONGEST_TASK_S,
    SHORTEST_TASK_S,
    SLICE_BYTES,
    Layout,
    Task,
    layout,
    row_bytes,
    slice_rows,
    tasks,
)
from tests.published import identity, publish

row_groups = st.lists(st.integers(0, 500), max_size=8)
batch_sizes = st.integers(1, 40)


@given(row_groups, batch_sizes, st.integers(1, 20))
def test_every_row_is_in_one_task_and_in_order(groups: list[int], batch: int, batches: int) -> None:
    found = tasks(groups, batch * batches, batch)
    rows = [(task.row_group, row) for task in found for row in range(task.offset, task.offset + task.rows)]
    assert rows == [(group, row) for group, size in enumerate(groups) for row in range(size)]
    assert [task.index for task in found] == list(range(len(found)))
    assert all(low.first_row + low.rows == high.first_row for low, high in pairwise(found))


@given(row_groups, batch_sizes, st.integers(1, 20))
def test_slices_are_bounded_whole_batches_of_similar_size(groups: list[int], batch: int, batches: int) -> None:
    limit = batch * batches
    for group in range(len(groups)):
        sizes = [task.rows for task in tasks(groups, limit, batch) if task.row_group == group]
        assert all(size <= limit for size in sizes)
        assert all(size % batch == 0 for size in sizes[:-1])
        assert len(set(sizes[:-1])) <= 1


def test_file_without_rows_is_one_empty_task() -> None:
    assert tasks([], 100, 8) == tasks([0, 0], 100, 8) == (Task(0, 0, 0, 0, 0),)


def test_long_jobs_have_long_tasks_and_short_ones_short() -> None:
    def task_s(rows: int, row_s: float) -> float:
        return slice_rows(rows, 1.0, row_s, 8) * row_s

    assert task_s(100, 0.001) == pytest.approx(SHORTEST_TASK_S, rel=0.01)
    assert task_s(1_000_000, 0.002) == pytest.approx(10.0, rel=0.01)
    assert task_s(100_000_000, 0.002) == pytest.approx(LONGEST_TASK_S, rel=0.01)


def test_bytes_bound_a_slice_whose_rows_are_large_or_unmeasured() -> None:
    assert slice_rows(10**9, 1 << 20, 0.0, 8) == SLICE_BYTES >> 20
    assert slice_rows(10**9, 1 << 20, 1e-6, 8) == SLICE_BYTES >> 20
    assert slice_rows(10**9, SLICE_BYTES * 10, 1e-6, 8) == 8  # one batch, whatever it takes


def test_row_bytes_take_dynamic_dimensions_at_their_largest() -> None:
    signature = Signature(
        inputs=(TensorSpec("ids", "int64", ("batch", "sequence")), TensorSpec("text", "object", ("batch",))),
        outputs=(TensorSpec("y", "float16", ("batch", 3)), TensorSpec("flag", "bool", ("batch",))),
        dims={"batch": Dim(1, 1, 32), "sequence": Dim(4, 32, 128)},
    )
    assert row_bytes(signature, 0.0) == 128 * 8 + 64 + 3 * 2 + 1
    assert row_bytes(signature, 5000.0) == 5000 + 3 * 2 + 1


def test_layout_is_the_measured_one_for_bulk_or_the_session_at_its_largest_batch(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "registry", "identity", identity(), tmp_path, max_batch=8)
    assert layout(manifest) == Layout(SessionOptions("cpu", 1), 8, pytest.approx(0.3e-3 / 8))
    point = OperatingPoint(threads=2, instances=3, batch=4, rows_per_s=600.0, p50_ms=1.0, p95_ms=1.0, n=9)
    assert layout(msgspec.structs.replace(manifest, bulk=point)) == Layout(SessionOptions("cpu", 2), 4, 3 / 600)
