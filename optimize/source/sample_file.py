"""The samples of a .npz or .parquet file, cut into the three splits."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from optimize.arrays import Array, Arrays
from optimize.errors import SourceError
from optimize.manifest import Signature
from optimize.source.samples import SPLITS, Batch, Split, checked_array, is_discrete, row_digest

# 10 % of the rows calibrate, 45 % select, 45 % confirm.
_CALIBRATION_SHARE, _SELECTION_SHARE = 0.10, 0.55
_HASH_RANGE = 2**32
# By chance alone a label with as many different rows misses one of the two judged splits in one of 10^10 files.
_ROWS_IN_EVERY_SPLIT = 40


def splits_from_file(path: Path, signature: Signature) -> dict[Split, list[Batch]]:
    """The rows of a .npz or .parquet file, each in the split that the hash of its inputs selects.

    So a row stays in its split when others are added or removed, and each label is split in the same shares, to within chance.

    The first axis of a column is the row, wherever the model has its batch axis. If some input has no batch axis, each row is a
    separate request.

    Raises:
        SourceError: The file cannot be read, its columns differ in length, or a split gets no row, or none of a common label.
    """
    columns = {name: checked_array(column, f"{path}: column {name!r}") for name, column in _columns(path).items()}
    labels = columns.pop("label", None)
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    lengths |= {} if labels is None else {"label": len(labels) if labels.ndim else 0}
    count = next(iter(lengths.values()), 0)
    if not columns or not count or len(set(lengths.values())) != 1:
        raise SourceError(f"{path}: columns have {lengths} rows; wanted one column per input, all of one length")
    splits = np.array(
        [_split_of(row_digest({n: c[i] for n, c in columns.items()})) for i in range(count)], dtype=object
    )
    _check_labels_everywhere(path, labels, splits)
    found: dict[Split, list[Batch]] = {}
    for split in SPLITS:
        chosen = np.flatnonzero(splits == split)
        if not chosen.size:
            raise SourceError(f"{path}: no row of its {count} falls into {split}; wanted more rows")
        found[split] = _arranged(columns, labels, chosen, signature)
    return found


def _check_labels_everywhere(path: Path, labels: Array | None, splits: Array) -> None:
    """Refuse a file if a split that judges has no row of a common label, because its rows are few and repeat."""
    if labels is None or not is_discrete(labels, len(splits)):
        return
    judged = {split: set(labels[splits == split].tolist()) for split in SPLITS[1:]}
    for label, count in Counter(labels.tolist()).items():
        for split, there in judged.items():
            if count >= _ROWS_IN_EVERY_SPLIT and label not in there:
                raise SourceError(
                    f"{path}: none of the {count} rows with label {label!r} falls into {split}; equal rows stay together, so"
                    " remove those that repeat and add others"
                )


def _arranged(columns: Arrays, labels: Array | None, chosen: npt.NDArray[np.intp], signature: Signature) -> list[Batch]:
    axes = {spec.name: spec.batch_axis for spec in signature.inputs}
    together = all(axes.get(name, 0) is not None for name in columns)
    groups = [chosen] if together else [chosen[index : index + 1] for index in range(len(chosen))]
    return [
        Batch(
            {name: _placed(column[group], axes.get(name, 0)) for name, column in columns.items()},
            None if labels is None else labels[group],
        )
        for group in groups
    ]


def _placed(rows: Array, axis: int | None) -> Array:
    """Rows along the model's batch axis; if it has none, the single row itself."""
    placed: Array = rows[0] if axis is None else np.moveaxis(rows, 0, axis) if axis < rows.ndim else rows
    return placed


def _columns(path: Path) -> Arrays:
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file) as archive:
                return {name: archive[name] for name in archive.files}
        import pyarrow.parquet  # noqa: PLC0415 - only a Parquet source needs it

        table = pyarrow.parquet.read_table(path)
        return {name: _column(table.column(name), f"{path}: column {name!r}") for name in table.column_names}
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file; `data` is relative to the budgets file") from None
    except SourceError:
        raise
    except Exception as error:  # the two readers raise many unrelated classes for a damaged file
        raise SourceError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


def _column(column: Any, what: str) -> Array:
    """An Arrow column as an array of its own dtype; lists of one length become further axes."""
    import pyarrow.compute  # noqa: PLC0415
    from pyarrow.types import is_fixed_size_list, is_large_list, is_list  # noqa: PLC0415

    values, shape = column.combine_chunks(), [len(column)]
    while is_list(values.type) or is_large_list(values.type) or is_fixed_size_list(values.type):
        sizes = pyarrow.compute.unique(pyarrow.compute.list_value_length(values)).to_pylist()
        if len(sizes) != 1 or sizes[0] is None:
            raise SourceError(
                f"{what} has rows of different shapes; wanted one shape, or a callable that yields batches"
            )
        shape.append(sizes[0])
        values = values.flatten()
    if values.null_count:
        raise SourceError(f"{what} holds {values.null_count} nulls; wanted a value in every row")
    array: Array = values.to_numpy(zero_copy_only=False).reshape(shape)
    return array


def _split_of(digest: bytes) -> Split:
    share = int.from_bytes(digest[:4], "big") / _HASH_RANGE
    if share < _CALIBRATION_SHARE:
        return "calibration"
    return "selection" if share < _SELECTION_SHARE else "confirmation"
