"""Exact binomial tails, bounds and sample sizes of a share.

All tails are regularised incomplete beta functions (Clopper and Pearson, Biometrika 26, 1934).
"""

from collections.abc import Callable

from scipy.special import betainc, betaincinv

POWER = 0.8
"""Chance with which a stated sample size settles a question, if the observed share is the true one."""

_MOST = 10**9


def complement(share: float) -> float:
    """1 - share without the rounding error: 0.01 for 0.99, where plain subtraction gives 0.010000000000000009."""
    return round(1.0 - share, 12)


def at_most(count: int, n: int, share: float) -> float:
    """P(Bin(n, share) <= count)."""
    return 1.0 if count >= n else float(betainc(n - count, count + 1, 1.0 - share)) if count >= 0 else 0.0


def at_least(count: int, n: int, share: float) -> float:
    """P(Bin(n, share) >= count)."""
    return 1.0 if count <= 0 else float(betainc(count, n - count + 1, share)) if count <= n else 0.0


def lower_bound(count: int, n: int, confidence: float) -> float:
    """One-sided lower Clopper-Pearson bound of the share behind `count` of `n`."""
    return 0.0 if count == 0 else float(betaincinv(count, n - count + 1, complement(confidence)))


def upper_bound(count: int, n: int, confidence: float) -> float:
    """One-sided upper Clopper-Pearson bound of the share behind `count` of `n`."""
    return 1.0 if count == n else float(betaincinv(count + 1, n - count, confidence))


def fewest(count: int, share: float, alpha: float) -> int:
    """The smallest n with P(Bin(n, share) <= count) <= alpha: the fewest samples that show less than `share` with `count` hits."""
    low, high = count, count + 1
    while at_most(count, high, share) > alpha:
        low, high = high, 2 * high
    return _bisect(low, high, lambda n: at_most(count, n, share) <= alpha)


def most_hits(n: int, share: float, alpha: float) -> int:
    """The largest count with P(Bin(n, share) <= count) <= alpha, or -1: that many hits still show less than `share`."""
    return _bisect(-1, n, lambda count: at_most(count, n, share) > alpha) - 1


def least_hits(n: int, share: float, alpha: float) -> int:
    """The smallest count with P(Bin(n, share) >= count) <= alpha, or n + 1: that many hits already show more than `share`."""
    return _bisect(0, n + 1, lambda count: at_least(count, n, share) <= alpha)


def samples_to_show_less(share: float, truth: float, alpha: float, power: float = POWER) -> int | None:
    """Samples that show, with chance `power`, that a share which is `truth` is below `share`; None beyond 10^9.

    Power rises in a sawtooth: it falls while n grows with the same allowed number of hits. So each number is tried at its largest n.
    """
    gap = share - truth
    if gap <= 0:
        return None

    def enough(count: int) -> bool:
        return at_most(count, fewest(count + 1, share, alpha) - 1, truth) >= power

    high = 1
    while not enough(high):
        high *= 2
        if high > _MOST * share:
            return None
    count = 0 if enough(0) else _bisect(0, high, enough)
    return fewest(count, share, alpha)


def samples_to_show_more(share: float, truth: float, alpha: float, power: float = POWER) -> int | None:
    """Samples that show, with chance `power`, that a share which is `truth` is above `share`; None beyond 10^9."""
    return samples_to_show_less(1.0 - share, 1.0 - truth, alpha, power)


def _bisect(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The smallest number in (low, high] for which `holds`, given that it does for `high`."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
