"""The payloads of the calls: rows of a file, or inputs generated from the service's description of its model."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from optimize.arrays import Array
from optimize.budgets import BATCH, ModelBudgets
from optimize.errors import UserError
from protos import open_inference_pb2 as pb
from serve.client import codec

Rows = Mapping[str, Sequence[Any]]

COUNT = 64
MIN_DIFFERENT = 32
_DTYPES = {
    codec.datatype_of(name): np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "object"),
    )
}
_WORDS = ("good", "bad", "fast", "slow", "warm", "cold", "and", "not")


class Input(NamedTuple):
    """One input of one request: its dtype, its shape at the dims to be tested, and the axis that rows are stacked along."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batch_axis: int | None


def inputs_of(metadata: pb.ModelMetadataResponse, model: ModelBudgets) -> tuple[Input, ...]:
    """The inputs of one request: `latency.batch` rows, at the `opt` size of every other dynamic dimension.

    The service says which dimensions are dynamic; the budgets file has their names and sizes. Where it does not declare an input,
    a dynamic first axis is the batch, and another one is the only other dimension in `dims`.

    Raises:
        UserError: A datatype cannot be made, or the size of a dynamic dimension is unknown.
    """
    return tuple(_input(tensor, model) for tensor in metadata.inputs)


def _input(tensor: pb.ModelMetadataResponse.TensorMetadata, model: ModelBudgets) -> Input:
    if tensor.datatype not in _DTYPES:
        raise UserError(f"input {tensor.name!r} has datatype {tensor.datatype}; wanted one of {', '.join(_DTYPES)}")
    names = [
        None if size >= 0 else _axis_name(tensor.name, axis, len(tensor.shape), model)
        for axis, size in enumerate(tensor.shape)
    ]
    shape = tuple(
        int(size) if name is None else model.latency.batch if name == BATCH else model.dims[name].opt
        for size, name in zip(tensor.shape, names, strict=True)
    )
    return Input(tensor.name, _DTYPES[tensor.datatype], shape, names.index(BATCH) if BATCH in names else None)


def _axis_name(name: str, axis: int, rank: int, model: ModelBudgets) -> str:
    declared = model.inputs.get(name)
    if declared is not None and len(declared.shape) == rank and isinstance(declared.shape[axis], str):
        return str(declared.shape[axis])
    if axis == 0:
        return BATCH
    others = [dim for dim in model.dims if dim != BATCH]
    if len(others) != 1:
        raise UserError(
            f"input {name!r}: the service leaves axis {axis} open, and the budgets file does not give its size;"
            f" declare `shape` in [models.NAME.inputs.{name}] and its size in [models.NAME.dims]"
        )
    return others[0]


def make(inputs: Sequence[Input], rng: np.random.Generator, count: int = COUNT) -> list[dict[str, Array]]:
    """Requests of random inputs: floats are standard normal, integers and booleans 0 or 1, strings a few short words.

    Integers stay that small because they are often indices or masks, and larger values would be invalid.
    """
    return [{item.name: _random(item, rng) for item in inputs} for _ in range(count)]


def _random(item: Input, rng: np.random.Generator) -> Array:
    match item.dtype.kind:
        case "f":
            return np.asarray(rng.standard_normal(item.shape), item.dtype)
        case "O":
            words = [" ".join(rng.choice(_WORDS, 6)) for _ in range(math.prod(item.shape))]
            return np.array(words, object).reshape(item.shape)
    return np.asarray(rng.integers(0, 2, item.shape), item.dtype)


def read(path: Path, inputs: Sequence[Input], rng: np.random.Generator, count: int = COUNT) -> list[dict[str, Array]]:
    """Requests of rows drawn from a file that has one column (.parquet) or array (.npz) per input; others are not read.

    Raises:
        UserError: The file cannot be read, an input is missing, a row does not fit its input, or too few requests are different.
    """
    columns = _columns(path, [item.name for item in inputs])
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) != 1:
        raise UserError(f"{path}: columns have {lengths} rows; wanted one length")
    total = next(iter(lengths.values()))
    per_request = max([item.shape[item.batch_axis] for item in inputs if item.batch_axis is not None], default=1)
    if total < max(per_request, MIN_DIFFERENT):
        raise UserError(f"{path}: has {total} rows; wanted at least {max(per_request, MIN_DIFFERENT)}")
    order = np.concatenate([rng.permutation(total) for _ in range(-(-count * per_request // total))])
    return [
        {item.name: _stack(path, item, [columns[item.name][row] for row in chosen]) for item in inputs}
        for chosen in order[: count * per_request].reshape(count, per_request)
    ]


def _columns(path: Path, wanted: Sequence[str]) -> Rows:
    try:
        found = _read_npz(path, wanted) if path.suffix == ".npz" else _read_parquet(path, wanted)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; wanted a .npz or .parquet file with inputs {', '.join(wanted)}"
        ) from None
    except (OSError, ValueError) as error:  # pyarrow's and zipfile's errors of damaged files are among these
        raise UserError(f"{path}: cannot be read as .npz or .parquet: {error}") from None
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f"{path}: has no column {missing[0]!r}; wanted one for each input: {', '.join(wanted)}")
    return found


def _read_npz(path: Path, wanted: Sequence[str]) -> Rows:
    with np.load(path) as archive:
        return {name: archive[name] for name in wanted if name in archive.files}


def _read_parquet(path: Path, wanted: Sequence[str]) -> Rows:
    import pyarrow.parquet  # noqa: PLC0415 - only a Parquet file needs it

    with pyarrow.parquet.ParquetFile(path) as file:
        names = [name for name in wanted if name in file.schema_arrow.names]
        table = file.read(columns=names)
    return {name: table.column(name).to_pylist() for name in names}


def _stack(path: Path, item: Input, rows: Sequence[Any]) -> Array:
    """Rows as one input of a request: along its batch axis, or the first alone where it has none."""
    if item.batch_axis is None:
        return _cast(path, item, rows[0], item.shape)
    row_shape = item.shape[: item.batch_axis] + item.shape[item.batch_axis + 1 :]
    arrays = [_cast(path, item, row, row_shape) for row in rows]
    if len({array.shape for array in arrays}) != 1:
        raise UserError(
            f"{path}: rows of {item.name!r} differ in shape, such as {arrays[0].shape}; wanted one shape, or latency.batch = 1"
        )
    return np.stack(arrays, axis=item.batch_axis)


def _cast(path: Path, item: Input, row: Any, shape: tuple[int, ...]) -> Array:
    array = np.asarray(row, object if item.dtype.kind == "O" else None)
    if array.ndim != len(shape):  # Parquet stores a tensor as a flat list
        if array.size != math.prod(shape):
            raise UserError(f"{path}: a row of {item.name!r} has shape {array.shape}; wanted {shape}")
        array = array.reshape(shape)
    if not np.can_cast(array.dtype, item.dtype, "same_kind"):
        raise UserError(f"{path}: column {item.name!r} has dtype {array.dtype}; wanted {item.dtype}")
    cast = array.astype(item.dtype)
    if item.dtype.kind in "iu" and not np.array_equal(cast, array):
        raise UserError(f"{path}: column {item.name!r} has values beyond {item.dtype}; wanted only values that fit")
    return cast


def encode(model: str, requests: Sequence[Mapping[str, Array]]) -> tuple[bytes, ...]:
    """Whole requests, ready for the wire."""
    return tuple(codec.write_request(model, request).SerializeToString() for request in requests)
