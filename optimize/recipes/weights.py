"""Weights as 8-bit integers."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_GREATEST = 127  # -128 is left unused, so that the range is symmetric and the zero point 0


class Int8(NamedTuple):
    """weight ~ values * scale, with one scale per channel."""

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def per_channel(weight: Array, axis: int, least_scale: Array | float = 0.0) -> Int8:
    """Round to the nearest step of each channel along `axis`, whose greatest magnitude becomes 127.

    `least_scale` bounds the steps from below. A channel of zeros gets the step 1.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    scale = np.maximum(np.abs(weight).max(axis=others, initial=0.0) / _GREATEST, least_scale)
    return _rounded(weight, np.where(scale > np.finfo(np.float32).tiny, scale, 1.0), axis)


def per_tensor(weight: Array) -> Int8:
    """Round to the nearest step of one scale for the whole tensor."""
    scale = np.abs(weight).max(initial=0.0) / _GREATEST
    return _rounded(weight, np.asarray(scale if scale > np.finfo(np.float32).tiny else 1.0), None)


def _rounded(weight: Array, scale: Array, axis: int | None) -> Int8:
    scale = scale.astype(np.float32)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    steps = np.rint(weight / scale.reshape(shape))
    return Int8(np.clip(steps, -_GREATEST, _GREATEST).astype(np.int8), scale)
