from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.errors import InputError, UserError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.columns import Column, check_schema, decode


def spec(dtype: str, *shape: int | str, pad: float | None = None) -> TensorSpec:
    return TensorSpec("x", dtype, shape, pad)


def rows_of(column: Column) -> list[Any]:
    return [column.flat(row).reshape(column.shapes[row]).tolist() for row in range(len(column.shapes))]


def schema_problem(kind: pa.DataType, wanted: TensorSpec) -> str:
    with pytest.raises(UserError) as caught:
        check_schema(pa.schema([("x", kind)]), Signature((wanted,), ()), "in.parquet")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float16", "float32", "float64", "bool"])
def test_scalars_keep_their_type(dtype: str) -> None:
    values = np.array([0, 1, 1]).astype(dtype)
    column = decode(pa.array(values), spec(dtype, "batch"), 0)
    assert column.values.dtype == dtype
    assert rows_of(column) == values.tolist()


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=6),
    st.sampled_from(["list", "large", "sliced"]),
)
def test_ragged_tensors_keep_the_shape_of_each_row(shapes: list[tuple[int, int]], layout: str) -> None:
    values = [np.arange(a * b).reshape(a, b).tolist() for a, b in shapes]
    kind = pa.large_list(pa.large_list(pa.int64())) if layout == "large" else pa.list_(pa.list_(pa.int64()))
    array = pa.array([[[7, 7]], *values, [[8]]], kind).slice(1, len(values))
    if layout != "sliced":
        array = pa.array(values, kind)
    assert rows_of(decode(array, spec("int64", "batch", "a", "b"), 0)) == values


@pytest.mark.parametrize("kind", [pa.list_(pa.list_(pa.float32(), 3), 2), pa.list_(pa.list_(pa.float32()))])
def test_fixed_shapes_come_as_fixed_or_free_lists(kind: pa.DataType) -> None:
    values = np.arange(24.0).reshape(4, 2, 3)
    array = pa.array([None, *values.tolist()], kind).slice(1)
    assert rows_of(decode(array, spec("float32", "batch", 2, 3), 0)) == values.tolist()


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 6), pa.large_list(pa.float32())])
def test_tensor_of_fixed_shape_may_come_as_one_flat_list(kind: pa.DataType) -> None:
    wanted = spec("float32", "batch", 2, 3)
    check_schema(pa.schema([("x", kind)]), Signature((wanted,), ()), "in.parquet")
    values = np.arange(24.0).reshape(4, 2, 3)
    assert rows_of(decode(pa.array(values.reshape(4, 6).tolist(), kind), wanted, 0)) == values.tolist()


def test_flat_list_of_another_length_is_refused() -> None:
    wanted = spec("float32", "batch", 2, 3)
    with pytest.raises(InputError, match=r"has another number of values than \[2, 3\] takes in row 8;"):
        decode(pa.array([[0.0] * 6, [0.0] * 5]), wanted, 7)
    assert "wanted float[2, 3] in each row" in schema_problem(pa.list_(pa.float32(), 5), wanted)
    assert "lists nested 2 deep" in schema_problem(pa.list_(pa.float32()), spec("float32", "batch", 2, "n"))


def test_strings_come_plain_or_from_a_dictionary() -> None:
    plain = pa.array(["a", "b", "a"])
    for array in (plain, plain.cast(pa.large_string()), plain.dictionary_encode()):
        column = decode(array, spec("object", "batch"), 0)
        assert column.values.dtype == object
        assert rows_of(column) == ["a", "b", "a"]


def test_float64_is_narrowed_to_float32_unless_a_number_is_beyond_it() -> None:
    column = decode(pa.array([0.1, float("inf"), float("nan")]), spec("float32", "batch"), 0)
    assert column.values.dtype == np.float32
    assert column.values[0] == np.float32(0.1)
    with pytest.raises(InputError, match=r"column 'x' has a number beyond the range of float32 in row 11;"):
        decode(pa.array([0.1, 1e39]), spec("float32", "batch"), 10)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([[[1]], None, [[1]], None], pa.list_(pa.list_(pa.int64()))),
        ([[[1]], [[1], None], [[1]], [None]], pa.list_(pa.list_(pa.int64()))),
        ([[[1]], [[None]], [[1]], [[None]]], pa.list_(pa.list_(pa.int64()))),
        ([[[1]], [[None]], [[1]], None], pa.list_(pa.list_(pa.int64(), 1), 1)),
    ],
)
def test_nulls_at_any_depth_are_refused_with_their_rows(values: Sequence[Any], kind: pa.DataType) -> None:
    expected = r"row 103;" if kind == pa.list_(pa.list_(pa.int64(), 1), 1) else r"rows 101, 103;"
    with pytest.raises(InputError, match=rf"column 'x' has a null in {expected}"):
        decode(pa.array(values, kind), spec("int64", "batch", "a", "b"), 100)


def test_many_bad_rows_are_counted() -> None:
    with pytest.raises(InputError, match=r"in rows 0, 1, 2, 3, 4 and 95 more;"):
        decode(pa.nulls(100, pa.int64()), spec("int64", "batch"), 0)


def test_lists_that_form_no_rectangle_are_refused() -> None:
    array = pa.array([[[1, 2], [3, 4]], [[1, 2], [3]]])
    with pytest.raises(InputError, match=r"lists of different lengths on one axis in row 1;"):
        decode(array, spec("int64", "batch", "a", "b"), 0)


def test_stack_takes_any_rows() -> None:
    column = decode(pa.array([[0, 0], [1, 1], [2, 2]]), spec("int64", "batch", "a"), 0)
    assert column.stack(np.array([1, 2]), (2,), None).tolist() == [[1, 1], [2, 2]]
    assert column.stack(np.array([2, 0, 0]), (2,), None).tolist() == [[2, 2], [0, 0], [0, 0]]
    four = decode(pa.array([0, 1, 2, 3]), spec("int64", "batch"), 0)
    assert four.stack(np.array([0, 2, 1, 3]), (), None).tolist() == [0, 2, 1, 3]


def test_stack_pads_shorter_rows() -> None:
    column = decode(pa.array([[[1, 2]], [[3], [4]], []]), spec("int64", "batch", "a", "b"), 0)
    stacked = column.stack(np.array([0, 1, 2]), (2, 2), 9)
    assert stacked.tolist() == [[[1, 2], [9, 9]], [[3, 9], [4, 9]], [[9, 9], [9, 9]]]
    assert stacked.dtype == np.int64


def test_schema_that_fits_is_accepted_whatever_else_the_file_holds() -> None:
    schema = pa.schema(
        [("id", pa.string()), ("x", pa.list_(pa.float64())), ("t", pa.dictionary(pa.int8(), pa.string()))]
    )
    inputs = (spec("float32", "batch", 4), TensorSpec("t", "object", ("batch",)))
    check_schema(schema, Signature(inputs, ()), "in.parquet")


def test_missing_and_doubled_columns_are_named() -> None:
    inputs = (spec("int64", "batch"), TensorSpec("mask", "int64", ("batch",)))
    with pytest.raises(
        UserError, match=r"in.parquet: has no column 'mask' \(columns: x, id\); the model wants x, mask"
    ):
        check_schema(pa.schema([("x", pa.int64()), ("id", pa.int64())]), Signature(inputs, ()), "in.parquet")
    with pytest.raises(UserError, match=r"more than one column 'x'"):
        check_schema(pa.schema([("x", pa.int64()), ("x", pa.int64())]), Signature(inputs[:1], ()), "in.parquet")


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (pa.int64(), "int32"),
        (pa.int32(), "int64"),
        (pa.float32(), "float64"),
        (pa.float64(), "float16"),
        (pa.int64(), "float32"),
        (pa.string(), "int64"),
        (pa.binary(), "object"),
        (pa.timestamp("us"), "int64"),
    ],
)
def test_other_types_are_refused(found: pa.DataType, wanted: str) -> None:
    message = schema_problem(found, spec(wanted, "batch"))
    assert message.startswith(f"in.parquet: column 'x' is {found}; wanted ")
    assert "cast the column" in message


def test_depth_and_fixed_sizes_are_checked() -> None:
    assert "wanted float[4] in each row, as lists nested 1 deep" in schema_problem(
        pa.float32(), spec("float32", "batch", 4)
    )
    assert "wanted float[4] in each row" in schema_problem(pa.list_(pa.float32(), 3), spec("float32", "batch", 4))
    assert "wanted float" in schema_problem(pa.list_(pa.float32()), spec("float32", "batch"))
    assert "no Parquet column can store" in schema_problem(pa.float32(), spec("bfloat16", "batch"))
