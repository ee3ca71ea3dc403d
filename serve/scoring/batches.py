"""Which rows of a slice share an execution, and the arrays that it is fed.

Rows share one when their tensors have equal shapes, or shapes that a declared `pad` makes equal, and when their inputs without a
batch axis are equal. A model that is not batchable runs row by row.
"""

from collections.abc import Mapping

import numpy as np

from optimize.budgets import BATCH
from optimize.errors import InputError
from optimize.manifest import Signature, TensorSpec
from optimize.runtime.session import Array, Arrays
from serve.scoring.columns import Column, Indices, row_shape

Columns = Mapping[str, Column]
Sizes = dict[str, Indices]


def axis_sizes(columns: Columns, signature: Signature, first_row: int) -> Sizes:
    """The size of every named axis in each row.

    Raises:
        InputError: Two inputs of a row disagree on an axis.
    """
    sizes: Sizes = {}
    for spec in signature.inputs:
        for position, axis in enumerate(row_shape(spec)):
            if isinstance(axis, int):
                continue
            found = columns[spec.name].shapes[:, position]
            differing = np.flatnonzero(sizes.setdefault(axis, found) != found)
            if len(differing):
                row = differing[0]
                raise InputError(
                    f"row {first_row + row}: `{axis}` is {found[row]} in column {spec.name!r}, but {sizes[axis][row]} in"
                    " another input's; wanted one size in each row"
                )
    return sizes


def batches(columns: Columns, sizes: Sizes, signature: Signature, rows: int) -> list[Indices]:
    """Cut the rows 0 .. rows - 1 into batches of at most `signature.max_batch`.

    Rows whose padding may differ are ordered by size first, so that little is padded.
    """
    if not signature.batchable:
        return list(np.arange(rows, dtype=np.int64).reshape(rows, 1))
    groups = _groups(columns, signature, rows)
    padded = [sizes[axis] for axis in sorted(padded_axes(signature))]
    order = np.lexsort((*padded, groups))
    borders = np.flatnonzero(np.diff(groups[order])) + 1
    largest = signature.max_batch
    return [
        group[start : start + largest] for group in np.split(order, borders) for start in range(0, len(group), largest)
    ]


def feed(columns: Columns, sizes: Sizes, rows: Indices, signature: Signature) -> Arrays:
    """The inputs of one execution.

    A batch smaller than the least that the model takes repeats its last row; padded axes are lengthened to the batch's longest row.
    """
    missing = smallest(signature) - len(rows)
    fed = np.append(rows, np.repeat(rows[-1:], missing)) if missing > 0 else rows
    targets = padded_sizes(sizes, rows, signature)
    return {spec.name: _tensor(columns[spec.name], spec, fed, targets) for spec in signature.inputs}


def smallest(signature: Signature) -> int:
    """The fewest rows that one execution takes."""
    return signature.dims[BATCH].min if signature.batchable and BATCH in signature.dims else 1


def padded_sizes(sizes: Sizes, rows: Indices, signature: Signature) -> dict[str, int]:
    """What the padded axes of a batch are lengthened to."""
    return {
        axis: max(int(sizes[axis][rows].max()), signature.dims[axis].min if axis in signature.dims else 0)
        for axis in padded_axes(signature)
    }


def padded_axes(signature: Signature) -> frozenset[str]:
    """Named axes along which rows of different size may share a batch."""
    return frozenset(
        axis for spec in signature.inputs if spec.pad is not None for axis in row_shape(spec) if isinstance(axis, str)
    )


def _tensor(column: Column, spec: TensorSpec, rows: Indices, targets: Mapping[str, int]) -> Array:
    first = rows[0]
    shape = [
        targets[axis] if spec.pad is not None and isinstance(axis, str) else int(column.shapes[first, position])
        for position, axis in enumerate(row_shape(spec))
    ]
    if spec.batch_axis is None:
        return column.stack(rows[:1], shape, spec.pad).reshape(shape)
    stacked = column.stack(rows, shape, spec.pad)
    return np.ascontiguousarray(np.moveaxis(stacked, 0, spec.batch_axis))


def _groups(columns: Columns, signature: Signature, rows: int) -> Indices:
    """A number for each row; rows of equal number may share an execution."""
    keys: list[Indices] = []
    for spec in signature.inputs:
        column = columns[spec.name]
        if spec.pad is None:
            keys.extend(column.shapes.T)
        if spec.batch_axis is None:
            keys.append(_contents(column, rows))
    differing = [key for key in keys if bool((key != key[:1]).any())]
    if not differing:
        return np.zeros(rows, np.int64)
    return np.unique(np.column_stack(differing), axis=0, return_inverse=True)[1].reshape(rows)


def _contents(column: Column, rows: int) -> Indices:
    """A number for each row's value: equal for bytes that are equal."""
    seen: dict[object, int] = {}
    numbers = np.empty(rows, np.int64)
    for row in range(rows):
        flat = column.flat(row)
        value = tuple(flat) if flat.dtype == object else flat.tobytes()
        numbers[row] = seen.setdefault(value, len(seen))
    return numbers
