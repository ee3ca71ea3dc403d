"""Refuse calibration inputs that look randomly generated: ranges from them say nothing about real data."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy import special

from optimize.arrays import Array
from optimize.errors import CandidateError

_LEAST_VALUES = 10_000
_MOST_VALUES = 100_000
_KOLMOGOROV_5_PERCENT = 1.358
_SIGMAS = 4.0


def refuse(batches: Sequence[dict[str, Array]]) -> None:
    """Refuse samples if a floating-point input looks like noise over all batches.

    Raises:
        CandidateError: One does.
    """
    for name, first in batches[0].items():
        if first.dtype.kind == "f" and is_noise(np.concatenate([batch[name].ravel() for batch in batches])):
            raise CandidateError(f"calibration input {name!r} looks like random noise; wanted real samples")


def is_noise(values: Array) -> bool:
    """Whether neighbours are uncorrelated and the values follow a normal or uniform distribution to within chance.

    Measured data hardly ever does: with ten thousand values the Kolmogorov-Smirnov test shows a deviation of 1.4 %. Fewer values
    are never called noise.
    """
    values = values[:_MOST_VALUES].astype(np.float64)
    if len(values) < _LEAST_VALUES or values.std() == 0:
        return False
    standard = (values - values.mean()) / values.std()
    correlated = abs(float(np.mean(standard[1:] * standard[:-1]))) > _SIGMAS / math.sqrt(len(values))
    return not correlated and min(_distances(np.sort(standard))) < _KOLMOGOROV_5_PERCENT / math.sqrt(len(values))


def _distances(ordered: Array) -> Iterator[float]:
    """Greatest differences between the values' distribution and the normal one, and the uniform one over their range."""
    share = (np.arange(len(ordered)) + 0.5) / len(ordered)
    for distribution in (special.ndtr(ordered), (ordered - ordered[0]) / (ordered[-1] - ordered[0])):
        yield float(np.abs(share - distribution).max())
