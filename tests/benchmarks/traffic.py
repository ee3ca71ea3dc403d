"""Latencies whose true percentile is known, independent or not, to try the rules on."""

import math
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Floats = npt.NDArray[np.float64]

SPREAD = 0.3
WARM_UP = 16_000


def ar1(runs: int, calls: int, phi: float, rng: np.random.Generator) -> Floats:
    """Log-normal latencies whose logarithm is an AR(1) process of coefficient `phi`; [runs, calls]."""
    shocks = rng.standard_normal((calls, runs))
    shocks[1:] *= math.sqrt(1.0 - phi * phi)
    for call in range(1, calls):
        shocks[call] += phi * shocks[call - 1]
    return np.exp(SPREAD * shocks.T)


def ar1_percentile(percentile: float) -> float:
    """The true percentile of :func:`ar1`, for every `phi`."""
    return math.exp(SPREAD * float(ndtri(percentile)))


def md1(runs: int, calls: int, load: float, rng: np.random.Generator) -> Floats:
    """Sojourn times, in service times, in a queue with Poisson arrivals, one server and constant service; [runs, calls].

    Lindley's recursion as a random walk above its running minimum, after a warm-up from an empty queue.
    """
    steps = 1.0 - rng.exponential(1.0 / load, (runs, WARM_UP + calls))
    walk = np.cumsum(steps, axis=1, out=steps)
    walk -= np.minimum.accumulate(np.minimum(walk, 0.0), axis=1)
    return walk[:, WARM_UP - 1 : -1] + 1.0


def md1_percentile(load: float, percentile: float) -> float:
    """The true percentile of :func:`md1`, by bisection of Erlang's formula for the waiting time.

    P(W <= t) = (1 - load) sum over j <= t of (load (j - t))^j exp(-load (j - t)) / j!, with service time 1. Its terms alternate and
    cancel, hence 80 digits.
    """
    low, high = 0.0, 100.0
    while high - low > 1e-9:
        middle = (low + high) / 2.0
        low, high = (low, middle) if _waits_at_most(middle, load) >= percentile else (middle, high)
    return 1.0 + high


def _waits_at_most(time: float, load: float) -> float:
    with localcontext() as context:
        context.prec = 80
        total, factorial = Decimal(0), Decimal(1)
        for served in range(int(time) + 1):
            factorial *= max(served, 1)
            early = Decimal(load) * (served - Decimal(time))
            total += (early**served if served else 1) * (-early).exp() / factorial
        return float((1 - Decimal(load)) * total)
