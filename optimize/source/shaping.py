"""Real samples brought to a wanted shape."""

from collections.abc import Mapping

import numpy as np

from optimize.arrays import Arrays
from optimize.budgets import BATCH
from optimize.manifest import TensorSpec
from optimize.source.samples import Batch


def shaped(inputs: tuple[TensorSpec, ...], batches: list[Batch], sizes: Mapping[str, int], offset: int = 0) -> Arrays:
    """Real samples at the wanted size of each named axis: longer ones are cut, shorter ones repeated.

    `offset` rotates the rows, so that different offsets give different inputs. Without samples, the inputs are zeros.
    """
    chosen: Arrays = {}
    for spec in inputs:
        if not batches:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in spec.shape]
            chosen[spec.name] = np.full(shape, "" if spec.dtype == "object" else 0, dtype=spec.dtype)
            continue
        array = batches[offset % len(batches)].inputs[spec.name]
        for axis, name in enumerate(spec.shape):
            if isinstance(name, str):
                start = offset if name == BATCH else 0
                array = array.take((np.arange(sizes[name]) + start) % array.shape[axis], axis=axis)
        chosen[spec.name] = array
    return chosen
