"""One definition of a percentile for the whole project: the inverted empirical distribution.

The percentile p of n latencies is the ceil(p n)-th smallest. It is a measured latency, and it is over a limit exactly when more than
n - ceil(p n) calls are over it, so that counting violations and comparing percentiles never disagree.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt


def rank(n: int, percentile: float) -> int:
    """Position (from 1) of the percentile among n sorted values."""
    return max(math.ceil(percentile * n), 1)


def quantile(values: npt.NDArray[np.floating[Any]], percentile: float) -> float:
    """The percentile (a share, such as 0.99) of the values; infinity counts as larger than any.

    Raises:
        ValueError: There are no values, or one is not a number.
    """
    if not len(values):
        raise ValueError("no values to take a percentile of")
    if np.isnan(values).any():
        raise ValueError("a value is not a number; a call that failed counts as infinity")
    position = rank(len(values), percentile) - 1
    return float(np.partition(values, position)[position])


def named(percentile: float) -> str:
    """The usual name: p99 for 0.99."""
    return f"p{round(100 * percentile, 6):g}"
