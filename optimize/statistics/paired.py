"""Bounds of the difference of two proportions that were observed on the same samples.

Tango's score interval (Statistics in Medicine 17, 891-908, 1998) contains the differences that a score test does not reject. If few
samples change sides, as with a good candidate, its one-sided errors are larger than stated: up to 6.8 % false passes and 8.9 % false
failures at 95 %. A continuity correction of half a sample and a Cornish-Fisher term for the skewness bring both to 5.0 % at most
(computed exactly, docs/statistics.md).
"""

import math

from scipy.optimize import brentq
from scipy.special import ndtri

from optimize.statistics.binomial import POWER

_HALF_SAMPLE = 0.5


def upper_bound(lost: int, won: int, n: int, confidence: float) -> float:
    """One-sided upper bound of the true drop, (lost - won) / n in the samples, by the corrected score test."""
    z = float(ndtri(confidence))

    def not_rejected(drop: float) -> float:
        variance, skewness = moments(lost, won, n, drop)
        critical = -z + (z * z - 1.0) * skewness / 6.0
        return (lost - won + _HALF_SAMPLE - n * drop) / math.sqrt(variance) - critical

    # The expansion dips for drops just above the observed one; from here on the test, once it rejects, always does.
    start = (lost - won) / n + z * z / (4.0 * n)
    end = 1.0 - 1e-12
    if start >= end or not_rejected(end) >= 0.0:
        return 1.0
    return float(brentq(not_rejected, start, end, xtol=1e-12))


def lower_bound(lost: int, won: int, n: int, confidence: float) -> float:
    """One-sided lower bound of the true drop: what one model lost the other won."""
    return -upper_bound(won, lost, n, confidence)


def pairs_to_settle(lost: int, won: int, n: int, max_drop: float, confidence: float) -> int | None:
    """Samples that would show, with chance 0.8, on which side of `max_drop` the drop is, if the shares stay the same.

    Normal approximation with the variance at the limit for the error and the observed one for the power, and the half sample; None if
    the observed drop is the limit.
    """
    gap = abs(max_drop - (lost - won) / n)
    if gap == 0.0 or not -1.0 < max_drop < 1.0:
        return None
    under_limit, _ = moments(lost, won, n, max_drop)
    observed = (lost + won - (lost - won) ** 2 / n) / n
    root = float(ndtri(confidence) * math.sqrt(under_limit / n) + ndtri(POWER) * math.sqrt(observed))
    pairs = (root / gap) ** 2
    return max(math.ceil(pairs / 4.0 * (1.0 + math.sqrt(1.0 + 4.0 * _HALF_SAMPLE / (pairs * gap))) ** 2), n + 1)


def moments(lost: int, won: int, n: int, drop: float) -> tuple[float, float]:
    """Variance and skewness of lost - won if the true drop is `drop`, with the maximum-likelihood share won."""
    linear = (2 * n - lost + won) * drop - lost - won
    constant = -won * drop * (1.0 - drop)
    won_share = (math.sqrt(max(linear * linear - 8.0 * n * constant, 0.0)) - linear) / (4.0 * n)
    won_share = max(won_share, 0.0, -drop)
    lost_share = won_share + drop
    variance = n * max(lost_share + won_share - drop * drop, 1e-300)
    third = lost_share * (1.0 - drop) ** 3 - won_share * (1.0 + drop) ** 3 - (1.0 - lost_share - won_share) * drop**3
    return variance, n * third / variance**1.5
