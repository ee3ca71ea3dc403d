"""The model's answers for the rows of a slice, collected batch by batch, as Parquet columns."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from optimize.arrays import Array, Arrays
from optimize.errors import ArtifactError, UserError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.batches import smallest
from serve.scoring.columns import Indices, arrow_type, row_shape

ROW = "row"
"""The column that numbers the rows of the input, from 0."""


def output_schema(signature: Signature) -> pa.Schema:
    """Columns of every part: the row number, then one column per output.

    A fixed axis is a fixed-size list, a named one a list of any length.

    Raises:
        UserError: An output cannot be a column.
    """
    fields = [pa.field(ROW, pa.int64(), nullable=False)]
    for spec in signature.outputs:
        if spec.name == ROW:
            raise UserError(
                f"output {ROW!r} has the name of the column of row numbers; rename it in the model, and export"
            )
        kind = arrow_type(spec.dtype)
        if kind is None:
            raise UserError(
                f"output {spec.name!r} is {spec.dtype}, which no Parquet column can store; cast it in the model"
            )
        for axis in reversed(row_shape(spec)):
            kind = pa.list_(kind, axis) if isinstance(axis, int) else pa.list_(kind)
        fields.append(pa.field(spec.name, kind))
    return pa.schema(fields)


class Answers:
    """The outputs of a slice's rows, filled in any order."""

    def __init__(self, signature: Signature, rows: int) -> None:
        self._signature = signature
        self._rows = rows
        self._fixed: Arrays = {}
        self._ragged: dict[str, list[Array]] = {}
        for spec in signature.outputs:
            shape = [axis for axis in row_shape(spec) if isinstance(axis, int)]
            if len(shape) == len(row_shape(spec)):
                self._fixed[spec.name] = np.empty((rows, *shape), spec.dtype)
            else:
                self._ragged[spec.name] = [np.empty(0)] * rows

    def add(self, rows: Indices, outputs: Mapping[str, Array], own_sizes: Mapping[str, Indices]) -> None:
        """Keep the answers to one execution.

        Args:
            rows: Positions in the slice, in the order they were fed; surplus answers, to rows repeated behind them, are dropped.
            outputs: Arrays by output name.
            own_sizes: Size of each of `rows` on the axes that padding may have lengthened, to which its answers are cut.
        """
        fed = max(len(rows), smallest(self._signature))
        for spec in self._signature.outputs:
            stacked = by_row(outputs[spec.name], spec, fed)
            if spec.name in self._fixed:
                self._fixed[spec.name][rows] = stacked[: len(rows)]
                continue
            for position, row in enumerate(rows):
                self._ragged[spec.name][row] = stacked[position][_own_part(spec, own_sizes, position)]

    def table(self, first_row: int) -> pa.Table:
        """All rows, numbered from `first_row`."""
        schema = output_schema(self._signature)
        arrays = [pa.array(np.arange(first_row, first_row + self._rows, dtype=np.int64))]
        for spec in self._signature.outputs:
            if spec.name in self._fixed:
                column = self._fixed[spec.name]
                arrays.append(_nested(column.reshape(-1), np.tile(column.shape[1:], (self._rows, 1)), spec))
            else:
                values = self._ragged[spec.name]
                shapes = np.array([value.shape for value in values], np.int64).reshape(self._rows, len(row_shape(spec)))
                flat = np.concatenate([np.empty(0, spec.dtype), *(value.reshape(-1) for value in values)])
                arrays.append(_nested(flat, shapes, spec))
        return pa.Table.from_arrays(arrays, schema=schema)


def by_row(array: Array, spec: TensorSpec, rows: int) -> Array:
    """The output of an execution of `rows` rows, with its rows on axis 0; without a batch axis the whole of it is one row.

    Raises:
        ArtifactError: Its dtype or shape is not what the manifest says.
    """
    axis, declared = spec.batch_axis, row_shape(spec)
    stacked = array[np.newaxis]
    if axis is not None and array.ndim == len(spec.shape):
        stacked = array if axis == 0 else np.moveaxis(array, axis, 0)
    fits = stacked.ndim == len(declared) + 1 and all(
        isinstance(wanted, str) or wanted == size for wanted, size in zip((rows, *declared), stacked.shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(spec.dtype):
        raise ArtifactError(
            f"output {spec.name!r} came as {array.dtype}{list(array.shape)} for {rows} rows; its manifest says {spec.dtype}"
            f"[{', '.join(map(str, spec.shape))}]: export the model again"
        )
    return stacked


def _own_part(spec: TensorSpec, own_sizes: Mapping[str, Indices], position: int) -> tuple[slice, ...]:
    return tuple(
        slice(int(own_sizes[axis][position])) if isinstance(axis, str) and axis in own_sizes else slice(None)
        for axis in row_shape(spec)
    )


def _nested(flat: Array, shapes: Indices, spec: TensorSpec) -> pa.Array:
    """Values and the shape of each row [rows, rank] -> an array of lists nested once per axis."""
    array = pa.array(flat, type=arrow_type(spec.dtype))
    for position, axis in reversed(list(enumerate(row_shape(spec)))):
        if isinstance(axis, int):
            array = pa.FixedSizeListArray.from_arrays(array, axis)
            continue
        lists = shapes[:, :position].prod(axis=1, dtype=np.int64)
        ends = np.cumsum(np.repeat(shapes[:, position], lists))
        array = pa.ListArray.from_arrays(pa.array(np.append(0, ends), type=pa.int32()), array)
    return array
