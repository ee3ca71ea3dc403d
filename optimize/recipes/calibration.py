"""Check that samples can calibrate a model: enough of them, and not all the same."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx

from optimize.arrays import Array
from optimize.budgets import BATCH
from optimize.errors import CandidateError

MIN_SAMPLES = 100
"""Fewer samples leave a tensor's range to chance."""

Batch = dict[str, Array]


def checked_batches(graph: onnx.GraphProto, batches: Iterable[Mapping[str, Array]]) -> list[Batch]:
    """The batches as a list, after checks that they can calibrate the model.

    Raises:
        CandidateError: Too few samples, samples that are all the same, or values that are not finite.
    """
    names = [value.name for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    kept = [{name: np.asarray(batch[name]) for name in names} for batch in batches]
    axes = batch_axes(graph)
    samples = sum(_rows(batch, axes) for batch in kept)
    if samples < MIN_SAMPLES:
        raise CandidateError(f"calibration has {samples} samples; wanted at least {MIN_SAMPLES}")
    for batch in kept:
        for name, array in batch.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise CandidateError(f"calibration holds NaN or infinity in input {name!r}; wanted real samples")
    digests = (_digest(row) for batch in kept for row in _split(batch, axes))
    first = next(digests)
    if all(digest == first for digest in digests):
        raise CandidateError(f"all {samples} calibration samples are the same; wanted real samples")
    return kept


def first_batches(batches: Iterable[Batch], axes: Mapping[str, int], rows: int) -> Iterator[Batch]:
    """Whole batches until they hold `rows` rows."""
    seen = 0
    for batch in batches:
        if seen >= rows:
            return
        yield batch
        seen += _rows(batch, axes)


def batch_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Position of the batch axis by input name: the axis named `batch`, else a leading axis of unknown size."""
    named: dict[str, int] = {}
    leading: dict[str, int] = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        for position, dim in enumerate(dims):
            if dim.dim_param == BATCH:
                named.setdefault(value.name, position)
        if dims and not dims[0].HasField("dim_value"):
            leading[value.name] = 0
    return named or leading


def _rows(batch: Batch, axes: Mapping[str, int]) -> int:
    return next((batch[name].shape[axis] for name, axis in axes.items() if name in batch), 1)


def _split(batch: Batch, axes: dict[str, int]) -> Iterator[list[Array]]:
    for row in range(_rows(batch, axes)):
        yield [array.take([row], axes[name]) if name in axes else array for name, array in batch.items()]


def _digest(arrays: list[Array]) -> bytes:
    digest = hashlib.sha256()
    for array in arrays:
        # The bytes of an array of strings are pointers.
        digest.update(
            repr(array.tolist()).encode() if array.dtype.kind == "O" else np.ascontiguousarray(array).tobytes()
        )
    return digest.digest()
