"""A histogram that costs the path of a request one addition per observation."""

from bisect import bisect_left
from collections.abc import Iterable

SECONDS = (
    *(1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds for durations: from a tenth of a millisecond to the longest that a call may take."""

ROWS = tuple(float(2**power) for power in range(11))
"""Upper bounds for rows of a batch."""


class Histogram:
    """A histogram with fixed upper bounds (inclusive), for one writer at a time.

    `counts` has one entry per bound, and a last one for what is above all of them; `total` is the sum of all observations.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Iterable[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
