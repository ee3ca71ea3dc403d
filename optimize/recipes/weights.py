"""Weights as 8-bit integers."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from optimize.arrays import Array
from optimize.errors import CandidateError

_GREATEST = 127  # -128 is left unused, so that the range is symmetric and the zero point 0


class Int8(NamedTuple):
    """weight ~ values * scale, with one scale per channel."""

    values: npt.NDArray[np.int8]
    scale: npt.NDArray[np.float32]


def per_channel(weight: Array, axis: int, least_scale: Array | float = 0.0) -> Int8:
    """Round to the nearest step of each channel along `axis`, whose greatest magnitude becomes 127.

    `least_scale` bounds the steps from below. A channel of zeros gets the step 1.

    Raises:
        CandidateError: The weight holds NaN or infinity.
    """
    others = tuple(other for other in range(weight.ndim) if other != axis)
    greatest = np.maximum(weight.max(axis=others, initial=0.0), -weight.min(axis=others, initial=0.0))
    if not np.isfinite(greatest).all():
        raise CandidateError("a weight holds NaN or infinity; export the model again from a sound checkpoint")
    scale = np.maximum(greatest / _GREATEST, least_scale)
    scale = np.where(scale > np.finfo(np.float32).tiny, scale, 1.0).astype(np.float32)
    shape = [1] * weight.ndim
    shape[axis] = -1
    steps = weight / scale.reshape(shape)
    np.rint(steps, out=steps)
    np.clip(steps, -_GREATEST, _GREATEST, out=steps)
    return Int8(steps.astype(np.int8), scale)
