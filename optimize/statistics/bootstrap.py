"""Resampling with replacement, seeded and in bounded memory."""

import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from optimize.statistics.binomial import complement

DRAWS = 10_000
FEWER_DRAWS = 1_000
SLOW_EVALUATION_S = 0.010

_CHUNK_ENTRIES = 1 << 20

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


def medians(values: Floats, seed: int) -> Floats:
    """Medians of 10,000 resamples of the values."""
    return np.concatenate([np.median(drawn, axis=1) for drawn in _resamples(values, seed)])


def statistics(statistic: Callable[[Indices], float], n: int, seed: int, draws: int | None = None) -> Floats:
    """A statistic of `draws` resamples of n indices; by default 10,000, or 1,000 if one evaluation takes over 10 ms."""
    rng = np.random.default_rng(seed)
    if draws is None:
        draws = DRAWS if _seconds(statistic, n) <= SLOW_EVALUATION_S else FEWER_DRAWS
    return np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)], float)


def mean_bounds(values: Floats, confidence: float, seed: int) -> tuple[float, float]:
    """One-sided bounds of the mean, each at `confidence`: the wider of the percentile's and the bootstrap-t's.

    Percentiles of resampled means are too narrow if the values are skewed; studentised, they follow the skewness (Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12 and 13).
    """
    moments = [(drawn.mean(axis=1), drawn.std(axis=1)) for drawn in _resamples(values, seed)]
    means, deviations = (np.concatenate(part) for part in zip(*moments, strict=True))
    mean, deviation = float(values.mean()), float(values.std())
    alpha = complement(confidence)
    low, high = np.quantile(means, [alpha, confidence])
    usable = deviations > 0.0
    if usable.any():
        # A resample without spread has no studentised mean: it counts as the farthest on its side.
        far = np.where(means > mean, np.inf, np.where(means < mean, -np.inf, 0.0))
        studentised = np.divide(means - mean, deviations, out=far, where=usable)
        least, most = np.quantile(studentised, [alpha, confidence], method="nearest")
        low = min(low, mean - deviation * most) if np.isfinite(most) else low
        high = max(high, mean - deviation * least) if np.isfinite(least) else high
    return float(low), float(high)


def wider_bounds(found: Floats, observed: float, confidence: float) -> tuple[float, float]:
    """One-sided bounds of a statistic from its resamples, each at `confidence`: the wider of their percentiles and the reflected ones.

    Either alone is too narrow on one side if the resamples are skewed, as they are when few samples make the difference.
    """
    low, high = (float(bound) for bound in np.quantile(found, [complement(confidence), confidence]))
    return min(low, 2.0 * observed - high), max(high, 2.0 * observed - low)


def _resamples(values: Floats, seed: int) -> Iterator[Floats]:
    """10,000 resamples of the values, as rows of arrays of bounded size."""
    rng = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, _CHUNK_ENTRIES // n)
    for start in range(0, DRAWS, rows):
        yield values[rng.integers(0, n, (min(rows, DRAWS - start), n), dtype=np.int32)]


def _seconds(statistic: Callable[[Indices], float], n: int) -> float:
    """Time of one evaluation, the fastest of three, since the first one warms the caches."""
    indices = np.arange(n)
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        statistic(indices)
        taken.append(time.perf_counter() - begun)
    return min(taken)
