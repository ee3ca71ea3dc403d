"""Raw columns of a slice -> the columns of the model's inputs, by the version's preprocessing."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import InputError, SourceError
from optimize.manifest import Signature, TensorSpec
from serve.scoring.columns import Column, Indices, row_shape

ROWS_PER_CALL = 32
"""Rows that are preprocessed together, as export does it."""


def prepared(
    columns: Mapping[str, Column],
    raw: Sequence[TensorSpec],
    signature: Signature,
    preprocess: Callable[[Arrays], Arrays],
    first_row: int,
) -> dict[str, Column]:
    """The model's inputs for the rows of a slice, of which `first_row` is the first.

    Where rows may be padded, each is preprocessed alone: it then keeps its own size, and rows of similar size can share a batch.

    Raises:
        InputError: A row does not have the raw columns' shape, or the preprocessing fails on it.
    """
    for spec in raw:
        _check_shapes(columns[spec.name], spec, first_row)
    total = len(next(iter(columns.values())).shapes)
    step = 1 if any(spec.pad is not None for spec in signature.inputs) else ROWS_PER_CALL
    found: dict[str, list[Array]] = {spec.name: [] for spec in signature.inputs}
    for start in range(0, total, step):
        rows = np.arange(start, min(start + step, total))
        given = {spec.name: columns[spec.name].stack(rows, columns[spec.name].shape or (), None) for spec in raw}
        place = f"rows {first_row + start} to {first_row + int(rows[-1])}"
        for name, values in _made(preprocess, given, signature, len(rows), place).items():
            found[name].extend(values)
    return {spec.name: _column(found[spec.name], spec) for spec in signature.inputs}


def _check_shapes(column: Column, spec: TensorSpec, first_row: int) -> None:
    other = np.flatnonzero((column.shapes != np.asarray(row_shape(spec), np.int64)).any(axis=1))
    if len(other):
        raise InputError(
            f"row {first_row + other[0]}: column {spec.name!r} has shape {column.shapes[other[0]].tolist()}; wanted"
            f" {list(row_shape(spec))}"
        )


def _made(
    preprocess: Callable[[Arrays], Arrays], given: Arrays, signature: Signature, rows: int, place: str
) -> dict[str, list[Array]]:
    """For each input, one array per row; an input without a batch axis is the same in all rows."""
    try:
        inputs = preprocess(given)
    except SourceError as error:
        raise InputError(f"{place}: {error}") from error
    if inputs.keys() != {spec.name for spec in signature.inputs}:
        raise InputError(
            f"{place}: preprocess gave {sorted(inputs)}; wanted {[spec.name for spec in signature.inputs]}"
        )
    made = {}
    for spec in signature.inputs:
        axis = spec.batch_axis
        values = [inputs[spec.name]] * rows if axis is None else list(np.moveaxis(inputs[spec.name], axis, 0))
        if len(values) != rows:
            raise InputError(f"{place}: preprocess made {len(values)} rows of {spec.name!r}; wanted {rows}")
        made[spec.name] = values
    return made


def _column(values: list[Array], spec: TensorSpec) -> Column:
    rank = len(row_shape(spec))
    shapes: Indices = np.array([value.shape for value in values], np.int64).reshape(len(values), rank)
    starts = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))]).astype(np.int64)
    flat = np.concatenate([value.ravel() for value in values]) if values else np.empty(0, spec.dtype)
    same = len(values) > 0 and bool((shapes == shapes[0]).all())
    return Column(flat, shapes, starts, tuple(shapes[0].tolist()) if same else None)
