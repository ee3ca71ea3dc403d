"""A split on disk: an .npz with arrays `INDEX/in/NAME` and `INDEX/labels` for each batch.

Later stages read it and need neither the user's code nor its libraries.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from optimize.arrays import Array, Arrays
from optimize.source.samples import Batch


def store_split(path: Path, batches: Iterable[Batch]) -> None:
    """Write a split."""
    arrays: Arrays = {}
    for index, batch in enumerate(batches):
        for name, value in batch.inputs.items():
            arrays[f"{index}/in/{name}"] = storable(value)
        if batch.labels is not None:
            arrays[f"{index}/labels"] = storable(batch.labels)
    np.savez(path, allow_pickle=False, **arrays)


def storable(array: Array) -> Array:
    """The array as an .npz file can hold it: strings at a fixed width, since an object array would need pickle."""
    return array.astype(str) if array.dtype == object else array


def read_split(path: Path) -> list[Batch]:
    """Read a split that :func:`store_split` wrote. Strings become objects, as sessions take them."""
    inputs: dict[int, Arrays] = {}
    labels: dict[int, Array] = {}
    with np.load(path, allow_pickle=False) as archive:
        for key in archive.files:
            index, kind, *name = key.split("/", 2)
            value = archive[key]
            if kind == "labels":
                labels[int(index)] = value
            else:
                inputs.setdefault(int(index), {})[name[0]] = value.astype(object) if value.dtype.kind == "U" else value
    return [Batch(inputs[index], labels.get(index)) for index in sorted(inputs)]
