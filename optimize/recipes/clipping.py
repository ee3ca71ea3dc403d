"""Choose how much of a tensor's range to keep. Clipping rare extremes leaves finer steps for the rest.

Both rules are pure functions of a histogram over the whole range.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from optimize.arrays import Array
from optimize.recipes.ranges import Range

PERCENTILE = 99.99
_LEVELS = 128  # magnitudes that eight bits can represent
_STRIDE_BINS = 8


class Histogram(NamedTuple):
    """Counts in bins of equal width between `low` and `high`."""

    counts: npt.NDArray[np.int64]
    low: float
    high: float

    @property
    def edges(self) -> Array:
        """The limits of the bins, one more than there are bins."""
        return np.linspace(self.low, self.high, len(self.counts) + 1)


def percentile(histogram: Histogram, share: float = PERCENTILE) -> Range:
    """The range outside which (100 - share) / 2 percent of the values lie on either side, zero included."""
    total = histogram.counts.sum()
    if total == 0:
        return Range(0.0, 0.0)
    tail = total * (100 - share) / 200
    below = np.cumsum(histogram.counts)
    above = total - below
    edges = histogram.edges
    low = edges[np.searchsorted(below, tail, side="right")]
    high = edges[1 + np.searchsorted(-above, -tail, side="left")]
    return Range(min(float(low), 0.0), max(float(high), 0.0))


def entropy(histogram: Histogram) -> Range:
    """The range whose 8-bit form of the magnitudes loses least information, by relative entropy.

    Source: S. Migacz, "8-bit Inference with TensorRT", GPU Technology Conference 2017. The bin at zero is left out, since every
    scale represents zero exactly and a ReLU fills it.
    """
    if histogram.counts.sum() == 0:
        return Range(histogram.low, histogram.high)
    magnitudes, width = _magnitudes(histogram)
    magnitudes[0] = 0
    if magnitudes.sum() == 0:
        return Range(histogram.low, histogram.high)
    kept = range(_LEVELS, len(magnitudes) + 1, _STRIDE_BINS)
    best = min(kept, key=lambda bins: divergence(magnitudes, bins), default=len(magnitudes))
    limit = best * width
    return Range(max(histogram.low, -limit), min(histogram.high, limit))


def divergence(magnitudes: Array, bins: int) -> float:
    """Relative entropy of the distribution clipped to its first `bins` against its form in 128 levels, in nats."""
    clipped = magnitudes[:bins].astype(np.float64)
    level = np.arange(bins) * _LEVELS // bins
    present = clipped > 0
    # Each level spreads its count evenly over its bins that are not empty.
    filled = np.bincount(level, present, _LEVELS)
    mean = np.bincount(level, clipped, _LEVELS) / np.maximum(filled, 1)
    rendered = np.where(present, mean[level], 0.0)
    clipped[-1] += magnitudes[bins:].sum()
    if rendered.sum() == 0:
        return float("inf")
    p, q = clipped / clipped.sum(), rendered / rendered.sum()
    if np.any((p > 0) & (q == 0)):
        return float("inf")
    held = p > 0
    return float(np.sum(p[held] * np.log(p[held] / q[held])))


def _magnitudes(histogram: Histogram) -> tuple[Array, float]:
    """Counts of |x| in bins of the histogram's width, and that width."""
    width = (histogram.high - histogram.low) / len(histogram.counts)
    centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    index = np.minimum(np.abs(centres) // width, len(histogram.counts) - 1).astype(np.int64)
    counts = np.bincount(index, histogram.counts, minlength=1)
    return counts, width
