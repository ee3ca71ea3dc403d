from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.budgets import Dim
from optimize.errors import ArtifactError, UserError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.answers import Answers, output_schema

X = TensorSpec("x", "int64", ("batch",))


def model(*outputs: TensorSpec, batch: Dim | None = None) -> Signature:
    return Signature((X,), outputs, {"batch": batch or Dim(1, 1, 8)})


def filled(signature: Signature, rows: int, batches: list[tuple[list[int], dict[str, np.ndarray]]]) -> pa.Table:
    answers = Answers(signature, rows)
    for order, outputs in batches:
        answers.add(np.array(order), outputs, {})
    return answers.table(100)


def test_schema_has_the_row_number_and_a_column_per_output() -> None:
    signature = model(
        TensorSpec("label", "int64", ("batch",)),
        TensorSpec("y", "float32", ("batch", 2, 3)),
        TensorSpec("tokens", "object", ("batch", "length")),
    )
    schema = output_schema(signature)
    assert schema.names == ["row", "label", "y", "tokens"]
    assert schema.types == [
        pa.int64(),
        pa.int64(),
        pa.list_(pa.list_(pa.float32(), 3), 2),
        pa.list_(pa.string()),
    ]


def test_outputs_that_cannot_be_columns_are_refused() -> None:
    with pytest.raises(UserError, match="output 'row' has the name of the column of row numbers"):
        output_schema(model(TensorSpec("row", "int64", ("batch",))))
    with pytest.raises(UserError, match="output 'y' is bfloat16, which no Parquet column can store"):
        output_schema(model(TensorSpec("y", "bfloat16", ("batch",))))


@given(st.permutations(range(7)), st.sets(st.integers(1, 6)))
def test_rows_come_out_in_order_whatever_the_order_of_batches(order: list[int], cuts: set[int]) -> None:
    signature = model(TensorSpec("y", "float32", ("batch", 2)), TensorSpec("z", "int64", ("batch", "n")))
    batches = []
    for start, stop in pairwise(sorted({0, 7, *cuts})):
        rows = order[start:stop]
        numbers = np.array(rows)[:, np.newaxis]
        batches.append((rows, {"y": np.hstack([numbers, -numbers]).astype(np.float32), "z": numbers}))
    table = filled(signature, 7, batches)
    assert table["row"].to_pylist() == list(range(100, 107))
    assert table["y"].to_pylist() == [[row, -row] for row in range(7)]
    assert table["z"].to_pylist() == [[row] for row in range(7)]


def test_tensors_of_free_and_fixed_axes_nest() -> None:
    signature = model(TensorSpec("y", "int64", ("batch", "n", 2)))
    values = [np.arange(size * 2).reshape(1, size, 2) for size in (2, 0, 1)]
    table = filled(signature, 3, [([row], {"y": value}) for row, value in enumerate(values)])
    assert table["y"].to_pylist() == [[[0, 1], [2, 3]], [], [[0, 1]]]


def test_batch_axis_may_have_any_position() -> None:
    signature = model(TensorSpec("y", "int64", (2, "batch")))
    table = filled(signature, 3, [([0, 1, 2], {"y": np.array([[1, 2, 3], [4, 5, 6]])})])
    assert table["y"].to_pylist() == [[1, 4], [2, 5], [3, 6]]


def test_padding_and_repeated_rows_are_cut_off() -> None:
    signature = model(
        TensorSpec("y", "int64", ("batch", "sequence")), TensorSpec("s", "int64", ("batch",)), batch=Dim(3, 4, 8)
    )
    answers = Answers(signature, 2)
    outputs = {"y": np.array([[1, 2, 0], [3, 0, 0], [3, 0, 0]]), "s": np.array([7, 8, 8])}
    answers.add(np.array([1, 0]), outputs, {"sequence": np.array([2, 1])})
    table = answers.table(0)
    assert table["y"].to_pylist() == [[3], [1, 2]]
    assert table["s"].to_pylist() == [8, 7]


def test_model_without_a_batch_axis_answers_one_row_a_time() -> None:
    signature = Signature((TensorSpec("x", "int64", (2,)),), (TensorSpec("y", "int64", ("n",)),))
    table = filled(signature, 2, [([0], {"y": np.array([1, 2])}), ([1], {"y": np.array([3])})])
    assert table["y"].to_pylist() == [[1, 2], [3]]


def test_strings_booleans_and_halves_survive() -> None:
    signature = model(
        TensorSpec("t", "object", ("batch",)),
        TensorSpec("b", "bool", ("batch",)),
        TensorSpec("h", "float16", ("batch",)),
    )
    outputs = {
        "t": np.array(["a", "é"], object),
        "b": np.array([True, False]),
        "h": np.array([0.5, 2], np.float16),
    }
    table = filled(signature, 2, [([0, 1], outputs)])
    assert table.select(["t", "b", "h"]).to_pydict() == {"t": ["a", "é"], "b": [True, False], "h": [0.5, 2.0]}
    assert table["h"].type == pa.float16()


def test_empty_slice_has_the_schema() -> None:
    signature = model(TensorSpec("y", "float32", ("batch", 2)), TensorSpec("z", "int64", ("batch", "n", "m")))
    table = filled(signature, 0, [])
    assert table.num_rows == 0
    assert table.schema == output_schema(signature)


@pytest.mark.parametrize(
    "came",
    [np.zeros((2, 3), np.float32), np.zeros((2, 2)), np.zeros((3, 2), np.float32), np.zeros(2, np.float32)],
)
def test_answer_unlike_its_manifest_is_refused(came: np.ndarray) -> None:
    with pytest.raises(ArtifactError, match=r"output 'y' came as .* for 2 rows; its manifest says float32\[batch, 2\]"):
        filled(model(TensorSpec("y", "float32", ("batch", 2))), 2, [([0, 1], {"y": came})])
