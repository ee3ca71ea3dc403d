from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from optimize.budgets import Dim
from optimize.errors import CandidateError
from optimize.manifest import Signature, TensorSpec
from optimize.source.samples import Batch
from optimize.validate import answers
from tests.optimize.model_refs import SIGNATURE, X, identity, reals, stored, written

SUM = TensorSpec("y", "float32", ("batch",))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5), st.integers(1, 8))
def test_executions_have_every_row_once_in_order(counts: list[int], size: int) -> None:
    total = sum(counts)
    rows = np.arange(total * 4, dtype=np.float32).reshape(total, 4)
    ends = np.cumsum(counts)
    batches = [Batch({"x": rows[end - count : end]}, None) for count, end in zip(counts, ends, strict=True)]
    found = list(answers.executions(SIGNATURE, batches, size))
    together = [inputs["x"] for inputs, _ in found]
    np.testing.assert_array_equal(np.concatenate(together), rows)
    assert [count for _, count in found] == [len(part) for part in together]
    assert all(len(part) <= size for part in together)


def test_executions_are_not_smaller_than_the_model_takes() -> None:
    signature = Signature(SIGNATURE.inputs, SIGNATURE.outputs, {"batch": Dim(4, 4, 8)})
    found = list(answers.executions(signature, [Batch({"x": reals(12, 4)}, None)], 1))
    assert [rows for _, rows in found] == [4, 4, 4]


def test_batch_is_cut_along_any_axis() -> None:
    signature = Signature((TensorSpec("x", "float32", (4, "batch")), TensorSpec("scale", "float32", ())), (SUM,))
    x = reals(4, 5)
    found = list(answers.executions(signature, [Batch({"x": x, "scale": np.float32(2)}, None)], 2))
    np.testing.assert_array_equal(np.concatenate([inputs["x"] for inputs, _ in found], axis=1), x)
    assert [inputs["scale"] for inputs, _ in found] == [2, 2, 2]


@pytest.mark.parametrize("row_by_row", [False, True])
def test_answers_are_read_back_one_per_row(tmp_path: Path, row_by_row: bool) -> None:
    x = reals(21, 4)
    split = stored(tmp_path, x[:3], x[3:])
    target = tmp_path / "answers.npz"
    assert answers.record(identity(tmp_path), SIGNATURE, split, target, row_by_row=row_by_row) == 21
    with np.load(target) as archive:
        largest = max(len(archive[key]) for key in archive.files)
    assert largest == (1 if row_by_row else SIGNATURE.max_batch)
    np.testing.assert_array_equal(np.stack(answers.read_output(target, SIGNATURE, "y")), x)


def test_output_without_batch_axis_is_answered_row_by_row(tmp_path: Path) -> None:
    """Rows cannot share an execution, so each has an answer of its own, and labels stay beside it."""
    nodes = [
        helper.make_node("Identity", ["x"], ["y"]),
        helper.make_node("ReduceSum", ["x"], ["total"], keepdims=0),
    ]
    model_ref = written(tmp_path, nodes, outputs={"y": ["batch", 4], "total": []})
    signature = Signature((X,), (TensorSpec("y", "float32", ("batch", 4)), TensorSpec("total", "float32", ())))
    x = reals(5, 4)
    target = tmp_path / "answers.npz"
    assert answers.record(model_ref, signature, stored(tmp_path, x), target) == 5
    np.testing.assert_allclose(np.stack(answers.read_output(target, signature, "total")), x.sum(axis=1), atol=1e-6)
    np.testing.assert_array_equal(np.stack(answers.read_output(target, signature, "y")), x)


def test_rows_of_different_lengths_keep_them(tmp_path: Path) -> None:
    model_ref = written(
        tmp_path,
        [helper.make_node("Identity", ["x"], ["y"])],
        inputs={"x": ["batch", "n"]},
        outputs={"y": ["batch", "n"]},
    )
    ragged = Signature(
        (TensorSpec("x", "float32", ("batch", "n")),),
        (TensorSpec("y", "float32", ("batch", "n")),),
        {"batch": Dim(1, 1, 4)},
    )
    target = tmp_path / "answers.npz"
    answers.record(model_ref, ragged, stored(tmp_path, reals(2, 3), reals(1, 7)), target)
    assert [row.shape for row in answers.read_output(target, ragged, "y")] == [(3,), (3,), (7,)]


def test_text_answers_are_stored(tmp_path: Path) -> None:
    types = {"x": TensorProto.STRING, "y": TensorProto.STRING}
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    model_ref = written(tmp_path, nodes, inputs={"x": ["batch"]}, outputs={"y": ["batch"]}, types=types)
    signature = Signature((TensorSpec("x", "object", ("batch",)),), (TensorSpec("y", "object", ("batch",)),))
    target = tmp_path / "answers.npz"
    answers.record(model_ref, signature, stored(tmp_path, np.array(["a", "longer", ""], dtype=object)), target)
    assert [str(row) for row in answers.read_output(target, signature, "y")] == ["a", "longer", ""]


def test_nan_that_the_inputs_do_not_explain_is_a_failure(tmp_path: Path) -> None:
    model_ref = written(tmp_path, [helper.make_node("Log", ["x"], ["y"])])
    good, bad = np.ones((8, 4), np.float32), -np.ones((3, 4), np.float32)
    with pytest.raises(CandidateError, match=r"answers NaN in output 'y' on the samples from row 8 on"):
        answers.record(model_ref, SIGNATURE, stored(tmp_path, good, bad), tmp_path / "answers.npz")
    bad[0, 0] = np.nan
    answers.record(identity(tmp_path), SIGNATURE, stored(tmp_path, good, bad), tmp_path / "answers.npz")


def test_failure_names_the_row(tmp_path: Path) -> None:
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4, 4])
    model_ref = written(tmp_path, [helper.make_node("Reshape", ["x", "shape"], ["y"])], weights=[shape])
    split = stored(tmp_path, reals(4, 4), reals(3, 4))
    with pytest.raises(CandidateError, match=r"fails on the samples from row 4 on: .*Reshape"):
        answers.record(model_ref, SIGNATURE, split, tmp_path / "answers.npz")
