import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper

from optimize.budgets import Dim
from optimize.errors import ArtifactError, Exit, InputError, ProveserveError
from optimize.manifest import Blob, Golden, SessionOptions, Signature, TensorSpec
from optimize.runtime.session import OnnxSession
from serve.scoring import partition
from serve.scoring.input_file import describe
from serve.scoring.worker import Scorer, Work
from tests.serve.scoring import models

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


@contextmanager
def scorer(
    folder: Path, model: onnx.ModelProto, signature: Signature, rows: pa.Table, row_group_size: int = 1000
) -> Iterator[tuple[Scorer, tuple[partition.Task, ...]]]:
    """A worker of `model`, and the tasks of the rows as a file."""
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "golden.npz")
    pq.write_table(rows, folder / "in.parquet", row_group_size=row_group_size)
    source, _, _ = describe(folder / "in.parquet")
    (folder / "out").mkdir()
    work = Work(
        model_path=folder / "model.onnx",
        options=SessionOptions(),
        batch=signature.max_batch,
        signature=signature,
        golden_path=folder / "golden.npz",
        golden=Golden(Blob("golden.npz", "0" * 64, 1), 0, 0, 0),
        source=source,
        slice_rows=1000,
        folder=folder / "out",
        registry=folder / "registry",
    )
    with Scorer(work) as opened:
        yield opened, partition.tasks(source.row_groups, work.slice_rows, signature.max_batch)


def scored(folder: Path, model: onnx.ModelProto, signature: Signature, **columns: Any) -> dict[str, list[Any]]:
    with scorer(folder, model, signature, pa.table(columns)) as (opened, tasks):
        for task in tasks:
            opened.score(task)
    found: dict[str, list[Any]] = pq.read_table(folder / "out").to_pydict()
    return found


def signature_of(model: onnx.ModelProto, folder: Path, **dims: Dim) -> Signature:
    onnx.save(model, folder / "model.onnx")
    with OnnxSession(folder / "model.onnx", SessionOptions()) as session:
        return Signature(session.inputs, session.outputs, dims)


def test_rows_of_two_lengths_are_answered_each_at_its_own(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("ReduceSum", ["x", "axis"], ["sum"], keepdims=0), helper.make_node("Neg", ["x"], ["y"])],
        [("x", INT64, ["batch", "n"])],
        [("sum", INT64, ["batch"]), ("y", INT64, ["batch", "n"])],
        axis=np.array([1]),
    )
    signature = signature_of(model, tmp_path, batch=Dim(1, 4, 4))
    values = [list(range(1, 2 + row % 3)) for row in range(25)]
    found = scored(tmp_path, model, signature, x=values)
    assert found == {
        "row": list(range(25)),
        "sum": [sum(value) for value in values],
        "y": [[-item for item in value] for value in values],
    }


def test_executions_are_as_large_as_the_layout_says_and_the_tail_is_ragged(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Shape", ["x"], ["rows"]), helper.make_node("Expand", ["rows", "rows"], ["y"])],
        [("x", INT64, ["batch"])],
        [("y", INT64, ["batch"])],
    )
    signature = signature_of(model, tmp_path, batch=Dim(1, 4, 4))
    assert scored(tmp_path, model, signature, x=list(range(10)))["y"] == [4] * 8 + [2] * 2


def test_padded_rows_are_answered_without_the_padding(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", INT64, ["batch", "n"])], [("y", INT64, ["batch", "n"])]
    )
    bare = signature_of(model, tmp_path, batch=Dim(1, 4, 4), n=Dim(2, 4, 8))
    signature = Signature((TensorSpec("x", "int64", ("batch", "n"), pad=7),), bare.outputs, bare.dims)
    values = [list(range(row % 5)) for row in range(1, 22)]
    found = scored(tmp_path, model, signature, x=pa.array(values, pa.list_(pa.int64())))
    assert found["y"] == [[-item for item in value] for value in values]


def test_model_that_is_not_batchable_is_run_row_by_row(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("NonZero", ["x"], ["found"])], [("x", INT64, [3])], [("found", INT64, [1, "count"])]
    )
    found = scored(tmp_path, model, signature_of(model, tmp_path), x=[[0, 1, 2], [0, 0, 0], [3, 0, 0]])
    assert found["found"] == [[[1, 2]], [[]], [[0]]]


def test_strings_go_in_and_come_out(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Identity", ["text"], ["same"])], [("text", STRING, ["batch"])], [("same", STRING, ["batch"])]
    )
    found = scored(tmp_path, model, signature_of(model, tmp_path, batch=Dim(1, 4, 4)), text=["a", "", "é", "d", "e"])
    assert found["same"] == ["a", "", "é", "d", "e"]


def test_several_inputs_batch_on_any_axis_and_float64_is_narrowed(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Transpose", ["a"], ["t"], perm=[1, 0]), helper.make_node("Mul", ["t", "scale"], ["y"])],
        [("a", FLOAT, [2, "batch"]), ("scale", FLOAT, [])],
        [("y", FLOAT, ["batch", 2])],
    )
    signature = signature_of(model, tmp_path, batch=Dim(1, 4, 4))
    found = scored(tmp_path, model, signature, a=[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], scale=[1.0, 10.0, 1.0])
    assert found["y"] == [[1, 2], [30, 40], [5, 6]]


def test_file_without_rows_gives_one_empty_part(tmp_path: Path) -> None:
    signature = signature_of(models.lookup(), tmp_path, batch=Dim(1, 4, 4))
    empty = pa.array([], pa.list_(pa.int64()))
    assert scored(tmp_path, models.lookup(), signature, x=empty) == {"row": [], "y": []}
    assert [part.name for part in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


def test_row_that_the_model_fails_on_is_named(tmp_path: Path) -> None:
    signature = signature_of(models.lookup(), tmp_path, batch=Dim(1, 4, 4))
    x = np.zeros((30, 4), np.int64)
    x[26, 2] = 10_000
    with scorer(tmp_path, models.lookup(), signature, pa.table({"x": list(x)}), row_group_size=10) as (opened, tasks):
        opened.score(tasks[0])
        with pytest.raises(
            ProveserveError, match=r"in.parquet: row 26 \(row group 2\): the model fails: .*10000"
        ) as caught:
            opened.score(tasks[2])
    assert caught.value.exit_code == Exit.BROKEN
    assert "\n" not in str(caught.value)
    assert [part.name for part in (tmp_path / "out").iterdir()] == ["part-00000.parquet"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, 2, 3], r"row 14 \(row group 1\): input 'x' has shape \[1, 3\]; wanted \['batch', 4\]: axis 1 must be 4"),
        (None, r"column 'x' has a null in row 14"),
        ([1, None, 3, 4], r"column 'x' has a null in row 14"),
    ],
)
def test_row_that_does_not_fit_is_the_users_to_fix(tmp_path: Path, row: Any, message: str) -> None:
    signature = signature_of(models.lookup(), tmp_path, batch=Dim(1, 4, 4))
    x: list[Any] = [[0, 0, 0, 0]] * 20
    x[14] = row
    with scorer(tmp_path, models.lookup(), signature, pa.table({"x": x}), row_group_size=10) as (opened, tasks):
        opened.score(tasks[0])
        with pytest.raises(InputError, match=f"in.parquet: {message}") as caught:
            opened.score(tasks[1])
    assert caught.value.exit_code == Exit.USAGE
    assert "\n" not in str(caught.value)


def test_row_beyond_a_declared_range_is_named_among_padded_ones(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Neg", ["x"], ["y"])], [("x", INT64, ["batch", "n"])], [("y", INT64, ["batch", "n"])]
    )
    bare = signature_of(model, tmp_path, batch=Dim(1, 8, 8), n=Dim(1, 4, 8))
    signature = Signature((TensorSpec("x", "int64", ("batch", "n"), pad=0),), bare.outputs, bare.dims)
    with pytest.raises(InputError, match=r"row 1 \(row group 0\): .* n is 9, its range is 1 to 8"):
        scored(tmp_path, model, signature, x=[[1], [1] * 9, [1, 2]])


def test_worker_does_not_open_a_model_that_answers_otherwise_than_published(tmp_path: Path) -> None:
    onnx.save(models.lookup(), tmp_path / "model.onnx")
    pq.write_table(pa.table({"x": [[1, 2, 3, 4]]}), tmp_path / "in.parquet")
    np.savez(tmp_path / "golden.npz", **{"in/0/x": np.zeros((1, 4), np.int64), "out/0/y": np.ones((1, 4), np.int64)})
    work = Work(
        model_path=tmp_path / "model.onnx",
        options=SessionOptions(),
        batch=1,
        signature=signature_of(models.lookup(), tmp_path),
        golden_path=tmp_path / "golden.npz",
        golden=Golden(Blob("golden.npz", "0" * 64, 1), 1, 0, 0),
        source=describe(tmp_path / "in.parquet")[0],
        slice_rows=8,
        folder=tmp_path,
        registry=tmp_path / "registry",
    )
    with pytest.raises(ArtifactError, match=re.escape("golden input 0: output 'y' differs")):
        Scorer(work)
