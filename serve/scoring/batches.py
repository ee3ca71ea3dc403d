"""Which rows of a slice share an execution, and its input arrays.

Rows may share one if their tensors have equal shapes, or shapes that a declared `pad` makes equal, and if their inputs without a
batch axis are equal. A model that is not batchable runs row by row.
"""

from collections.abc import Mapping

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.budgets import BATCH
from optimize.errors import InputError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.columns import Column, Indices, row_shape


class Slice:
    """The inputs of consecutive rows of the file, from row `first_row` on.

    Raises:
        InputError: Two inputs of a row disagree on an axis.
    """

    def __init__(self, columns: Mapping[str, Column], signature: Signature, first_row: int) -> None:
        self._columns = columns
        self._signature = signature
        self.rows = len(next(iter(columns.values())).shapes)
        self._sizes = _axis_sizes(columns, signature, first_row)
        padded = {axis for spec in signature.inputs if spec.pad is not None for axis in row_shape(spec)}
        self._padded = [axis for axis in self._sizes if axis in padded]
        self._smallest = smallest(signature)

    def batches(self, largest: int) -> list[Indices]:
        """Cut the rows into batches of at most `largest`, as positions in the slice.

        Rows that may be padded are ordered by size first, so that little is padded.
        """
        if largest == 1:
            return list(np.arange(self.rows, dtype=np.int64).reshape(self.rows, 1))
        groups = self._groups()
        order = np.lexsort((*(self._sizes[axis] for axis in self._padded), groups))
        borders = np.flatnonzero(np.diff(groups[order])) + 1
        return [
            group[start : start + largest]
            for group in np.split(order, borders)
            for start in range(0, len(group), largest)
        ]

    def feed(self, rows: Indices) -> Arrays:
        """The inputs of one execution.

        A batch with fewer rows than the model takes repeats its last row; padded axes get the length of the longest row, or the
        shortest that the model takes.
        """
        missing = self._smallest - len(rows)
        fed = np.append(rows, np.repeat(rows[-1:], missing)) if missing > 0 else rows
        targets = {}
        for axis in self._padded:
            least = self._signature.dims[axis].min if axis in self._signature.dims else 0
            targets[axis] = max(int(self._sizes[axis][rows].max()), least)
        return {spec.name: _tensor(self._columns[spec.name], spec, fed, targets) for spec in self._signature.inputs}

    def padded_sizes(self, rows: Indices) -> dict[str, Indices]:
        """The size of each row, before padding, on the axes that are padded."""
        return {axis: self._sizes[axis][rows] for axis in self._padded}

    def _groups(self) -> Indices:
        """A number for each row; rows with the same number may share an execution."""
        keys: list[Indices] = []
        for spec in self._signature.inputs:
            column = self._columns[spec.name]
            if spec.pad is None and column.shape is None:
                keys.extend(column.shapes.T)
            if spec.batch_axis is None:
                keys.append(_contents(column, self.rows))
        if not keys:
            return np.zeros(self.rows, np.int64)
        return np.unique(np.column_stack(keys), axis=0, return_inverse=True)[1].reshape(self.rows)


def smallest(signature: Signature) -> int:
    """The fewest rows that one execution takes."""
    return signature.dims[BATCH].min if signature.batchable and BATCH in signature.dims else 1


def _axis_sizes(columns: Mapping[str, Column], signature: Signature, first_row: int) -> dict[str, Indices]:
    """The size of every named axis in each row."""
    sizes: dict[str, Indices] = {}
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


def _tensor(column: Column, spec: TensorSpec, rows: Indices, targets: Mapping[str, int]) -> Array:
    first = rows[0]
    shape = tuple(
        targets[axis] if spec.pad is not None and isinstance(axis, str) else int(column.shapes[first, position])
        for position, axis in enumerate(row_shape(spec))
    )
    if spec.batch_axis is None:
        return column.stack(rows[:1], shape, spec.pad).reshape(shape)
    stacked = column.stack(rows, shape, spec.pad)
    return stacked if spec.batch_axis == 0 else np.ascontiguousarray(np.moveaxis(stacked, 0, spec.batch_axis))


def _contents(column: Column, rows: int) -> Indices:
    """A number for each row's value: the same for equal bytes."""
    seen: dict[object, int] = {}
    numbers = np.empty(rows, np.int64)
    for row in range(rows):
        flat = column.flat(row)
        value = tuple(flat) if flat.dtype == object else flat.tobytes()
        numbers[row] = seen.setdefault(value, len(seen))
    return numbers
