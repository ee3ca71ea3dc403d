"""How a version is run over the rows of a file, and how these are cut into tasks.

A row group is a task; a large one is cut into slices of limited bytes and time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

import msgspec

from optimize.budgets import BATCH
from optimize.manifest import Manifest, SessionOptions, Signature, TensorSpec
from optimize.runtime.batching.scheduling.curve import Curve

SLICE_BYTES = 64 << 20
"""The estimated bytes of a task's inputs and outputs, at most; a worker's peak is a small multiple of it."""

SHORTEST_TASK_S = 2.0
LONGEST_TASK_S = 60.0
TASKS_WANTED = 200
"""A kill loses at most the running tasks, so they are short; but a long job has no more than about this many parts."""

_STRING_BYTES = 64
_ITEM_BYTES = {"object": _STRING_BYTES, "bool": 1}


@dataclass(frozen=True, slots=True)
class Layout:
    """How each worker runs the model: its session's options, the rows of an execution at most, and the predicted seconds per row.

    `row_s` is 0 where nothing was measured.
    """

    options: SessionOptions
    batch: int
    row_s: float


def layout(manifest: Manifest) -> Layout:
    """The operating point that export measured as best for bulk, or else the measured session at its largest batch."""
    options, largest = manifest.artifact.options, manifest.signature.max_batch
    if manifest.bulk is None:
        return Layout(options, largest, Curve(manifest.curve).p95_s(largest) / largest)
    row_s = manifest.bulk.instances / manifest.bulk.rows_per_s
    return Layout(
        msgspec.structs.replace(options, threads=manifest.bulk.threads), min(manifest.bulk.batch, largest), row_s
    )


@dataclass(frozen=True, slots=True)
class Task:
    """The rows `first_row` to `first_row + rows - 1` of the file, which start `offset` rows into their row group."""

    index: int
    row_group: int
    offset: int
    first_row: int
    rows: int


def tasks(row_groups: Sequence[int], slice_rows: int, batch: int) -> tuple[Task, ...]:
    """Cut row groups of the given sizes into tasks of about `slice_rows` rows at most, in the order of the file.

    The slices of one row group have about the same size, and all but its last are whole batches. A file without rows is one empty
    task, so that its output has a part, and with it a schema.
    """
    found: list[Task] = []
    first_row = 0
    for group, rows in enumerate(row_groups):
        size = _slice_size(rows, slice_rows, batch)
        for offset in range(0, rows, size):
            taken = min(size, rows - offset)
            found.append(Task(len(found), group, offset, first_row + offset, taken))
        first_row += rows
    return tuple(found) or (Task(0, 0, 0, 0, 0),)


def _slice_size(rows: int, slice_rows: int, batch: int) -> int:
    if rows <= slice_rows:
        return max(rows, 1)
    slices = ceil(rows / slice_rows)
    return ceil(rows / slices / batch) * batch


def slice_rows(rows: int, row_bytes: float, row_s: float, batch: int) -> int:
    """Rows of one task at most, in whole batches.

    Args:
        rows: Rows of the whole file.
        row_bytes: Bytes that one row takes, inputs and outputs.
        row_s: Predicted seconds of one row; 0 where nothing was measured, and bytes alone decide.
        batch: Rows of one execution.
    """
    wanted = SLICE_BYTES / max(row_bytes, 1.0)
    if row_s > 0:
        task_s = min(max(rows * row_s / TASKS_WANTED, SHORTEST_TASK_S), LONGEST_TASK_S)
        wanted = min(wanted, task_s / row_s)
    return max(int(wanted) // batch, 1) * batch


def row_bytes(signature: Signature, stored_bytes: float) -> float:
    """Estimated bytes of one row's inputs and outputs, dynamic dimensions at their largest declared size.

    `stored_bytes` is the bytes of an input row in the file, which count where strings or undeclared dimensions are long.
    """
    inputs = sum(_tensor_bytes(spec, signature) for spec in signature.inputs)
    outputs = sum(_tensor_bytes(spec, signature) for spec in signature.outputs)
    return max(inputs, stored_bytes) + outputs


def _tensor_bytes(spec: TensorSpec, signature: Signature) -> int:
    sizes = [
        axis if isinstance(axis, int) else signature.dims[axis].max if axis in signature.dims else 1
        for axis in spec.shape
        if axis != BATCH
    ]
    return prod(sizes) * _item_bytes(spec.dtype)


def _item_bytes(dtype: str) -> int:
    """Bytes of one item, from the digits that end a numeric dtype's name."""
    return _ITEM_BYTES.get(dtype) or int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8
