from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.budgets import Dim
from optimize.errors import InputError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.batches import Slice
from serve.scoring.columns import Column, decode

Y = TensorSpec("y", "float32", ("batch",))


def signature(*inputs: TensorSpec, batch: Dim | None = None, **dims: Dim) -> Signature:
    return Signature(inputs, (Y,), {"batch": batch or Dim(1, 1, 4), **dims})


def planned(model: Signature, **values: list[Any]) -> tuple[list[list[int]], list[dict[str, np.ndarray]]]:
    """The batches of some rows, and what each is fed."""
    rows = Slice(columns_of(model, **values), model, 0)
    found = rows.batches(model.max_batch)
    return [batch.tolist() for batch in found], [rows.feed(batch) for batch in found]


def columns_of(model: Signature, **values: list[Any]) -> dict[str, Column]:
    return {spec.name: decode(pa.array(values[spec.name]), spec, 0) for spec in model.inputs}


def test_rows_of_one_shape_fill_batches_in_order_with_a_ragged_tail() -> None:
    model = signature(TensorSpec("x", "int64", ("batch", 2)))
    rows, fed = planned(model, x=[[i, i] for i in range(10)])
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert fed[2]["x"].tolist() == [[8, 8], [9, 9]]


@given(st.lists(st.integers(1, 3), min_size=1, max_size=20))
def test_rows_of_equal_shape_share_batches(lengths: list[int]) -> None:
    model = signature(TensorSpec("x", "int64", ("batch", "sequence")))
    rows, fed = planned(model, x=[[i] * length for i, length in enumerate(lengths)])
    assert sorted(row for batch in rows for row in batch) == list(range(len(lengths)))
    for batch, inputs in zip(rows, fed, strict=True):
        assert inputs["x"].tolist() == [[row] * lengths[row] for row in batch]
    wanted = sum(-(-lengths.count(length) // 4) for length in set(lengths))
    assert len(rows) == wanted


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_padded_rows_share_batches_sorted_by_size(lengths: list[int]) -> None:
    model = signature(
        TensorSpec("ids", "int64", ("batch", "sequence"), pad=0),
        TensorSpec("mask", "int64", ("batch", "sequence"), pad=-1),
        sequence=Dim(3, 8, 16),
    )
    values = [[row + 1] * length for row, length in enumerate(lengths)]
    rows, fed = planned(model, ids=pa.array(values, pa.list_(pa.int64())), mask=pa.array(values, pa.list_(pa.int64())))
    assert len(rows) == -(-len(lengths) // 4)
    order = [lengths[row] for batch in rows for row in batch]
    assert order == sorted(lengths)
    for batch, inputs in zip(rows, fed, strict=True):
        width = max(3, *(lengths[row] for row in batch))  # at least what the model takes
        assert inputs["ids"].tolist() == [values[row] + [0] * (width - lengths[row]) for row in batch]
        assert inputs["mask"].tolist() == [values[row] + [-1] * (width - lengths[row]) for row in batch]


def test_an_input_that_is_not_padded_keeps_its_shape_to_itself() -> None:
    model = signature(
        TensorSpec("x", "int64", ("batch", "a")),
        TensorSpec("p", "int64", ("batch", "b"), pad=0),
    )
    rows, fed = planned(model, x=[[1], [2, 2], [3]], p=[[1, 1], [2], [3]])
    assert rows == [[2, 0], [1]]
    assert fed[0]["p"].tolist() == [[3, 0], [1, 1]]


def test_batch_axis_is_put_where_the_model_wants_it() -> None:
    model = signature(TensorSpec("x", "int64", (2, "batch")))
    _, fed = planned(model, x=[[1, 2], [3, 4], [5, 6]])
    assert fed[0]["x"].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert fed[0]["x"].flags.c_contiguous


def test_rows_share_a_batch_only_with_equal_values_of_inputs_without_a_batch_axis() -> None:
    model = signature(
        TensorSpec("x", "int64", ("batch",)), TensorSpec("scale", "float64", ()), TensorSpec("word", "object", (1,))
    )
    rows, fed = planned(model, x=[1, 2, 3, 4], scale=[0.5, 0.25, 0.5, 0.5], word=[["a"], ["a"], ["a"], ["b"]])
    assert sorted(rows) == [[0, 2], [1], [3]]
    assert fed[rows.index([0, 2])]["scale"].shape == ()
    assert fed[rows.index([0, 2])]["scale"] == 0.5
    assert fed[rows.index([3])]["word"].tolist() == ["b"]


def test_model_that_is_not_batchable_runs_row_by_row() -> None:
    model = Signature(
        (TensorSpec("x", "int64", ("batch", 2)),), (TensorSpec("y", "int64", (1,)),), {"batch": Dim(1, 1, 4)}
    )
    rows, fed = planned(model, x=[[1, 1], [2, 2]])
    assert rows == [[0], [1]]
    assert fed[1]["x"].tolist() == [[2, 2]]


def test_batch_below_the_least_repeats_its_last_row() -> None:
    model = signature(TensorSpec("x", "int64", ("batch",)), batch=Dim(3, 4, 4))
    rows, fed = planned(model, x=[1, 2, 3, 4, 5])
    assert rows == [[0, 1, 2, 3], [4]]
    assert fed[1]["x"].tolist() == [5, 5, 5]


def test_inputs_that_disagree_on_an_axis_are_refused_with_the_row() -> None:
    model = signature(
        TensorSpec("ids", "int64", ("batch", "sequence"), pad=0),
        TensorSpec("mask", "int64", ("batch", "sequence"), pad=0),
    )
    columns = columns_of(model, ids=[[1], [1, 2]], mask=[[1], [1]])
    with pytest.raises(InputError, match=r"row 101: `sequence` is 1 in column 'mask', but 2 in another input's"):
        Slice(columns, model, 100)
