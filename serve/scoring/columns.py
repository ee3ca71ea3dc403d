"""Parquet columns -> the tensors of a slice of rows.

Each value of a column is one row's tensor: the input's declared shape without its batch axis, as lists nested once per axis, or a
plain value where no axis is left. A tensor of fixed shape may also come as one flat list. Types must be the model's; only float64
is converted to float32, since Parquet written from Python numbers has float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from optimize.arrays import Array
from optimize.budgets import BATCH
from optimize.errors import InputError, UserError
from optimize.manifest import Signature, TensorSpec

Indices = npt.NDArray[np.int64]

_ARROW_TYPES = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "object": pa.string(),
}
_ROWS_NAMED = 5


@dataclass(frozen=True, slots=True)
class Column:
    """One input over the rows of a slice.

    Row `i` is `values[starts[i] : starts[i + 1]]` in the shape `shapes[i]`; `values` is one-dimensional, `shapes` is [rows, rank].
    `shape` is the shape of all rows, where they have one.
    """

    values: Array
    shapes: Indices
    starts: Indices
    shape: tuple[int, ...] | None

    def stack(self, rows: Indices, shape: tuple[int, ...], pad: float | None) -> Array:
        """The given rows as one array [rows, *shape]; a row smaller than `shape` is filled with `pad`."""
        if self.shape != shape and bool((self.shapes[rows] != np.asarray(shape, np.int64)).any()):
            return self._padded(rows, shape, pad)
        first, last = int(rows[0]), int(rows[-1])
        if last - first == len(rows) - 1 and bool((rows[1:] > rows[:-1]).all()):
            return self.values[self.starts[first] : self.starts[last + 1]].reshape(len(rows), *shape)
        return np.stack([self.flat(row) for row in rows]).reshape(len(rows), *shape)

    def flat(self, row: int) -> Array:
        """The values of one row."""
        return self.values[self.starts[row] : self.starts[row + 1]]

    def _padded(self, rows: Indices, shape: tuple[int, ...], pad: float | None) -> Array:
        stacked = np.full((len(rows), *shape), pad, self.values.dtype)
        for position, row in enumerate(rows):
            own = self.shapes[row]
            stacked[position][tuple(slice(size) for size in own)] = self.flat(row).reshape(own)
        return stacked


def row_shape(spec: TensorSpec) -> tuple[int | str, ...]:
    """The declared shape of one row: without the batch axis."""
    return tuple(axis for axis in spec.shape if axis != BATCH)


def arrow_type(dtype: str) -> Any:
    """The Arrow type that holds a numpy dtype, or None where there is none (bfloat16)."""
    return _ARROW_TYPES.get(dtype)


def check_schema(schema: pa.Schema, signature: Signature, origin: str, raw: Sequence[str] = ()) -> None:
    """Check a file's columns against the model's inputs; columns that no input names are ignored.

    `raw` are the columns that a file may have instead, before preprocessing.

    Raises:
        UserError: A column is missing, appears twice, or has another type or depth.
    """
    missing = [spec.name for spec in signature.inputs if spec.name not in schema.names]
    if missing:
        raise UserError(
            f"{origin}: has no column {', '.join(map(repr, missing))} (columns: {', '.join(schema.names) or 'none'}); the model"
            f" wants {', '.join(spec.name for spec in signature.inputs)}"
            f"{', or ' + ', '.join(raw) + ' before preprocessing' if raw else ''}: rename or add it"
        )
    for spec in signature.inputs:
        if len(schema.get_all_field_indices(spec.name)) > 1:
            raise UserError(f"{origin}: has more than one column {spec.name!r}; keep the one to score")
        problem = _type_problem(schema.field(spec.name).type, spec)
        if problem is not None:
            raise UserError(f"{origin}: column {spec.name!r} is {schema.field(spec.name).type}; {problem}")


def _type_problem(kind: pa.DataType, spec: TensorSpec) -> str | None:
    """The type that the column should have instead, or None where it fits."""
    shape = row_shape(spec)
    wanted = arrow_type(spec.dtype)
    if wanted is None:
        return f"the model wants {spec.dtype}, which no Parquet column can store"
    described = f"wanted {wanted}" + (f"{list(shape)} in each row, as lists nested {len(shape)} deep" if shape else "")
    flat_shape = _flat_shape(kind, spec)
    for axis in shape if flat_shape is None else (prod(flat_shape),):
        if not _is_list(kind):
            return described
        if pa.types.is_fixed_size_list(kind) and isinstance(axis, int) and kind.list_size != axis:
            return described
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if kind == wanted or (pa.types.is_large_string(kind) and spec.dtype == "object") or _is_narrowed(kind, spec):
        return None
    return f"{described}; cast the column, since a cast here could lose values silently"


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_narrowed(kind: pa.DataType, spec: TensorSpec) -> bool:
    return kind == pa.float64() and spec.dtype == "float32"


def decode(array: pa.Array, spec: TensorSpec, first_row: int) -> Column:
    """Turn a slice of a column, checked by :func:`check_schema`, into the values and shapes of its rows.

    `first_row` is the slice's place in the file, for the row numbers in messages.

    Raises:
        InputError: A row has a null, lists that form no rectangle, or a number beyond float32.
    """
    flat_shape = _flat_shape(array.type, spec)
    rank = len(row_shape(spec)) if flat_shape is None else 1
    shapes = np.empty((len(array), rank), np.int64)
    counts = np.ones(len(array), np.int64)  # elements of each row, at the level that is reached
    _refuse(_null_rows(array, counts), spec, first_row, "has a null")
    for axis in range(rank):
        lengths = _lengths(array)
        starts = _starts(counts)
        shapes[:, axis] = np.append(lengths, 0)[np.minimum(starts[:-1], len(lengths))] * (counts > 0)
        uneven = lengths != np.repeat(shapes[:, axis], counts)
        _refuse(_owners(uneven, starts), spec, first_row, "has lists of different lengths on one axis")
        counts = counts * shapes[:, axis]
        array = array.flatten()
        _refuse(_null_rows(array, counts), spec, first_row, "has a null")
    if flat_shape is not None:
        other = np.flatnonzero(counts != prod(flat_shape))
        _refuse(other, spec, first_row, f"has another number of values than {list(flat_shape)} takes")
        shapes = np.tile(np.asarray(flat_shape, np.int64), (len(counts), 1))
    values = _values(array)
    if _is_narrowed(array.type, spec):
        values = _narrowed(values, counts, spec, first_row)
    same = len(shapes) > 0 and bool((shapes == shapes[0]).all())
    return Column(values, shapes, _starts(counts), tuple(shapes[0].tolist()) if same else None)


def _flat_shape(kind: pa.DataType, spec: TensorSpec) -> tuple[int, ...] | None:
    """The fixed shape of a tensor that comes as one flat list, in row-major order; None where it comes nested."""
    shape = row_shape(spec)
    fixed = tuple(axis for axis in shape if isinstance(axis, int))
    is_flat = _is_list(kind) and not _is_list(kind.value_type)
    return fixed if is_flat and len(shape) > 1 and len(fixed) == len(shape) else None


def _lengths(array: pa.Array) -> Indices:
    if pa.types.is_fixed_size_list(array.type):
        return np.full(len(array), array.type.list_size, np.int64)
    return np.asarray(array.value_lengths().to_numpy(zero_copy_only=False), np.int64)


def _starts(counts: Indices) -> Indices:
    starts = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def _null_rows(array: pa.Array, counts: Indices) -> Indices:
    if array.null_count == 0:
        return np.empty(0, np.int64)
    return _owners(array.is_null().to_numpy(zero_copy_only=False), _starts(counts))


def _owners(marked: npt.NDArray[np.bool_], starts: Indices) -> Indices:
    """The rows that own the marked elements."""
    return np.unique(np.searchsorted(starts, np.flatnonzero(marked), side="right") - 1)


def _values(array: pa.Array) -> Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    values: Array = array.to_numpy(zero_copy_only=False)
    return values


def _narrowed(values: Array, counts: Indices, spec: TensorSpec, first_row: int) -> Array:
    with np.errstate(over="ignore"):
        narrowed = values.astype(np.float32)
    beyond = np.isinf(narrowed) & np.isfinite(values)
    _refuse(_owners(beyond, _starts(counts)), spec, first_row, "has a number beyond the range of float32")
    return narrowed


def _refuse(rows: Indices, spec: TensorSpec, first_row: int, found: str) -> None:
    if len(rows):
        raise InputError(
            f"column {spec.name!r} {found} in {_named(rows + first_row)}; every row needs a whole tensor of the model's:"
            " fix or drop these rows"
        )


def _named(rows: Indices) -> str:
    """Row numbers for a message: the first few, and how many more there are."""
    listed = ", ".join(str(row) for row in rows[:_ROWS_NAMED])
    more = f" and {len(rows) - _ROWS_NAMED} more" if len(rows) > _ROWS_NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {listed}{more}"
