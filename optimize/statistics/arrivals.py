"""When each call is due: a schedule drawn before the first call is sent, which no answer can delay."""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Arrivals = Literal["poisson", "constant"]
Seconds = npt.NDArray[np.floating[Any]]


def schedule(kind: Arrivals, rate_qps: float, calls: int, rng: np.random.Generator) -> Seconds:
    """Times in seconds of exactly `calls` arrivals, ascending, within `calls / rate_qps` seconds from 0.

    Given their number, the arrivals of a Poisson process are independent and uniform over its span (Ross, Stochastic Processes,
    theorem 2.3.1): so the offered rate is the declared one to the call, and the gaps are those of a Poisson process.
    """
    span_s = calls / rate_qps
    if kind == "constant":
        return np.arange(calls) / rate_qps
    return np.sort(rng.uniform(0.0, span_s, calls))
