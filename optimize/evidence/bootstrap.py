"""Resampling with replacement, seeded and in bounded memory."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

DRAWS = 10_000
FEWER_DRAWS = 1_000
SLOW_EVALUATION_S = 0.010

_CHUNK_ENTRIES = 1 << 21

Indices = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


def means(values: npt.NDArray[np.floating[Any]], seed: int, draws: int = DRAWS) -> Floats:
    """Means of `draws` resamples of the values."""
    rng = np.random.default_rng(seed)
    n = len(values)
    rows = max(1, _CHUNK_ENTRIES // n)
    found = np.empty(draws)
    for start in range(0, draws, rows):
        stop = min(start + rows, draws)
        found[start:stop] = values[rng.integers(0, n, (stop - start, n), dtype=np.int32)].mean(axis=1)
    return found


def statistics(statistic: Callable[[Indices], float], n: int, seed: int, draws: int | None = None) -> Floats:
    """A statistic of `draws` resamples of n indices; by default 10,000, and 1,000 where one evaluation takes over 10 ms."""
    rng = np.random.default_rng(seed)
    if draws is None:
        draws = DRAWS if _seconds(statistic, n) <= SLOW_EVALUATION_S else FEWER_DRAWS
    return np.array([statistic(rng.integers(0, n, n)) for _ in range(draws)], float)


def _seconds(statistic: Callable[[Indices], float], n: int) -> float:
    """Time of one evaluation, the quickest of three, since the first one pays for what the others find warm."""
    indices = np.arange(n)
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        statistic(indices)
        taken.append(time.perf_counter() - begun)
    return min(taken)
