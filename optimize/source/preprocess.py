"""Raw columns to a model's inputs, by the user's callable."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.errors import SourceError
from optimize.source.imports import attribute, user_code
from optimize.source.samples import Batch

_ROWS = 32


class Preprocess:
    """`preprocess` of budgets.toml: a callable(dict of raw columns, one entry per row) -> dict of the model's inputs."""

    def __init__(self, spec: str, base: Path) -> None:
        self._spec = spec
        self._function: Callable[[Arrays], Mapping[str, Any]] = attribute(spec, base)

    def __call__(self, columns: Arrays) -> Arrays:
        """The model's inputs for some rows.

        Raises:
            SourceError: The callable fails, or returns something other than a dict of arrays.
        """
        with user_code(f"{self._spec} failed on columns {sorted(columns)}"):
            inputs = self._function(columns)
        if not isinstance(inputs, Mapping):
            raise SourceError(f"{self._spec} gave {type(inputs).__name__}; wanted a dict of input name -> array")
        return {name: _as_fed(np.asarray(value)) for name, value in inputs.items()}

    def batches(self, raw: Iterable[Batch]) -> list[Batch]:
        """Batches of raw columns as batches of inputs of at most 32 rows, since rows of a batch share one shape."""
        return [Batch(self(part.inputs), part.labels) for batch in raw for part in _parts(batch)]


def _as_fed(array: Array) -> Array:
    """Strings are objects to onnxruntime."""
    return array.astype(object) if array.dtype.kind == "U" else array


def _parts(batch: Batch) -> Iterator[Batch]:
    rows = len(next(iter(batch.inputs.values())))
    for start in range(0, rows, _ROWS):
        stop = start + _ROWS
        labels = None if batch.labels is None else batch.labels[start:stop]
        yield Batch({name: column[start:stop] for name, column in batch.inputs.items()}, labels)


def raw_requests(raw: Iterable[Batch], rows: int, count: int) -> list[Batch]:
    """The first `count` requests of `rows` rows each, as raw columns."""
    found: list[Batch] = []
    for batch in raw:
        total = len(next(iter(batch.inputs.values())))
        for start in range(0, total - rows + 1, rows):
            if len(found) == count:
                return found
            found.append(Batch({name: column[start : start + rows] for name, column in batch.inputs.items()}, None))
    return found
